"""What a document's text is made of, where an annotation says so: headings between its parts, and the target.

The text itself is plain. A heading is known by its place, never by what it says, so nothing that stands in a file can
pass for one. In a build a heading is text, or a special token in the place of it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from data_prep.annotations import StepAnnotation, annotation_directory
from data_prep.errors import DataError
from data_prep.redaction import redact
from data_prep.shards import finished_manifests

ANNOTATION = StepAnnotation.COMMITS.value
COLUMNS = ["id", "markers", "headings", "target_start"]
HEADINGS_TYPE = pa.list_(pa.struct([("role", pa.string()), ("start", pa.int64()), ("end", pa.int64())]))


class Heading(NamedTuple):
    """text[start:end], and the role of the special token that may stand for it; places are characters."""

    role: str
    start: int
    end: int


class Piece(NamedTuple):
    """Text that is encoded by itself, behind the special token of `role`, if any."""

    role: str | None
    text: str
    is_target: bool = False


def structures_of(corpus: Path, shards: Sequence[Path]) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Name of a documents shard -> its structure and the manifest of that; those without one are not in it.

    Raises `DataError` where one is damaged or of other documents.
    """
    folder = annotation_directory(corpus, ANNOTATION)
    there = {path.name for path in folder.glob("*.parquet")} if folder.is_dir() else set()
    described = [shard for shard in shards if shard.name in there]
    paths = [folder / shard.name for shard in described]
    found = {}
    for path, manifest, documents in zip(paths, finished_manifests(paths), finished_manifests(described), strict=True):
        if manifest is None or documents is None or manifest.get("documents_sha256") != documents["sha256"]:
            raise DataError(f"{path} does not fit its documents; run the step that makes it again")
        found[path.name] = path, manifest
    return found


def pieces_of(text: str, row: Mapping[str, Any], spans: Sequence[Mapping[str, Any]] | None) -> list[Piece]:
    """What is encoded of a text, redacted, by its row of the annotation (`COLUMNS`).

    With special markers a piece follows each heading; else there is one before the target and one that is the target. A
    span to redact that runs over a heading is cut there, so headings and target stay what and where they are.
    """
    headings = [Heading(**heading) for heading in row["headings"]]
    parts = [Piece(None, _redacted(text, 0, headings[0].start if headings else len(text), spans))]
    ends = [heading.start for heading in headings[1:]] + [len(text)]
    for heading, end in zip(headings, ends, strict=False):
        said = _redacted(text, heading.end, end, spans)
        parts.append(Piece(heading.role, said, heading.end >= row["target_start"]))
    if row["markers"] == "special":
        return [part for part in parts if part.role or part.text]
    before, target = [parts[0].text], []
    for heading, part in zip(headings, parts[1:], strict=True):
        in_target = heading.start >= row["target_start"]
        (target if in_target else before).append(text[heading.start : heading.end])
        (target if part.is_target else before).append(part.text)
    return [Piece(None, "".join(before)), Piece(None, "".join(target), True)]


def _redacted(text: str, start: int, end: int, spans: Sequence[Mapping[str, Any]] | None) -> str:
    """text[start:end] with what of the spans lies in it replaced."""
    inside = [
        {"start": max(span["start"], start) - start, "end": min(span["end"], end) - start, "kind": span["kind"]}
        for span in spans or ()
        if max(span["start"], start) < min(span["end"], end)
    ]
    return redact(text[start:end], inside)
