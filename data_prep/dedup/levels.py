"""All levels of deduplication, one after the other."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from rich.progress import Progress

from data_prep.dedup.exact import annotate_exact
from data_prep.dedup.near import annotate_near
from data_prep.dedup.near_repositories import annotate_repositories
from data_prep.dedup.settings import NearSettings
from data_prep.engines.base import Engine

LEVELS = ("exact", "near", "repositories")


def deduplicate(
    corpus: Path,
    workers: int,
    progress: Progress | None = None,
    levels: Collection[str] = LEVELS,
    settings: NearSettings | None = None,
    partitions: int | None = None,
    rekey: bool = False,
    engine: Engine | None = None,
) -> dict[str, dict[str, Any]]:
    """Brings the annotations of `levels` up to date, in the order of `LEVELS`; returns the numbers of each.

    What was kept before stays kept unless `rekey`. Raises `DataError`.
    """
    found: dict[str, dict[str, Any]] = {}
    if "exact" in levels:
        found["exact"] = annotate_exact(corpus, workers, progress, partitions, rekey, engine)
    if "near" in levels:
        found["near"] = annotate_near(corpus, workers, progress, settings, partitions, rekey, engine)
    if "repositories" in levels:
        found["repositories"] = annotate_repositories(corpus, workers, progress, settings, partitions, rekey, engine)
    return found


def describe(found: dict[str, dict[str, Any]]) -> list[str]:
    """The numbers of `deduplicate` as lines to print."""
    lines = []
    if exact := found.get("exact"):
        lines.append(
            f"{exact['duplicates']:,} of {exact['documents']:,} documents are exact duplicates "
            f"({exact['duplicate_bytes'] / 1e6:,.2f} MB)"
        )
    if near := found.get("near"):
        lines += [
            f"{near['duplicates']:,} of the other {near['compared']:,} are near duplicates "
            f"({near['duplicate_bytes'] / 1e6:,.2f} MB), in {near['clusters']:,} clusters",
            *_comparison(near),
            f"  {near['signature_bytes'] / 1e6:,.1f} MB of signatures: "
            f"{near['signature_bytes'] / max(1, near['read_bytes']) * 1e3:,.0f} GB per TB of text read",
        ]
    if repositories := found.get("repositories"):
        dropped, size = repositories["duplicate_repositories"], repositories["duplicate_bytes"]
        lines += [
            f"{dropped:,} of {repositories['repositories']:,} repositories are nearly equal to another "
            f"({size / 1e6:,.2f} MB), in {repositories['clusters']:,} families",
            *_comparison(repositories),
        ]
    return lines


def _comparison(numbers: dict[str, Any]) -> list[str]:
    curve = ", ".join(f"{similarity}: {found:.4f}" for similarity, found in numbers["found_at"].items())
    lines = [
        f"  {numbers['candidate_pairs']:,} candidate pairs, of which {numbers['near_pairs']:,} have a Jaccard "
        f"similarity of at least {numbers['threshold']}",
        f"  {numbers['bands']} bands of {numbers['rows']} of {numbers['permutations']} permutations; a pair is found "
        f"with probability (by similarity) {curve}",
    ]
    if several := numbers["clusters_with_several_keepers"]:
        lines.append(f"  {several:,} clusters were connected by new data and keep several; --rekey leaves one")
    return lines
