"""Repository-level strings: a selection of one corpus becomes another corpus, one document per repository or subgraph.

What each file imports is an annotation of the first corpus; which repositories are taken is a query over metadata; only
then are texts read, a shard at a time. The new corpus comes with a selection `main` of everything, so that `data build`
takes it as it is.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.progress import Progress

from data_prep.annotate import AnnotatorSpec, annotate
from data_prep.annotations import annotation_shard, remove_orphans
from data_prep.documents import documents_directory
from data_prep.engines.base import Engine
from data_prep.errors import DataError
from data_prep.held_out import HeldOut
from data_prep.importing import ImportReport
from data_prep.repositories.imports import NAME as IMPORTS
from data_prep.repositories.plan import Planned, plan
from data_prep.repositories.settings import RepositorySettings
from data_prep.repositories.shard import Place, Work, write_strings
from data_prep.select import SelectionConfig, read_selection, select
from data_prep.selection.places import selection_shard
from data_prep.shards import ShardTask, fingerprint, finished_manifest, lock_directory, run_shards, write_json
from data_prep.storage import as_path, remove_file
from tokenizer.encode import Encoder

FORMAT = "data_prep.repositories/2"


def write_repositories(
    corpus: Path,
    out: Path,
    selection: str = "main",
    settings: RepositorySettings | None = None,
    workers: int = 1,
    tokenizer: Path | None = None,
    roles: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    engine: Engine | None = None,
) -> dict[str, Any]:
    """Writes the corpus `out` from a selection of `corpus` and returns what is in it.

    `documents/` (source and repository as they were, path `part-00001-of-00003`, language: that of most text),
    `composition/` (a row per file: document, place, id, path, offset_bytes, in_cycle, needs: ids of the files it
    imports) and `repositories.json`, which is returned: settings, counts of repositories, parts, files, imports. With a
    `tokenizer` its tokens count for the limits of parts, else bytes. Does only what is missing or has changed; the
    bytes do not depend on `workers`. Raises `DataError`.
    """
    corpus, out, settings = as_path(corpus), as_path(out), settings or RepositorySettings()
    if (out / "imports").exists() or out == corpus:
        raise DataError(f"{out} is a corpus with sources of its own; give another folder for strings of repositories")
    chosen = read_selection(corpus, selection)
    (said,) = annotate(corpus, [AnnotatorSpec(IMPORTS)], workers, progress=progress, engine=engine)
    encoder = Encoder.load(tokenizer, dict(roles or {}) or None) if tokenizer else None
    with lock_directory(out):
        with lock_directory(corpus):
            planned, counts = plan(corpus, selection, settings, out / "plan", workers)
        asked = fingerprint(FORMAT, settings.model_dump(mode="json"), encoder.digest if encoder else None)
        more = (encoder.path if encoder else None, tuple(sorted((roles or {}).items())))
        tasks = [_task(corpus, out, selection, settings, asked, one, more) for one in planned]
        _forget(out, tasks)
        manifests = run_shards(tasks, workers, progress, "repositories", engine)
        about = _about(settings, selection, chosen["digest"], counts, said, manifests)
        write_json(out / "repositories.json", about)
        write_json(out / "import.json", {"format": FORMAT, **_as_import(manifests)})
    everything = SelectionConfig(variant=None, rules=(), held_out=HeldOut(fraction=0))
    select(out, "main", everything, progress, workers)
    return about


def _task(
    corpus: Path,
    out: Path,
    selection: str,
    settings: RepositorySettings,
    asked: str,
    planned: Planned,
    encoder: tuple[Path | None, tuple[tuple[str, str], ...]],
) -> ShardTask:
    shards = sorted(documents_directory(corpus).glob("*.parquet"))
    places = {
        index: Place(
            shards[index],
            selection_shard(corpus, selection, shards[index]),
            annotation_shard(corpus, IMPORTS, shards[index]),
        )
        for index in planned.shards
    }
    digests = [
        [(finished_manifest(path) or {}).get("sha256") for path in (place.documents, place.selected, place.imports)]
        for place in places.values()
    ]
    work = Work(planned.table, places, settings, out / "composition" / planned.home.name, *encoder)
    output = documents_directory(out) / planned.home.name
    return ShardTask(output, fingerprint(asked, planned.digest, digests), write_strings, (work,))


def _forget(out: Path, tasks: Sequence[ShardTask]) -> None:
    """Where anything will be made anew: the corpus is not complete until it is; what is no longer asked for goes."""
    if any(finished_manifest(task.output, task.inputs) is None for task in tasks):
        remove_file(out / "import.json")
    outputs = [task.output for task in tasks]
    for folder in (documents_directory(out), out / "plan"):
        remove_orphans(folder, outputs)
    names = {output.name for output in outputs}
    for path in (out / "composition").glob("*.parquet"):
        if path.name not in names:
            remove_file(path)


def _about(
    settings: RepositorySettings,
    selection: str,
    digest: str,
    counts: Mapping[str, Any],
    said: Mapping[str, Any],
    manifests: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    found: Counter[str] = Counter()
    for manifest in manifests:
        found.update(manifest["counts"])
    imports = {key: found[key] for key in ("backwards", "forwards", "in_cycles", "other_part")}
    return {
        "format": FORMAT,
        "settings": settings.model_dump(mode="json"),
        "selection": {"name": selection, "digest": digest},
        **counts,
        "cut": found["cut"],
        "documents": sum(manifest["rows"] for manifest in manifests),
        "text_bytes": sum(manifest["text_bytes"] for manifest in manifests),
        "files_taken": found["files"],
        "unread": found["unread"],
        "unread_examples": said["failures"],
        "imports": imports,
    }


def _as_import(manifests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What `data import` writes when it has finished: other steps read it."""
    report = ImportReport(units=len(manifests), shards=len(manifests))
    for manifest in manifests:
        report.documents += manifest["rows"]
        report.text_bytes += manifest["text_bytes"]
        for total, part in ((report.languages, manifest["languages"]), (report.sources, manifest["sources"])):
            for name, amounts in part.items():
                entry = total.setdefault(name, {"documents": 0, "text_bytes": 0})
                for key in ("documents", "text_bytes"):
                    entry[key] += amounts[key]
    for entry in report.sources.values():
        entry["drops"] = {}
    return {key: value for key, value in asdict(report).items() if key != "units_made"}


def describe(about: Mapping[str, Any]) -> list[str]:
    """What `write_repositories` returned, as lines to print."""
    imports = about["imports"]
    lines = [
        f"{about['chosen']:,} of {about['repositories']:,} repositories, {about['files_taken']:,} files, as "
        f"{about['documents']:,} documents of {about['text_bytes'] / 1e6:,.2f} MB ({about['cut']:,} were cut)",
        f"  {sum(imports.values()):,} imports within repositories: {imports['backwards']:,} point backwards, "
        f"{imports['in_cycles']:,} are in cycles, {imports['other_part']:,} lead to another part, "
        f"{imports['forwards']:,} point forwards",
    ]
    lines += [f"  left out: {count:,} with {why}" for why, count in about["left_out"].items()]
    if about["mean"]:
        lines.append("  mean scores: " + ", ".join(f"{name} {value:.2f}" for name, value in about["mean"].items()))
    if about["unread"]:
        first = about["unread_examples"][0]
        lines.append(
            f"  imports of {about['unread']:,} files could not be read, such as {first['path']} ({first['why']})"
        )
    return lines
