"""A scorer from an oracle's scores: trained on some repositories, measured on the others."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from data_prep.errors import DataError
from data_prep.held_out import HeldOut
from data_prep.oracle.scores import read_scores
from data_prep.scorer.base import LINEAR, LLAMA, Scorer, describe_scorer, new_scorer, open_scorer, scorer_digest
from data_prep.scorer.examples import Examples, load_examples, scores_of
from data_prep.scorer.measure import measure
from data_prep.scorer.page import write_page
from data_prep.settings import load_settings

MEASURED = "report"
_AT_ONCE = 256


def train_scorer(
    corpus: Path,
    oracle: str,
    out: Path,
    kind: str = LINEAR,
    settings: Mapping[str, Any] | None = None,
    held_out: float = 0.1,
    seed: int = 1234,
    checkpoint: Path | None = None,
    tokenizer: Path | None = None,
    processes: int = 1,
) -> dict[str, Any]:
    """Trains the scorer `out` and measures it on held-out repositories; returns what `scorer.json` says.

    `kind`: linear, or llama, which begins with the pretrained `checkpoint` and trains on `processes` processes in the
    folder `out` + `.training`. `settings`: fields of `LinearSettings` or `LlamaSettings`. Raises `DataError`.
    """
    if not 0 <= held_out < 1:
        raise DataError(f"held_out is {held_out:g}; it must be at least 0 and below 1: some files are trained on")
    split = HeldOut(fraction=held_out, seed=seed)
    if kind == LLAMA and checkpoint is None:
        raise DataError("--kind llama needs a pretrained checkpoint: --checkpoint RUN, or a folder of `hf import`")
    checked = _settings(kind, settings or {})
    most_bytes = checked.most_bytes if kind == LINEAR else None
    examples = load_examples(corpus, oracle, split, _characters(kind, checked), most_bytes)
    scores = scores_of(examples.train)
    about = {
        "kind": kind,
        "name": out.name,
        "corpus": str(corpus),
        "oracle": _oracle(corpus, oracle),
        "split": {"fraction": split.fraction, "seed": split.seed},
        "trained_on": {
            "files": len(examples.train),
            "repositories": len({example["repository"] for example in examples.train}),
            "mean_score": float(scores.mean()),
        },
        "left_out": dict(examples.counts),
        "settings": checked.model_dump(mode="json"),
    }
    if kind == LINEAR:
        from data_prep.scorer.linear import fit

        scorer, about["fit"] = fit(examples.train, scores, checked, seed)
        with new_scorer(out, about) as folder:
            scorer.save(folder)
    else:
        from data_prep.scorer.llama import train_llama, write_llama

        run_dir = out.with_name(f"{out.name}.training")
        trained = train_llama(examples.train, scores, checkpoint, run_dir, checked, processes, seed, tokenizer)
        with new_scorer(out, {**about, "pretrained": str(checkpoint)}) as folder:
            write_llama(folder, trained, checked)
    report_scorer(corpus, out, out.with_name(f"{out.name}.{MEASURED}"), examples)
    return describe_scorer(out)


def report_scorer(corpus: Path, folder: Path, into: Path, examples: Examples | None = None) -> dict[str, Any]:
    """Measures a scorer on the held-out files of the split it was trained with; writes `report.json` and `report.html`
    into a folder and returns the numbers. Raises `DataError`."""
    about = describe_scorer(folder)
    if examples is None:
        most_bytes = about["settings"].get("most_bytes")
        examples = load_examples(corpus, about["oracle"]["name"], HeldOut(**about["split"]), most_bytes=most_bytes)
    predicted = predict(open_scorer(folder), examples.held_out)
    languages = [example["language"] for example in examples.held_out]
    measured = measure(scores_of(examples.held_out), predicted, languages, scores_of(examples.train))
    write_page({**about, "digest": scorer_digest(folder)}, measured, into)
    return measured


def predict(scorer: Scorer, documents: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """A scorer's scores, fp32 [documents], some documents at a time."""
    parts = [scorer.score(documents[start : start + _AT_ONCE]) for start in range(0, len(documents), _AT_ONCE)]
    return np.concatenate(parts)


def _settings(kind: str, given: Mapping[str, Any]) -> BaseModel:
    if kind == LINEAR:
        from data_prep.scorer.linear import LinearSettings as Settings
    elif kind == LLAMA:
        from data_prep.scorer.llama import LlamaSettings as Settings
    else:
        raise DataError(f"--kind {kind}: it must be {LINEAR} or {LLAMA}")
    return load_settings(Settings, f"{kind} scorer", overrides=given)


def _characters(kind: str, settings: Any) -> int | None:
    """How much of each text training needs; the linear scorer wants to know how long files are."""
    if kind == LINEAR:
        return None
    from data_prep.scorer.rows import CHARACTERS_PER_TOKEN

    return settings.file_tokens * CHARACTERS_PER_TOKEN


def _oracle(corpus: Path, name: str) -> dict[str, Any]:
    table = read_scores(corpus, name)
    said = {column: sorted(set(table[column].to_pylist()) - {None}) for column in ("model", "prompt_version")}
    return {"name": name, **{column: ", ".join(values) or None for column, values in said.items()}}
