"""Annotators: what can be said of one document at a time (base: how one is written; isolation: where it runs)."""
