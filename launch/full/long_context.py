"""Long context (report, 2.2.5): whole repositories in the order of their dependencies, and long files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_prep.storage import read_parquet
from launch.finish import bars
from launch.full.github import KEPT, WHOLE, WHOLE_HELD_OUT, corpus_of, one_side
from launch.full.settings import FullConfig
from launch.full.sides import sides_of
from launch.stages import Stages

LONG_FILES = "long_files"
SIDES = {"train": WHOLE, "held_out": WHOLE_HELD_OUT}
"""Side -> its selection of the code."""
BYTES_PER_TOKEN = 3.36
LEAST_SCORE = 4.0
"""Of the mean of a repository's files; ours: the report gives none."""
_LARGEST_PART = 32
"""A string has at most so many of the longest contexts; ours."""


def strings_of(config: FullConfig, side: str) -> Path:
    return config.run_dir / "corpora" / f"repositories-{side}"


def prepare_long_context(config: FullConfig, stages: Stages, github: dict[str, Any], context: int) -> dict[str, Any]:
    """Strings of repositories for both sides of the split, and a selection of long files; returns their numbers.

    `context`: tokens of the longest sequence that is trained on.
    """
    inputs = [github["whole"], config.long_tokens, context]
    made = strings_of(config, "train") / "import.json"
    strings = stages.run("long context", inputs, lambda: _strings(config, context), made=made)
    files = stages.run("long files", [github["kept"], config.long_tokens], lambda: _files(config))
    return {**strings, "files": files}


def _strings(config: FullConfig, context: int) -> dict[str, Any]:
    from data_prep.repositories.run import write_repositories
    from data_prep.repositories.settings import load_settings
    from data_prep.select import read_selection

    corpus, found = corpus_of(config), {}
    with bars() as progress:
        for side, selection in SIDES.items():
            asked = {
                "min_tokens": config.long_tokens,
                "max_tokens": context * _LARGEST_PART,
                "min_mean_score": LEAST_SCORE if side == "train" else None,
            }
            out = strings_of(config, side)
            settings = load_settings(None, asked)
            about = write_repositories(corpus, out, selection, settings, config.workers, progress=progress)
            found[side] = {key: value for key, value in about.items() if key != "unread_examples"}
    whole = [read_selection(strings_of(config, side), "main")["digest"] for side in SIDES]
    return {"sides": found, "example": _example(strings_of(config, "train")), "digest": " ".join(whole)}


def _example(strings: Path) -> dict[str, Any] | None:
    """The files of one repository in their order, with what each needs: one that is neither tiny nor huge."""
    rows: list[dict[str, Any]] = []
    for path in sorted((strings / "composition").glob("*.parquet")):
        rows += read_parquet(path, ["document", "place", "id", "path", "language", "in_cycle", "needs"]).to_pylist()
    members: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        members.setdefault(row["document"], []).append(row)
    telling = {
        key: files for key, files in members.items() if sum(len(file["needs"]) for file in files) >= len(files) / 2
    }
    if not telling:
        return None
    document = min(telling, key=lambda key: (abs(len(telling[key]) - 14), key))
    files = sorted(telling[document], key=lambda row: row["place"])
    names = {file["id"]: file["path"] for file in files}
    shown = [
        {
            "path": file["path"],
            "language": file["language"],
            "in_cycle": file["in_cycle"],
            "needs": [names[one] for one in file["needs"] if one in names],
        }
        for file in files
    ]
    return {"repository": _repository(strings, document), "files": shown}


def _repository(strings: Path, document: str) -> str:
    for path in sorted((strings / "documents").glob("*.parquet")):
        for row in read_parquet(path, ["id", "repository"]).to_pylist():
            if row["id"] == document:
                return row["repository"]
    return "–"


def _files(config: FullConfig) -> dict[str, Any]:
    """The kept files that are longer than a context; their rules are those of the selection `kept`, and two more."""
    from data_prep.select import SelectionConfig, read_selection, select

    corpus = corpus_of(config)
    least = int(config.long_tokens * BYTES_PER_TOKEN)
    kept = SelectionConfig.model_validate(read_selection(corpus, KEPT)["config"])
    short = {"name": "short", "drop": f"documents.size_bytes < {least}"}
    with bars() as progress:
        asked = one_side(kept, sides_of(corpus, KEPT).to_train(), short)
        made = select(corpus, LONG_FILES, asked, progress, config.workers)
    return {"least_bytes": least, "digest": made["digest"], "left": made["left"]["train"]}
