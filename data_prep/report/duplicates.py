"""Equal and near-equal files and repositories, for a report."""

from collections.abc import Sequence
from typing import Any

from data_prep.report.excerpts import difference, read_texts
from data_prep.report.source import Source

GROUPS = 8  # of equal files, of near-equal ones, of repositories
MEMBERS = 5
_BINS = 15  # of similarities, from the threshold to 1
_SHOWN_SIZES = 8


def duplicates(source: Source) -> dict[str, Any]:
    """`exact`, `near` and `repositories`; None for each that was not looked for."""
    found = {"exact": _exact, "near": _near, "repositories": _repositories}
    names = ("exact_dedup", "near_dedup", "repository_dedup")
    return {
        key: make(source) if name in source.annotations else None
        for (key, make), name in zip(found.items(), names, strict=True)
    }


def _exact(source: Source) -> dict[str, Any]:
    joined = source.joined("exact_dedup")
    amounts = "count(*) AS documents, coalesce(sum(size_bytes), 0)::BIGINT AS size_bytes"
    (total,) = source.rows(f"SELECT {amounts} FROM {joined} WHERE duplicate_of IS NOT NULL")
    (copies,) = source.rows(
        f"SELECT {amounts}, count(DISTINCT source || '/' || repository) AS repositories FROM {joined} "
        "WHERE repository_duplicate_of IS NOT NULL"
    )
    groups = source.rows(
        f"SELECT duplicate_of AS keeper, count(*) + 1 AS copies, max(size_bytes) AS size_bytes, "
        f"arg_min(repository || '/' || path, id, {MEMBERS - 1}) AS members "
        f"FROM {joined} WHERE duplicate_of IS NOT NULL GROUP BY 1 ORDER BY copies DESC, keeper LIMIT {GROUPS}"
    )
    names = _names(source, [group["keeper"] for group in groups])
    for group in groups:
        group["keeper"] = names[group["keeper"]]
    return {**total, "repositories": copies, "groups": groups}


def _near(source: Source) -> dict[str, Any]:
    whole = source.annotations["near_dedup"][0]["whole"]
    joined = source.joined("near_dedup")
    (total,) = source.rows(
        f"SELECT count(*) AS documents, coalesce(sum(size_bytes), 0)::BIGINT AS size_bytes FROM {joined} "
        "WHERE duplicate_of IS NOT NULL"
    )
    sizes = source.rows(
        "SELECT members, count(*) AS clusters FROM "
        "(SELECT count(*) AS members FROM near_dedup WHERE cluster IS NOT NULL GROUP BY cluster) GROUP BY 1 ORDER BY 1"
    )
    low = whole["threshold"]
    bins = source.rows(
        f"SELECT greatest(0, least(floor((similarity - ?) / (1 - ?) * {_BINS}), {_BINS - 1}))::INT AS bin, "
        "count(*) AS documents FROM near_dedup WHERE similarity IS NOT NULL GROUP BY 1 ORDER BY 1",
        [low, low if low < 1 else 0],
    )
    similarities = [0] * _BINS
    for row in bins:
        similarities[row["bin"]] = row["documents"]
    return {**total, "whole": whole, "sizes": _last_together(sizes), "similarities": similarities,
            "clusters": _clusters(source, joined)}  # fmt: skip


def _last_together(sizes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Numbers of clusters by their size, the largest sizes as one."""
    if len(sizes) <= _SHOWN_SIZES:
        return [{**row, "more": False} for row in sizes]
    rest = sizes[_SHOWN_SIZES - 1 :]
    last = {"members": rest[0]["members"], "clusters": sum(row["clusters"] for row in rest), "more": True}
    return [*({**row, "more": False} for row in sizes[: _SHOWN_SIZES - 1]), last]


def _clusters(source: Source, joined: str) -> list[dict[str, Any]]:
    """Half of them the largest, half drawn by a hash: members, keeper first, and how the nearest of them differs."""
    chosen = source.rows(
        "WITH sizes AS (SELECT cluster, count(*) AS members FROM near_dedup WHERE cluster IS NOT NULL GROUP BY 1), "
        f"largest AS (FROM sizes ORDER BY members DESC, cluster LIMIT {GROUPS // 2}), "
        "others AS (FROM sizes ANTI JOIN largest USING (cluster) ORDER BY sha256(cluster) LIMIT "
        f"{GROUPS // 2}) FROM largest UNION ALL FROM others ORDER BY members DESC, cluster"
    )
    rows = source.rows(
        f"SELECT cluster, _shard, _row, repository || '/' || path AS name, size_bytes, similarity, duplicate_of "
        f"FROM {joined} WHERE list_contains(?::VARCHAR[], cluster) QUALIFY row_number() OVER "
        f"(PARTITION BY cluster ORDER BY duplicate_of IS NOT NULL, similarity DESC, id) <= {MEMBERS} "
        "ORDER BY cluster, duplicate_of IS NOT NULL, similarity DESC, id",
        [[row["cluster"] for row in chosen]],
    )
    members: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        members.setdefault(row["cluster"], []).append(row)
    pairs = {cluster: (found[0], found[1]) for cluster, found in members.items() if len(found) > 1}
    places = [(row["_shard"], row["_row"]) for pair in pairs.values() for row in pair]
    texts = read_texts(source.shards, places)
    for row in chosen:
        row["shown"] = members.get(row["cluster"], [])
        pair = [texts[one["_shard"], one["_row"]] for one in pairs.get(row["cluster"], ())]
        row["difference"] = difference(*pair) if pair else []
    return chosen


def _repositories(source: Source) -> dict[str, Any]:
    joined = source.joined("repository_dedup")
    (total,) = source.rows(
        "SELECT count(DISTINCT source || '/' || repository) AS repositories, count(*) AS documents, "
        f"coalesce(sum(size_bytes), 0)::BIGINT AS size_bytes FROM {joined} WHERE duplicate_of IS NOT NULL"
    )
    families = source.rows(
        f"""SELECT family, count(*) AS members, sum(documents)::BIGINT AS documents,
            list({{name: name, similarity: similarity, kept: kept, documents: documents}} ORDER BY kept DESC, similarity
            DESC, name)[1:{MEMBERS}] AS shown FROM (
            SELECT family, source || '/' || repository AS name, max(similarity) AS similarity,
            bool_and(duplicate_of IS NULL) AS kept, count(*) AS documents FROM {joined}
            WHERE family IS NOT NULL GROUP BY 1, 2
        ) GROUP BY 1 ORDER BY members DESC, family LIMIT {GROUPS}"""
    )
    return {**total, "whole": source.annotations["repository_dedup"][0]["whole"], "families": families}


def _names(source: Source, ids: Sequence[str]) -> dict[str, str]:
    rows = source.rows(
        "SELECT id, repository || '/' || path AS name FROM documents WHERE list_contains(?::VARCHAR[], id)", [list(ids)]
    )
    return {row["id"]: row["name"] for row in rows}
