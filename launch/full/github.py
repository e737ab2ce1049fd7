"""GitHub code (report, 2.2.1): repositories to files that are good enough to train on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from data_prep.sources.base import ImportLimits, SourceSpec
from launch.finish import bars
from launch.full.benchmarks import PLANTED, benchmark_files, benchmarks_digest, plant
from launch.full.packages import IGNORED, copy_packages
from launch.full.quality import Sample, rate_and_score
from launch.full.settings import FullConfig
from launch.full.sides import sides_of
from launch.stages import Stages

RATED = "rated"
"""The selection of what quality is asked of: all that cheap rules leave."""
KEPT = "kept"
WHOLE, WHOLE_HELD_OUT = "whole", "whole_held_out"
"""Selections of whole repositories, for long context: the corpus's second variant, to train on and held out."""
REDACTED = ("email", "key", "password", "private_key")
PROMPT = "code_quality"
_QUALITY_RULE = "low_quality"


def corpus_of(config: FullConfig) -> Path:
    return config.run_dir / "corpora" / "github"


def packages_of(config: FullConfig) -> Path:
    return config.run_dir / "sources" / "packages"


def prepare_github(config: FullConfig, stages: Stages) -> dict[str, Any]:
    """Import to selection; returns the numbers of each step. The selections are `rated`, `kept` and `whole`."""
    places = _packages(config, stages)
    corpus = corpus_of(config)
    # Code of the user's is looked at anew each time: importing itself finds what has changed.
    known = [places, config.cap_bytes, benchmarks_digest(config.benchmarks)]
    inputs = known if config.corpus is None else os.urandom(8).hex()
    files = stages.run("github", inputs, lambda: _prepare(config, corpus), made=corpus / "import.json")
    sample = Sample(config.oracle_files, RATED, PROMPT)
    quality = rate_and_score(config, stages, "github", corpus, files["selected"], sample)
    chosen = stages.run("github selection", [files["selected"], quality["digest"]], lambda: _select(config, corpus))
    return {"places": places, **files, "quality": quality, **chosen}


def _packages(config: FullConfig, stages: Stages) -> list[dict[str, Any]]:
    if config.corpus is not None:
        return []
    folder = packages_of(config)
    inputs = [config.cap_bytes, config.repository_bytes]
    return stages.run("packages", inputs, lambda: copy_packages(folder, *inputs), made=folder)


def sources_of(config: FullConfig) -> list[SourceSpec]:
    """The user's folder, or the places that packages were copied from, and what is planted."""
    if config.corpus is not None:
        found = [SourceSpec("folders", str(config.corpus.resolve()), "corpus")]
    else:
        places = sorted(path for path in packages_of(config).iterdir() if path.is_dir())
        found = [SourceSpec("folders", str(place.resolve()), place.name) for place in places]
    if not config.benchmarks:
        place = (config.run_dir / "sources" / PLANTED).resolve()
        found.append(SourceSpec("folders", str(place), PLANTED))
    return found


def _prepare(config: FullConfig, corpus: Path) -> dict[str, Any]:
    from data_prep.annotate import annotate
    from data_prep.annotators.base import AnnotatorSpec
    from data_prep.dedup.levels import deduplicate
    from data_prep.importing import import_documents
    from data_prep.select import select

    planted = None if config.benchmarks else plant(config.run_dir / "sources" / PLANTED)
    limits = ImportLimits(max_total_bytes=config.cap_bytes, ignored_folders=IGNORED)
    with bars() as progress:
        import_documents(sources_of(config), corpus, limits, config.workers, progress)
        found = deduplicate(corpus, config.workers, progress)
        specs = [AnnotatorSpec(name) for name in ("syntax", "signs", "licence", "secrets", "structure")]
        specs.append(AnnotatorSpec.of("decontamination", benchmarks=benchmark_files(config.benchmarks)))
        annotate(corpus, specs, config.workers, progress=progress)
        rated = select(corpus, RATED, _config("file", quality=False), progress, config.workers)
    repositories = {key: found["repositories"].get(key) for key in ("duplicate_repositories", "duplicate_bytes")}
    return {
        "selected": f"{rated['digest']} {rated['corpus_fingerprint']}",
        "planted": planted,
        "benchmarks": [Path(path).name for path in benchmark_files(config.benchmarks)],
        "repositories": repositories,
    }


def _select(config: FullConfig, corpus: Path) -> dict[str, Any]:
    """The two variants of the corpus (2.2.1): single files without the lowest tenth, and whole repositories."""
    from data_prep.select import select

    digests = []

    with bars() as progress:
        kept = select(corpus, KEPT, _config("file", quality=True), progress, config.workers)
        sides, whole = sides_of(corpus, KEPT), _config("repository", quality=False)
        for name, rule in ((WHOLE, sides.to_train()), (WHOLE_HELD_OUT, sides.to_hold_out())):
            made = select(corpus, name, one_side(whole, rule), progress, config.workers)
            digests.append(made["digest"])
    return {
        "kept": f"{kept['digest']} {kept['corpus_fingerprint']}",
        "whole": f"{' '.join(digests)} {kept['corpus_fingerprint']}",
        "dropped": kept["dropped"],
        "left": kept["left"],
    }


def one_side(config: Any, *rules: dict[str, Any]) -> Any:
    """A selection's config with further rules, which holds out nothing itself."""
    from data_prep.select import SelectionConfig

    values = config.model_dump()
    return SelectionConfig.model_validate({**values, "rules": [*values["rules"], *rules], "held_out": {"fraction": 0}})


def _config(variant: str, quality: bool) -> Any:
    """The shipped rules, with or without the one on quality, whatever has been annotated so far."""
    from data_prep.select import SelectionConfig
    from data_prep.selection.rules import DEFAULT_RULES

    rules = [rule.model_dump() for rule in DEFAULT_RULES if quality or rule.name != _QUALITY_RULE]
    held_out = {"minimum_repositories": 3}
    return SelectionConfig.model_validate(
        {"variant": variant, "rules": rules, "redact": REDACTED, "held_out": held_out}
    )
