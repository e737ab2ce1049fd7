"""Commits of the same patch, such as those of forks: one is kept.

Of all commits with one patch id that is the one of the repository with the most stars; of equals the first by source,
repository, date and commit id.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from data_prep.commits.repositories import Repository
from data_prep.database import add_shards_view, open_database


def find_copies(
    corpus: Path, repositories: Sequence[Repository], histories: Sequence[Path], workers: int
) -> Mapping[tuple[int, int], dict[str, str]]:
    """(index of the repository, batch) -> dropped commit -> the kept one, as `repository@commit`."""
    if not histories:
        return {}
    order = sorted(range(len(repositories)), key=lambda index: _standing(repositories[index]))
    standing = pa.table(
        {
            "_shard": pa.array(order, pa.int32()),
            "standing": pa.array(range(len(order)), pa.int32()),
        }
    )
    found: dict[tuple[int, int], dict[str, str]] = {}
    with open_database(corpus, workers) as database:
        add_shards_view(database, "histories", histories, '"commit", date_s, batch, patch_id')
        database.register("standings", standing)
        cursor = database.execute(
            'SELECT _shard, batch, "commit", kept._shard, kept."commit" FROM ('
            '  SELECT _shard, batch, "commit", row_number() OVER same AS place,'
            '  first({_shard: _shard, "commit": "commit"}) OVER same AS kept'
            "  FROM histories JOIN standings USING (_shard) WHERE patch_id IS NOT NULL"
            '  WINDOW same AS (PARTITION BY patch_id ORDER BY standing, date_s, "commit")'
            ') WHERE place > 1 ORDER BY _shard, batch, "commit"'
        )
        while rows := cursor.fetchmany(10_000):
            for shard, batch, commit, kept_shard, kept in rows:
                copies = found.setdefault((shard, batch), {})
                copies[commit] = f"{repositories[kept_shard].name}@{kept}"
    return found


def _standing(repository: Repository) -> tuple[int, str, str]:
    return -(repository.stars or 0), repository.source, repository.name
