"""What the levels of deduplication share: their work folder, their earlier keepers, their annotation."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress

from data_prep.annotations import annotation_directory, remove_orphans
from data_prep.dedup.catalogue import dedup_directory
from data_prep.dedup.earlier import Kept, earlier_keepers
from data_prep.documents import corpus_fingerprint, list_shards
from data_prep.engines.base import Engine
from data_prep.errors import DataError
from data_prep.partitions import POOL_ROWS, Output, Runner, default_partitions
from data_prep.shards import ShardTask, fingerprint, finished_manifest, write_json
from data_prep.storage import as_path, remove_folder

_TASK_BYTES = 128 << 20  # that a task of a global step holds, about


@dataclass(frozen=True)
class Level:
    """One annotation that is made of a whole corpus.

    `inputs` fingerprints all that its result depends on except what was kept before; `settings` only what must be equal
    for that to count. `after` names the annotations it is made from, with their `run`.
    """

    corpus: Path
    name: str
    inputs: str
    settings: str
    after: Mapping[str, str]
    kept: Kept

    @property
    def work(self) -> Path:
        """Scratch folder. Where a run is killed it stays, for the next to go on."""
        return dedup_directory(self.corpus) / "work" / self.name

    @property
    def directory(self) -> Path:
        return annotation_directory(self.corpus, self.name)

    def finished(self, rekey: bool) -> list[dict[str, Any]] | None:
        """The manifests of the annotation where it is up to date (and, with `rekey`, made from nothing), else None."""
        manifests = [finished_manifest(self.directory / shard.name) for shard in list_shards(self.corpus)]
        if not manifests or not all(manifests) or len({manifest.get("run") for manifest in manifests}) > 1:
            return None
        fresh = all(
            manifest.get("made_of") == self.inputs and not (rekey and manifest["keeps_earlier"])
            for manifest in manifests
        )
        return manifests if fresh else None

    def earlier(self, catalogue: Output, runner: Runner, rekey: bool) -> Output | None:
        """What was kept before (see `earlier_keepers`), asked once: a run that goes on after a kill sees the same."""
        noted = self.work / "earlier.json"
        try:
            found = json.loads(noted.read_bytes())
        except (OSError, ValueError):
            found = {}
        if found.get("inputs") == self.inputs and found["rekey"] >= rekey:
            if found["paths"] is None:
                return None
            return Output(tuple(map(as_path, found["paths"])), tuple(found["manifests"]))
        remove_folder(self.work)
        arguments = (self.corpus, self.name, self.settings, self.kept, catalogue, runner, self.work)
        result = None if rekey else earlier_keepers(*arguments)
        paths = [str(path) for path in result.paths] if result else None
        manifests = result.manifests if result else None
        write_json(noted, {"inputs": self.inputs, "rekey": rekey, "paths": paths, "manifests": manifests})
        return result

    def annotate(
        self,
        label: str,
        runner: Runner,
        earlier: Output | None,
        function: Callable[..., Mapping[str, Any]],
        args: tuple[Any, ...],
    ) -> list[dict[str, Any]]:
        """Writes the annotation: `function(stream, documents shard, its index, counters, *args)` for each shard."""
        whole = corpus_fingerprint(self.corpus)
        run = fingerprint(self.inputs, earlier.digest if earlier else None)
        shards = list_shards(self.corpus)
        tasks = []
        for index, shard in enumerate(shards):
            counters = {
                "documents_sha256": finished_manifest(shard)["sha256"],
                "corpus_fingerprint": whole,
                "made_of": self.inputs,
                "run": run,
                "settings": self.settings,
                "after": dict(self.after),
                "keeps_earlier": earlier is not None,
            }
            made_of = fingerprint(run, counters["documents_sha256"], index)
            tasks.append(ShardTask(self.directory / shard.name, made_of, function, (shard, index, counters), args))
        made = runner.run(label, tasks)
        remove_orphans(self.directory, shards)
        return list(made.manifests)

    def remove_work(self) -> None:
        remove_folder(self.work)


def make_runner(
    corpus: Path, workers: int, partitions: int | None, row_bytes: int, engine: Engine | None, progress: Progress | None
) -> Runner:
    """A runner with as many partitions as asked for, or as `row_bytes` per document and the workers need."""
    manifests = [finished_manifest(shard) for shard in list_shards(corpus)]
    documents, text_bytes = (sum(manifest[name] for manifest in manifests) for name in ("rows", "text_bytes"))
    if not documents:
        raise DataError(f"{corpus}: there are no documents to deduplicate")
    needed = default_partitions(documents, row_bytes, _TASK_BYTES)
    if documents >= POOL_ROWS:
        needed = max(needed, workers)
    return Runner(workers, partitions or needed, documents, engine, progress, text_bytes)
