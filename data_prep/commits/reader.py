"""Reading a target line by line."""

from data_prep.commits.changes import lines_of
from data_prep.errors import DataError


class Lines:
    """Lines of a text, taken one after the other."""

    def __init__(self, text: str) -> None:
        self._lines = lines_of(text)
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._lines)

    def take(self, lacking: str = "a change ends too early") -> str:
        """The next line with its end. Raises `DataError` saying `lacking` where there is none."""
        if not self:
            raise DataError(lacking)
        self._at += 1
        return self._lines[self._at - 1]

    def next_starts(self, prefix: str) -> bool:
        return bool(self) and self._lines[self._at].startswith(prefix)

    def next_is(self, line: str) -> bool:
        return bool(self) and self._lines[self._at] == line

    def skip(self, prefix: str) -> bool:
        """Takes `prefix` off the next line, and says whether it was there."""
        if not prefix or not self.next_starts(prefix):
            return False
        self._lines[self._at] = self._lines[self._at][len(prefix) :]
        self._at += not self._lines[self._at]
        return True
