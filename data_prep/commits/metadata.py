"""Stars and forks of repositories, from a table that the user gives."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from data_prep.errors import DataError

_COLUMNS = ("repository", "stars", "forks")


@dataclass(frozen=True)
class Popularity:
    stars: int
    forks: int


def load_metadata(path: Path) -> Mapping[str, Popularity]:
    """Repository -> stars and forks, from columns `repository`, `stars` and `forks` of a parquet, JSONL or CSV file.

    A name is that of the folder below a source, such as `name` or `owner/name`; `.git` at its end does not count.
    Raises `DataError` where the file is no such table or has a repository twice.
    """
    table = _read(path)
    lacking = [name for name in _COLUMNS if name not in table.column_names]
    if lacking:
        raise DataError(f"{path} has no column {lacking[0]!r}; it needs {', '.join(_COLUMNS)}")
    found: dict[str, Popularity] = {}
    for number, row in enumerate(table.select(_COLUMNS).to_pylist(), 1):
        name, stars, forks = (row[column] for column in _COLUMNS)
        if not (isinstance(name, str) and _is_count(stars) and _is_count(forks)):
            raise DataError(f"{path}, row {number}: a name and two whole numbers are expected, got {row}")
        name = name.removesuffix(".git")
        if name in found:
            raise DataError(f"{path}, row {number}: {name} has a row already")
        found[name] = Popularity(int(stars), int(forks))
    return found


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _read(path: Path) -> pa.Table:
    try:
        if path.suffix == ".parquet":
            return pq.read_table(path)
        if path.suffix == ".csv":
            types = {"repository": pa.string()}
            return pa.csv.read_csv(path, convert_options=pa.csv.ConvertOptions(column_types=types))
        if path.suffix in (".jsonl", ".ndjson", ".json"):
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            return pa.Table.from_pylist(rows)
    except (OSError, ValueError, TypeError, AttributeError) as error:  # pa.ArrowInvalid is a ValueError
        raise DataError(f"{path} is no table that can be read: {' '.join(str(error).split())}") from None
    raise DataError(f"{path}: a table of repositories ends in .parquet, .jsonl or .csv")
