"""Where shard functions run: each engine runs the same functions on the same arguments."""
