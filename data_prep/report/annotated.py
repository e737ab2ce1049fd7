"""What annotators said of a corpus, for a report: counts, never a secret."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from data_prep.annotate import summary
from data_prep.report.excerpts import without_secrets
from data_prep.report.source import Source

MATCHES = 200
LICENCES = 20
_OWN_SECTION = frozenset(
    {"exact_dedup", "near_dedup", "repository_dedup", "syntax", "signs", "licence", "secrets", "decontamination"}
)
_AMOUNT = "count(*) AS documents, coalesce(sum(size_bytes), 0)::BIGINT AS size_bytes"
_MANY_VALUES = 12


def annotated(source: Source) -> dict[str, Any]:
    """`syntax`, `signs`, `licences`, `secrets` and `contamination`, None for what was not annotated; and `others`."""
    makers = {
        "syntax": ("syntax", _syntax),
        "signs": ("signs", _signs),
        "licences": ("licence", _licences),
        "secrets": ("secrets", _secrets),
        "contamination": ("decontamination", _contamination),
    }
    found = {key: make(source) if name in source.annotations else None for key, (name, make) in makers.items()}
    others = [name for name in source.annotations if name not in _OWN_SECTION]
    return {**found, "others": {name: _columns(source, name) for name in others}}


def lineage(source: Source, known: Mapping[str, Mapping[str, Any] | None]) -> list[dict[str, Any]]:
    """What made each annotation of `known` (name -> summary, None where it is out of date), and what failed."""
    used = (source.selection or {}).get("annotations", {})
    rows = []
    for name, entry in known.items():
        manifests = source.annotations.get(name)
        if entry is None or manifests is None:
            rows.append({"name": name, "current": False})
            continue
        found = summary(manifests)
        about = found["annotator"] or {}
        failures = [{**failure, "why": without_secrets(failure["why"])} for failure in found["failures"]]
        rows.append(
            {
                "name": name,
                "current": True,
                "version": about.get("version"),
                "settings": about.get("settings") or {},
                "run": manifests[0].get("run"),
                "documents": found["documents"],
                "failed": found["failed"],
                "failures": failures,
                "used": name in used,
            }
        )
    return rows


def _syntax(source: Source) -> dict[str, Any]:
    joined = source.joined("syntax")
    languages = source.rows(
        f"SELECT language, {_AMOUNT}, count(*) FILTER (unchecked IS NOT NULL) AS unchecked, "
        "min(unchecked) AS why, count(*) FILTER (broken) AS broken, "
        "coalesce(sum(size_bytes) FILTER (broken), 0)::BIGINT AS broken_bytes, "
        "count(*) FILTER (failed IS NOT NULL) AS failed, avg(error_share) AS error_share "
        f"FROM {joined} GROUP BY language ORDER BY size_bytes DESC, language"
    )
    keys = ("documents", "unchecked", "broken", "broken_bytes", "failed")
    return {"languages": languages, **{key: sum(row[key] for row in languages) for key in keys}}


def _signs(source: Source) -> list[dict[str, Any]]:
    """Documents with each sign."""
    found = []
    for sign in ("generated", "minified", "data_file"):
        (row,) = source.rows(f"SELECT {_AMOUNT} FROM {source.joined('signs')} WHERE {sign}")
        found.append({"sign": sign, **row})
    return found


def _licences(source: Source) -> dict[str, Any]:
    rows = source.rows(
        f"SELECT licence, bool_or(permissive) AS permissive, {_AMOUNT}, "
        "count(*) FILTER (spdx IS NOT NULL OR notice IS NOT NULL) AS in_the_file "
        f"FROM {source.joined('licence')} GROUP BY licence ORDER BY size_bytes DESC, licence"
    )
    kinds: dict[str, dict[str, int]] = {}
    for row in rows:
        kind = "unknown" if row["permissive"] is None else "permissive" if row["permissive"] else "other"
        total = kinds.setdefault(kind, {"documents": 0, "size_bytes": 0})
        for key in total:
            total[key] += row[key]
    rest = rows[LICENCES:]
    return {"licences": rows[:LICENCES], "kinds": kinds, "more": len(rest)}


def _secrets(source: Source) -> dict[str, Any]:
    """Spans by kind and what becomes of them; which documents hold most, by name alone."""
    kinds = source.rows(
        "SELECT span.kind AS kind, count(*) AS spans, count(DISTINCT (_shard, _row)) AS documents, "
        "count(*) FILTER (split IS NOT NULL) AS selected FROM (SELECT _shard, _row, split, unnest(spans) AS span "
        f"FROM {source.joined('secrets')}) GROUP BY 1 ORDER BY spans DESC, kind"
    )
    redacted = set((source.selection or {}).get("config", {}).get("redact") or ())
    (holding,) = source.rows("SELECT count(*) FILTER (secrets + emails > 0) AS documents FROM secrets")
    most = source.rows(
        "SELECT repository || '/' || path AS name, secrets, emails FROM "
        f"{source.joined('secrets')} WHERE secrets > 0 ORDER BY secrets DESC, files.id LIMIT 8"
    )
    return {"kinds": [{**row, "redacted": row["kind"] in redacted} for row in kinds], **holding, "most": most}


def _contamination(source: Source) -> dict[str, Any]:
    """Which document matched which problem: those with the most shared n-grams first, and totals by benchmark."""
    joined = source.joined("decontamination")
    matches = source.rows(
        "SELECT repository || '/' || path AS name, language, ngrams, problems, example, split, dropped_by "
        f"FROM {joined} WHERE ngrams > 0 ORDER BY ngrams DESC, files.id LIMIT {MATCHES}"
    )
    (total,) = source.rows(
        f"SELECT {_AMOUNT}, count(*) FILTER (split = 'train') AS trained_on FROM {joined} WHERE ngrams > 0"
    )
    benchmarks = source.rows(
        "SELECT regexp_extract(problem, '^(.*\\.jsonl(?:\\.gz)?):', 1) AS benchmark, "
        "count(DISTINCT problem) AS problems, count(DISTINCT (_shard, _row)) AS documents "
        f"FROM (SELECT _shard, _row, unnest(problems) AS problem FROM {joined} WHERE ngrams > 0) "
        "GROUP BY 1 ORDER BY problems DESC, benchmark"
    )
    return {**total, "matches": matches, "benchmarks": benchmarks}


def _columns(source: Source, name: str) -> list[dict[str, Any]]:
    """Each column of an annotation in a few numbers."""
    found = []
    for field in source.schema(name):
        if field.name in ("id", "failed"):
            continue
        made = _column(source, f'"{name}"."{field.name}"', field.type, f'"{name}"')
        found.append({"column": field.name, "type": str(field.type), **made})
    return found


def _column(source: Source, column: str, kind: pa.DataType, table: str) -> dict[str, Any]:
    (known,) = source.rows(f"SELECT count({column}) AS known, count(*) AS rows FROM {table}")
    if pa.types.is_boolean(kind):
        return {**known, **source.rows(f"SELECT count(*) FILTER ({column}) AS yes FROM {table}")[0]}
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        sums = f"min({column}) AS minimum, max({column}) AS maximum, avg({column}) AS mean"
        finite = f"WHERE NOT isnan({column})"
        return {**known, **source.rows(f"SELECT {sums} FROM {table} {finite}")[0]}
    if pa.types.is_string(kind):
        values = source.rows(
            f"SELECT {column} AS value, count(*) AS documents FROM {table} WHERE {column} IS NOT NULL GROUP BY 1 "
            f"ORDER BY documents DESC, value LIMIT {_MANY_VALUES}"
        )
        return {**known, "values": [{**row, "value": without_secrets(row["value"][:80])} for row in values]}
    return known
