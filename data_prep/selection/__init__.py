"""How a selection is made: steps over documents shards and over partitions, none of which sees the whole corpus."""
