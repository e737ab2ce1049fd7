"""BM25 over the files of a snapshot, which from one commit to the next changes in a few files only.

The index follows the commits: a file that changes is taken out and put in again, everything else stays. Scores are
those of bm25s (its default: Lucene's formula, k1 1.5, b 0.75) over the same words; bm25s itself indexes a collection
that stays as it is, so it would have to index every snapshot anew.
"""

import re
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np
import pygit2
from pygit2.enums import DeltaStatus, FileMode

from data_prep.commits.changes import FAILURES, LeftOut, path_of, text_of, tree_diff

K1, B = 1.5, 0.75
# XMLParser_v2 is xml, parser, v, 2; a run of letters that are not all ASCII is one word.
_ASCII_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_WORD = re.compile(r"[^\W\d_]*[^\W\d_A-Za-z][^\W\d_]*|" + _ASCII_WORD.pattern)
_REGULAR = (FileMode.BLOB, FileMode.BLOB_EXECUTABLE)
_CACHE_BYTES = 128 << 20
_WORD_BYTES = 12  # of an index entry, in the three arrays of the index and in the cache alike

Words = tuple[np.ndarray, np.ndarray, int]  # ids of the different words, how often each occurs, words in all


def words_of(text: str) -> list[str]:
    """The words of a text in small letters; identifiers are taken apart at capitals, digits and underscores."""
    pattern = _ASCII_WORD if text.isascii() else _WORD
    return [word.lower() for word in pattern.findall(text)]


class Bm25:
    """Files that come and go, ranked for a query."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._slots: dict[str, int] = {}  # path -> slot
        self._paths: list[str] = []  # by slot
        self._lengths = np.zeros(64, np.int64)  # by slot; words of the file
        self._there = np.zeros(64, bool)  # by slot
        self._entries = np.zeros((3, 1024), np.int32)  # word, slot, how often
        self._used = 0
        self._dead = 0

    def words(self, text: str) -> Words:
        counts = Counter(words_of(text))
        known = self._ids
        ids = np.fromiter((known.setdefault(word, len(known)) for word in counts), np.int32, len(counts))
        return ids, np.fromiter(counts.values(), np.int32, len(counts)), sum(counts.values())

    def add(self, path: str, *parts: Words) -> None:
        """Puts a file in, in place of what there was under its path; its words are those of all parts."""
        self.remove(path)
        slot = len(self._paths)
        self._slots[path] = slot
        self._paths.append(path)
        if slot == len(self._there):
            self._lengths = np.resize(self._lengths, 2 * slot)
            self._there = np.concatenate([self._there, np.zeros(slot, bool)])
        self._lengths[slot], self._there[slot] = sum(part[2] for part in parts), True
        ids, places = np.unique(np.concatenate([part[0] for part in parts]), return_inverse=True)
        counts = np.bincount(places, np.concatenate([part[1] for part in parts]), len(ids))
        end = self._used + len(ids)
        if end > self._entries.shape[1]:
            grown = np.zeros((3, 2 * end), np.int32)
            grown[:, : self._used] = self._entries[:, : self._used]
            self._entries = grown
        self._entries[:, self._used : end] = ids, np.full(len(ids), slot), counts
        self._used = end

    def remove(self, path: str) -> None:
        slot = self._slots.pop(path, None)
        if slot is None:
            return
        self._there[slot] = False
        self._dead += 1
        if self._dead > 1000 and self._dead > len(self._slots):
            self._compact()

    def _compact(self) -> None:
        """Forgets the files that are gone."""
        entries = self._entries[:, : self._used]
        entries = entries[:, self._there[entries[1]]]
        slots = sorted(self._slots.values())
        moved = np.zeros(len(self._paths), np.int32)
        moved[slots] = np.arange(len(slots))
        entries[1] = moved[entries[1]]
        self._entries, self._used, self._dead = entries, entries.shape[1], 0
        self._paths = [self._paths[slot] for slot in slots]
        self._slots = {path: slot for slot, path in enumerate(self._paths)}
        self._lengths, self._there = self._lengths[slots], np.ones(len(slots), bool)
        if not slots:
            self._lengths, self._there = np.zeros(64, np.int64), np.zeros(64, bool)

    def scores(self, query: Iterable[str]) -> dict[str, float]:
        """The score of every file that holds a word of the query; a word counts as often as the query has it."""
        times = Counter(self._ids[word] for word in query if word in self._ids)
        if not times or not self._slots:
            return {}
        weight = np.zeros(len(self._ids), np.float64)
        weight[list(times)] = list(times.values())
        entries = self._entries[:, : self._used]
        words, slots, counts = entries[:, np.flatnonzero(weight[entries[0]])]
        there = self._there[slots]
        words, slots, counts = words[there], slots[there], counts[there]
        lengths = self._lengths[: len(self._paths)]
        files = len(self._slots)
        average = lengths[self._there[: len(lengths)]].sum() / files
        in_files = np.bincount(words, minlength=len(weight))[words]
        rarity = np.log(1 + (files - in_files + 0.5) / (in_files + 0.5))
        share = counts / (counts + K1 * (1 - B + B * lengths[slots] / average))
        found = np.bincount(slots, weight[words] * rarity * share)
        return {self._paths[slot]: float(found[slot]) for slot in np.unique(slots).tolist()}


class SnapshotIndex:
    """The ranked files of one snapshot of a repository after the other."""

    def __init__(self, repository: pygit2.Repository, max_file_bytes: int) -> None:
        self._repository = repository
        self._max_file_bytes = max_file_bytes
        self._bm25 = Bm25()
        self._tree: pygit2.Tree | None = None
        self._blobs: dict[str, pygit2.Oid] = {}  # path -> content, of the files that are ranked
        self._cache: OrderedDict[pygit2.Oid, Words | None] = OrderedDict()
        self._cached_bytes = 0

    def move(self, tree: pygit2.Tree) -> None:
        """From the snapshot before to the one of `tree`."""
        if self._tree is None:
            diff = tree.diff_to_tree(swap=True)
        elif self._tree.id == tree.id:
            return
        else:
            diff = tree_diff(self._repository, self._tree, tree)
        self._tree = tree
        for delta in diff.deltas:
            path = path_of(delta.new_file.raw_path)  # the same on both sides: renames are not looked for here
            if path is None:
                continue
            if self._blobs.pop(path, None) is not None:
                self._bm25.remove(path)
            if delta.status != DeltaStatus.DELETED and delta.new_file.mode in _REGULAR:
                self._put(path, delta.new_file.id)

    def _put(self, path: str, blob: pygit2.Oid) -> None:
        found = self._words(blob)
        if found is not None:
            self._bm25.add(path, found, self._bm25.words(path))
            self._blobs[path] = blob

    def _words(self, blob: pygit2.Oid) -> Words | None:
        """The words of a file's text, looked for once for all snapshots; None for what is no text, too large, or cannot
        be read (a partial clone lacks it), so that all others of its snapshot are ranked."""
        if blob in self._cache:
            self._cache.move_to_end(blob)
            return self._cache[blob]
        try:
            text = text_of(self._repository, blob, self._max_file_bytes)
        except FAILURES:
            text = LeftOut("damaged_git", "")
        found = None if isinstance(text, LeftOut) else self._bm25.words(text)
        self._cache[blob] = found
        self._cached_bytes += _size(found)
        while self._cached_bytes > _CACHE_BYTES:
            self._cached_bytes -= _size(self._cache.popitem(last=False)[1])
        return found

    def top(self, query: Sequence[str], files: int, without: frozenset[str] = frozenset()) -> list[tuple[str, str]]:
        """(path, text) of the most relevant files, best first, of equal ones in the order of their paths.

        A file that shares no word with the query is never among them.
        """
        scores = self._bm25.scores(query)
        best = sorted((path for path in scores if path not in without), key=lambda path: (-scores[path], path))
        return [(path, self._repository.odb.read(self._blobs[path])[1].decode()) for path in best[:files]]


def _size(words: Words | None) -> int:
    return 256 + (_WORD_BYTES * len(words[0]) if words else 0)
