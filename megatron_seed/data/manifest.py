"""The manifest beside a build: what made it, and whether that is what a run expects."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from megatron_seed.config.schema import PhaseConfig
from megatron_seed.data.indexed import IndexedTokens
from megatron_seed.errors import SeedError


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class MadeWith(Part):
    """The tokenizer of a build."""

    digest: str | None
    """None for a build of which only the number of ids was declared."""
    vocab_size: int


class Infilling(Part):
    rate: float


class Loss(Part):
    """Which tokens a build asks to count; see `megatron_seed.data.loss`."""

    on: Literal["target"]


class File(Part):
    sha256: str


class BuildManifest(Part):
    """What a run needs of the manifest that `data build` or `data declare` wrote."""

    tokenizer: MadeWith
    fim: Infilling
    loss: Loss | None = None
    """None: everything counts."""
    documents: int
    tokens: int
    size_bytes: int | None = None
    """UTF-8 bytes of source text, where known."""
    declared: bool = False
    """Written by `data declare`, for files that were made elsewhere."""
    files: dict[str, File] = {}
    """By name, when they were written; they may have been renamed together since."""

    def digest_of(self, suffix: str) -> str | None:
        """SHA-256 (hex) of the file that ends so: `.bin`, `.idx`, `.loss_starts.npy`."""
        return next((file.sha256 for name, file in self.files.items() if name.endswith(suffix)), None)


def manifest_path(prefix: Path | str) -> Path:
    return Path(f"{prefix}.manifest.json")


def read_manifest(prefix: Path | str) -> BuildManifest | None:
    """The manifest of a build, None where there is none. Raises SeedError for one that cannot be understood."""
    path = manifest_path(prefix)
    try:
        return BuildManifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first: Any = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise SeedError(f"{path}: not the manifest of a build: {place + ': ' if place else ''}{first['msg']}") from None


def check_manifest(build: IndexedTokens, vocab_size: int | None, fim: float | None, thorough: bool = False) -> None:
    """Hold a build's manifest against the files and against what the run expects (None: expects nothing).

    `thorough` takes the digest of the index, of which a flipped bit can leave another that fits. Raises SeedError
    naming the build; also for one without a manifest, when a `vocab_size` is expected: nothing then says that its ids
    are those of the run's tokenizer.
    """
    manifest, prefix = read_manifest(build.prefix), build.prefix
    if manifest is None:
        if vocab_size is not None:
            raise SeedError(
                f"{prefix}: has no manifest that says which tokenizer made it; declare it once: "
                f"megatron-seed data declare {prefix} --tokenizer DIRECTORY"
            )
        return
    there, expected = (build.token_count, len(build.document_lengths)), (manifest.tokens, manifest.documents)
    if there != expected:
        raise SeedError(
            f"{prefix}: holds {there[0]} tokens in {there[1]} documents, but its manifest is of {expected[0]} in "
            f"{expected[1]}; it belongs to other files"
        )
    digest = manifest.digest_of(".idx") if thorough else None
    if digest is not None and digest != build.index_digest:
        raise SeedError(f"{prefix}.idx: does not have the digest it was written with: damaged, or of another build")
    made_for, rate = manifest.tokenizer.vocab_size, manifest.fim.rate
    if vocab_size is not None and made_for > vocab_size:
        raise SeedError(f"{prefix}: built with a tokenizer of {made_for} ids, but model.vocab_size is {vocab_size}")
    if fim is not None and rate != fim:
        raise SeedError(f"{prefix}: built with fill-in-the-middle at rate {rate}, but the phase asks for fim: {fim}")


def bytes_per_token(phase: PhaseConfig) -> float | None:
    """UTF-8 bytes of text per token whose loss counts in a phase, by the shares of its sources; None where one's
    manifests do not tell, as where only targets count."""
    whole, mean = sum(source.weight for source in phase.blend), 0.0
    for source in phase.blend:
        manifests = [read_manifest(prefix) for prefix in source.builds]
        if not all(manifest and manifest.size_bytes for manifest in manifests):
            return None
        if source.loss != "all" and any(manifest.loss for manifest in manifests):
            return None
        size_bytes, tokens = (sum(getattr(m, name) for m in manifests) for name in ("size_bytes", "tokens"))
        mean += source.weight / whole * size_bytes / tokens
    return mean
