"""The high-quality subset of a corpus: documents like chosen seeds, found in rounds of fastText recall."""
