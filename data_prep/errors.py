"""The one error of this package that is meant for the user."""


class DataError(ValueError):
    """Something about the data is wrong; the message is one line: what, where, and what would be right."""
