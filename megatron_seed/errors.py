"""The one error that is meant for a person to read."""


class SeedError(ValueError):
    """Something the user can put right: one line saying what is wrong, where, and what would be right."""
