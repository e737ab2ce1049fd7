"""Where selections lie in a corpus: `selections/<name>/`, with `selection.json` and a table per documents shard."""

from pathlib import Path


def selection_directory(corpus: Path, name: str) -> Path:
    return corpus / "selections" / name


def selection_shard(corpus: Path, name: str, shard: Path) -> Path:
    """The rows of a selection for a documents shard: as many, in the same order."""
    return selection_directory(corpus, name) / shard.name


def selection_names(corpus: Path) -> list[str]:
    """The selections that were made of a corpus."""
    return sorted(path.parent.name for path in (corpus / "selections").glob("*/selection.json"))
