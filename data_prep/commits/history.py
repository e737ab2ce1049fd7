"""The history of a repository: one row for each commit, judged by what needs no sample.

Commits are in an order in which parents come before their children. A history that is made again after new commits
keeps its rows and gets new ones at its end, in batches of their own: what was made of the others stays good. Where the
old HEAD is no ancestor of the new one, it is made from the start.
"""

import functools
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pygit2
from pygit2.enums import FileMode, SortMode

from data_prep.commits.changes import FAILURES, tree_diff
from data_prep.commits.settings import CommitSettings
from data_prep.shards import fingerprint
from data_prep.storage import read_parquet

FORMAT = "data_prep.history/1"
SCHEMA = pa.schema(
    [
        pa.field("commit", pa.string(), nullable=False),
        pa.field("date_s", pa.int64(), nullable=False),
        pa.field("batch", pa.int32(), nullable=False),
        pa.field("is_bot", pa.bool_(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("patch_id", pa.string()),
    ]
)
_KEY = b"data_prep.history"
_DAY_S = 86_400
_LAST_S = 253_402_300_799  # of the year 9999; a date can be any number
_STORED = (FileMode.BLOB, FileMode.BLOB_EXECUTABLE, FileMode.LINK)


@functools.lru_cache(maxsize=4)
def open_repository(path: str) -> pygit2.Repository:
    # Git refuses repositories of other users because their hooks and settings could run things. Nothing is run here.
    pygit2.settings.owner_validation = False
    return pygit2.Repository(path)


@dataclass(frozen=True)
class HistoryTask:
    """What a history is made of. `rules` is the fingerprint of the settings."""

    path: str
    head: str
    settings: CommitSettings
    batch_commits: int

    @property
    def rules(self) -> str:
        return fingerprint(FORMAT, self.settings.model_dump(mode="json"), self.batch_commits)

    @property
    def inputs(self) -> str:
        return fingerprint(self.rules, self.head)


def write_history(stream: BinaryIO, task: HistoryTask, earlier: Path) -> Mapping[str, Any]:
    """Shard function: the history, on top of what lies at `earlier` where that is of the same rules.

    Counts `rows`, `days` and `batches` (of each its number, rows and digest), or says what is the `problem` of a
    repository that cannot be read to its end.
    """
    repository = open_repository(task.path)
    table, known_head = _earlier(repository, task, earlier)
    parts, problem = [table], None
    batch = table["batch"][-1].as_py() + 1 if table.num_rows else 0
    commits = _walk(repository, task.head, known_head)
    try:
        while chunk := list(itertools.islice(commits, task.batch_commits)):
            rows = [{**_judged(repository, commit, task.settings), "batch": batch} for commit in chunk]
            parts.append(pa.Table.from_pylist(rows, schema=SCHEMA))
            batch += 1
    except FAILURES as error:
        parts, problem = [SCHEMA.empty_table()], str(error).strip("'")
    table = pa.concat_tables(parts)
    about = "\0".join([task.rules, task.head]).encode()
    pq.write_table(table.replace_schema_metadata({_KEY: about}), stream, compression="zstd")
    dates = pc.min_max(table["date_s"]).as_py()
    days = (dates["max"] - dates["min"]) // _DAY_S if table.num_rows else 0
    return {"rows": table.num_rows, "days": days, "batches": list(_batches(table)), "problem": problem}


def _earlier(repository: pygit2.Repository, task: HistoryTask, path: Path) -> tuple[pa.Table, str | None]:
    """The rows to go on from, and the head that they end in."""
    nothing = SCHEMA.empty_table(), None
    try:
        table = read_parquet(path, use_threads=False)
        rules, head = (table.schema.metadata or {}).get(_KEY, b"\0").decode().split("\0")
        if rules != task.rules or not table.num_rows:
            return nothing
        if head != task.head and not repository.descendant_of(task.head, head):
            return nothing
    except (*FAILURES, pa.ArrowException):
        return nothing
    return table.replace_schema_metadata().cast(SCHEMA), head


def _walk(repository: pygit2.Repository, head: str, known_head: str | None) -> Iterator[pygit2.Commit]:
    walker = repository.walk(head, SortMode.TOPOLOGICAL | SortMode.REVERSE)
    if known_head:
        walker.hide(known_head)
    yield from walker


def _judged(repository: pygit2.Repository, commit: pygit2.Commit, settings: CommitSettings) -> dict[str, Any]:
    is_bot = any(pattern.search(_author(commit)) for pattern in _patterns(settings.bots))
    row = {
        "commit": str(commit.id),
        "date_s": min(max(commit.commit_time, 0), _LAST_S),
        "is_bot": is_bot,
        "reason": None,
        "patch_id": None,
    }
    row["reason"] = _refusal(repository, commit, is_bot and not settings.keep_bots)
    if row["reason"] is None:
        try:
            row["reason"], row["patch_id"] = _patch(repository, commit, settings)
        except FAILURES:
            row["reason"] = "damaged_git"
    return row


@functools.lru_cache(maxsize=4)
def _patterns(bots: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(pattern, re.IGNORECASE) for pattern in bots)


def _author(commit: pygit2.Commit) -> str:
    author = commit.author
    return f"{author.raw_name.decode(errors='replace')} <{author.raw_email.decode(errors='replace')}>"


def _refusal(repository: pygit2.Repository, commit: pygit2.Commit, refused_bot: bool) -> str | None:
    if len(commit.parent_ids) > 1:
        return "merge"
    if not commit.parent_ids or commit.parent_ids[0] not in repository:
        return "no_parent"
    if refused_bot:
        return "bot"
    message = message_of(commit)
    if message is None:
        return "message_not_text"
    return None if message else "empty_message"


def message_of(commit: pygit2.Commit) -> str | None:
    """The message without white space at its ends; None where it cannot be decoded."""
    try:
        message = commit.raw_message.decode(commit.message_encoding or "utf-8").strip()
        message.encode()  # some codecs give halves of surrogate pairs
    except (ValueError, LookupError):  # codecs may raise any UnicodeError, of which not all are of decoding
        return None
    return message


def _patch(
    repository: pygit2.Repository, commit: pygit2.Commit, settings: CommitSettings
) -> tuple[str | None, str | None]:
    """(why there is none, patch id). Patches with large files are named by the ids of what they hold."""
    diff = tree_diff(repository, commit.parents[0].tree, commit.tree)
    if not len(diff):
        return "no_change", None
    if len(diff) > settings.max_files:
        return "huge", None
    changed = [(delta.status_char(), delta.old_file, delta.new_file) for delta in diff.deltas]
    if any(_size(repository, side) > settings.max_file_bytes for _, *sides in changed for side in sides):
        held = [(kind, [[side.raw_path.hex(), str(side.id)] for side in sides]) for kind, *sides in changed]
        return None, fingerprint(held)
    return None, str(diff.patchid)


def _size(repository: pygit2.Repository, side: pygit2.DiffFile) -> int:
    """Bytes of a file; 0 for one that is not there, and for a submodule."""
    return repository.odb.read_header(side.id)[1] if side.mode in _STORED else 0


def _batches(table: pa.Table) -> Iterator[dict[str, Any]]:
    """For each batch its number, its rows and their digest."""
    start = 0
    counts = pc.value_counts(table["batch"].combine_chunks())  # in the order in which they come
    for found in counts.to_pylist():
        rows = table.slice(start, found["counts"]).to_pylist()
        yield {"batch": found["values"], "rows": len(rows), "digest": fingerprint(rows)}
        start += len(rows)
