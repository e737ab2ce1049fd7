"""Files with scores as token rows, ready for `megatron_seed.data.scored`: whole files side by side, as few rows as go.

What the model reads of a file is the same in training and in use: a line that names the language, the file, cut at a
number of tokens, and the end token, after which the score is asked for.
"""

import bisect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.errors import DataError
from data_prep.megatron_format import MANIFEST, write_index
from data_prep.shards import write_atomic, write_json
from megatron_seed.data.manifest import manifest_path
from megatron_seed.data.scored import targets_path, write_targets
from tokenizer.encode import Encoder

CHARACTERS_PER_TOKEN = 16
"""Text beyond so many characters for each token is not looked at: most tokens are far shorter."""


def prompt(document: Mapping[str, Any], file_tokens: int) -> str:
    """What is encoded of a file: its language, and its beginning."""
    return f"Language: {document['language']}\n{document['text'][: file_tokens * CHARACTERS_PER_TOKEN]}"


def encode_files(encoder: Encoder, documents: Sequence[Mapping[str, Any]], file_tokens: int) -> list[np.ndarray]:
    """Ids of each file, at most `file_tokens` of them, the last of which is the end token."""
    (eos,) = encoder.special.require("eos")
    ids, offsets = encoder.encode_batch([prompt(document, file_tokens) for document in documents])
    cut = np.minimum(np.diff(offsets), file_tokens - 1)
    return [
        np.append(ids[start : start + size], ids.dtype.type(eos)) for start, size in zip(offsets, cut, strict=False)
    ]


def pack(lengths: Sequence[int], row_tokens: int) -> list[list[int]]:
    """Files of these lengths shared out to rows, best fit first, the longest before the others."""
    rows: list[list[int]] = []
    space: list[tuple[int, int]] = []  # (left, row), ordered
    for file in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        if lengths[file] > row_tokens:
            raise DataError(f"a file of {lengths[file]} tokens does not fit a row of {row_tokens}")
        place = bisect.bisect_left(space, (lengths[file], -1))
        if place == len(space):
            rows.append([])
            left, row = row_tokens, len(rows) - 1
        else:
            left, row = space.pop(place)
        rows[row].append(file)
        if left > lengths[file]:
            bisect.insort(space, (left - lengths[file], row))
    return rows


def write_rows(
    prefix: Path, files: Sequence[tuple[np.ndarray, float]], row_tokens: int, rows_multiple: int, encoder: Encoder
) -> int:
    """Writes a build of scored files (`PREFIX.bin`, `.idx`, targets, and last the manifest); returns its rows.

    `files`: (ids, score from 0 to 1). Empty rows fill up to a multiple of `rows_multiple`, so that an epoch is a whole
    number of steps.
    """
    packed = pack([len(ids) for ids, _ in files], row_tokens)
    packed += [[]] * (-len(packed) % rows_multiple)
    pad = encoder.special.pad if encoder.special.pad is not None else encoder.special.require("eos")[0]
    tokens = np.full((len(packed), row_tokens), pad, encoder.dtype)
    targets: list[list[tuple[int, float]]] = []
    for row, members in enumerate(packed):
        filled, ends = 0, []
        for file in members:
            ids, score = files[file]
            tokens[row, filled : filled + len(ids)] = ids
            filled += len(ids)
            ends.append((filled - 1, score))
        targets.append(ends)
    manifest_path(prefix).unlink(missing_ok=True)  # of older files: never beside the new ones
    write_targets(prefix, targets)
    lengths = np.full(len(packed), row_tokens)
    binary = write_atomic(Path(f"{prefix}.bin"), lambda stream: stream.write(tokens.tobytes()))
    index = write_atomic(
        Path(f"{prefix}.idx"), lambda stream: write_index(stream, encoder.dtype, len(packed), lambda: iter([lengths]))
    )
    write_json(manifest_path(prefix), _manifest(prefix, tokens, encoder, {".bin": binary, ".idx": index}))
    return len(packed)


def _manifest(prefix: Path, tokens: np.ndarray, encoder: Encoder, files: Mapping[str, Any]) -> dict[str, Any]:
    tokenizer = {"digest": encoder.digest, "vocab_size": encoder.vocab_size, "eos_id": encoder.special.eos}
    return {
        "format": MANIFEST,
        "name": prefix.name,
        "dtype": encoder.dtype.name,
        "documents": len(tokens),
        "tokens": tokens.size,
        "tokenizer": tokenizer,
        "fim": {"rate": 0.0},
        "targets": targets_path(prefix).name,
        "files": {
            f"{prefix.name}{suffix}": {"size_bytes": file.size_bytes, "sha256": file.sha256}
            for suffix, file in files.items()
        },
    }
