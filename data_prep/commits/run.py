"""Commits to documents: choose repositories, read their histories, drop copies of a patch, write samples.

The corpus is one like `data import` makes: documents shards, a ledger for each batch of commits, `import.json`. Beside
it lie the histories (`commits/`), and the annotation `commits` with the facts of each sample.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.progress import Progress

from data_prep.annotations import annotation_directory, remove_orphans
from data_prep.commits.forks import find_copies
from data_prep.commits.history import HistoryTask, write_history
from data_prep.commits.metadata import load_metadata
from data_prep.commits.reasons import REASONS
from data_prep.commits.repositories import CommitSource, Repository, check_sources, choose_repositories
from data_prep.commits.samples import FORMAT, Batch, write_batch
from data_prep.commits.settings import CommitsConfig
from data_prep.documents import list_shards
from data_prep.engines.base import Engine
from data_prep.errors import DataError
from data_prep.importing import ImportReport, SourcePlan, bring_up_to_date, known_sources
from data_prep.shards import ShardTask, fingerprint, lock_directory, remove_shard, run_shards
from data_prep.sources.base import Drops
from data_prep.storage import as_path
from data_prep.structure import ANNOTATION
from tokenizer.encode import Encoder
from tokenizer.errors import TokenizerError
from tokenizer.special import COMMIT_ROLES

Chosen = tuple[Repository, Path, dict[str, Any]]  # with its history and the history's manifest


def import_commits(
    corpus: Path,
    sources: Sequence[CommitSource],
    config: CommitsConfig,
    metadata: Path | None = None,
    workers: int = 1,
    progress: Progress | None = None,
    engine: Engine | None = None,
    remove: Sequence[str] = (),
) -> ImportReport:
    """Brings a corpus of commits up to date with its sources: only new commits are made.

    `metadata` is the table of stars and forks. Raises `DataError` where a source cannot be read, where the corpus has
    other sources than those named and in `remove`, or nothing is left.
    """
    corpus = as_path(corpus)
    check_sources(sources)
    wanted = config.repositories
    if metadata is None and (wanted.min_stars or wanted.min_forks):
        raise DataError(
            "repositories.min_stars and min_forks need a table of stars and forks: give --metadata, or set both to 0"
        )
    known = load_metadata(metadata) if metadata else None
    tokenizer = _tokenizer_digest(config)
    with lock_directory(corpus):
        _check_corpus(corpus, [source.name for source in sources], remove)
        drops = {source.name: Drops(config.examples) for source in sources}
        repositories = [
            repository
            for source in sources
            for repository in choose_repositories(source, wanted, known, drops[source.name])
        ]
        histories = _histories(corpus, repositories, config, workers, progress, engine)
        chosen = [entry for entry in histories if _is_chosen(entry, config, drops)]
        copies = find_copies(corpus, [entry[0] for entry in chosen], [entry[1] for entry in chosen], workers)
        tasks = _tasks(corpus, chosen, copies, config, tokenizer)
        plans = {name: SourcePlan(tasks.get(name, []), of_source) for name, of_source in drops.items()}
        report = bring_up_to_date(corpus, plans, config.examples, workers, progress, engine, remove, REASONS)
        remove_orphans(annotation_directory(corpus, ANNOTATION), list_shards(corpus))
        kept = {path.name for _, path, _ in histories}
        for path in (corpus / "commits").glob("*.parquet"):
            if path.name not in kept:
                remove_shard(path)
        return report


def _check_corpus(corpus: Path, names: Sequence[str], remove: Sequence[str]) -> None:
    """All sources of a corpus are named in each run: which copy of a patch is kept depends on all of them."""
    there = known_sources(corpus)
    if there and not (corpus / "commits").is_dir():
        raise DataError(f"{corpus} holds documents that are no commits; give commits a corpus of their own")
    for name in sorted({*there} - {*names, *remove}):
        raise DataError(f"{corpus} has commits of source {name}, too: name it again, or take it out with --remove")


def _histories(
    corpus: Path,
    repositories: Sequence[Repository],
    config: CommitsConfig,
    workers: int,
    progress: Progress | None,
    engine: Engine | None,
) -> list[Chosen]:
    tasks = []
    for repository in repositories:
        task = HistoryTask(repository.path, repository.head, config.commits, config.shard_commits)
        path = corpus / "commits" / f"{repository.key}.parquet"
        tasks.append(ShardTask(path, task.inputs, write_history, (task, path)))
    manifests = run_shards(tasks, workers, progress, "histories", engine)
    return [(one, task.output, found) for one, task, found in zip(repositories, tasks, manifests, strict=True)]


def _is_chosen(entry: Chosen, config: CommitsConfig, drops: Mapping[str, Drops]) -> bool:
    repository, _, history = entry
    reason, said = None, repository.name
    if history["problem"] is not None:
        reason, said = "damaged_git", f"{repository.name}: {history['problem']}"
    elif history["rows"] < config.repositories.min_commits:
        reason = "few_commits"
    elif history["days"] < config.repositories.min_days:
        reason = "few_days"
    if reason:
        drops[repository.source].add(reason, said)
    return reason is None


def _tasks(
    corpus: Path,
    chosen: Sequence[Chosen],
    copies: Mapping[tuple[int, int], Mapping[str, str]],
    config: CommitsConfig,
    tokenizer: str | None,
) -> dict[str, list[ShardTask]]:
    """Source -> a task for each batch of its repositories' commits."""
    settings = config.model_dump(mode="json", exclude={"repositories": True, "sample": {"tokenizer"}})
    tasks: dict[str, list[ShardTask]] = {}
    for index, (repository, history, manifest) in enumerate(chosen):
        for found in manifest["batches"]:
            dropped = tuple(sorted(copies.get((index, found["batch"]), {}).items()))
            batch = Batch(repository, history, found["batch"], dropped, tokenizer)
            about = [repository.source, repository.name, repository.stars]
            inputs = fingerprint(FORMAT, settings, tokenizer, about, found["digest"], dropped)
            ledger = corpus / "imports" / f"{batch.name}.ledger"
            task = ShardTask(ledger, inputs, write_batch, (batch, inputs, corpus, config))
            tasks.setdefault(repository.source, []).append(task)
    return tasks


def _tokenizer_digest(config: CommitsConfig) -> str | None:
    """Of the tokenizer that counts, if one does. Raises `TokenizerError` where it lacks special tokens asked for."""
    if config.sample.tokenizer is None:
        return None
    encoder = Encoder.load(config.sample.tokenizer)
    if config.sample.markers == "special":
        try:
            encoder.special.require(*COMMIT_ROLES)
        except TokenizerError as error:
            here = "(of `data build`; commits are then counted by bytes, without --tokenizer)"
            raise TokenizerError(f"{encoder.path}: {error} {here}") from None
    return encoder.digest
