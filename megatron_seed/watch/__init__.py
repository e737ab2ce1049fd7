"""Jobs that stand still, processes that died, ranks that are slow: noticed, and named."""
