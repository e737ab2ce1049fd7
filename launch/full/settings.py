"""What `quickstart --full` is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class FullConfig:
    """The sizes are ours, for 45 minutes on two cores; rates, shares and rules that are the report's are said to be."""

    run_dir: Path = Path("runs/quickstart-full")
    corpus: Path | None = None
    """Folder whose sub-folders are repositories; None: packages that are installed on this machine."""
    cap_bytes: int = 24_000_000
    """At most this much raw code is taken."""
    repository_bytes: int = 2_000_000
    """Larger packages are passed over, so that those that are taken are whole."""
    oracle_files: int = 1200
    """Rated by the oracle, of the code."""
    oracle_pages: int = 400
    """And of the web pages."""
    labelled_pages: int = 800
    """Pages that the oracle labels, once by whether they are about code and once by their kind of site."""
    history: Path | None = None
    """A Git repository whose commits are taken; None: see `launch.full.history`."""
    commits: int = 600
    """At most this many of the newest."""
    pages: int = 1500
    """At most this many web pages are made and found."""
    benchmarks: tuple[Path, ...] = ()
    """JSONL files or folders of them; none: a few problems of our own, one of which is planted in the corpus."""
    oracle_url: str | None = None
    """An OpenAI-compatible endpoint; None: the stand-in, served for the time of the run."""
    oracle_model: str | None = None
    oracle_key_env: str | None = None
    """Environment variable that holds the endpoint's key."""
    tokenizer_characters: int = 6_000_000
    """The tokenizer is trained on a sample of this size."""
    long_tokens: int = 2048
    """Repositories and files with fewer tokens are not long: the context of the phase before the last."""
    overrides: tuple[str, ...] = ()
    """key=value changes of the recipe `quickstart_full`."""
    workers: int = 2

    def asked(self) -> dict[str, Any]:
        """All that decides what comes of a run, as JSON values."""
        values = {key: value for key, value in vars(self).items() if key not in ("run_dir", "workers")}
        for key in ("corpus", "history"):
            values[key] = str(values[key].resolve()) if values[key] else None
        values["benchmarks"] = [str(path.resolve()) for path in self.benchmarks]
        return {"full": True, **values, "overrides": list(self.overrides)}
