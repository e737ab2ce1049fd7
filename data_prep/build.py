"""Build: the documents of a selection -> tokens in Megatron's format, with a record of where each came from.

One pass over the documents writes any number of builds (fill-in-the-middle rates and epochs). Each documents shard
becomes a part, in parallel and resumable; parts are then joined in the order of the shards, so the files are the same
for any number of workers. Parts that the build before has are copied from it (see `data_prep.build_join`), so adding
documents costs what these cost.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.progress import Progress

from data_prep.build_join import Part, earlier_parts, encoded_part, join_parts
from data_prep.build_part import LOSSES, Plan, Variant, encode_shard
from data_prep.documents import list_shards
from data_prep.engines.base import Engine
from data_prep.errors import DataError
from data_prep.megatron_format import MANIFEST
from data_prep.select import SPLITS, read_selection
from data_prep.selection.places import selection_directory
from data_prep.shards import ShardTask, fingerprint, finished_manifest, lock_directory, run_shards, write_json
from data_prep.storage import as_path, remove_file, remove_folder
from data_prep.structure import ANNOTATION, structures_of
from tokenizer.encode import Encoder
from tokenizer.errors import TokenizerError
from tokenizer.special import COMMIT_ROLES, FIM_ROLES


def build(
    corpus: Path,
    selection: str,
    encoder_path: Path,
    out: Path,
    split: str,
    fim_rates: Sequence[float],
    epochs: Sequence[int],
    seed: int,
    workers: int,
    roles: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    engine: Engine | None = None,
    loss: str = "all",
) -> list[dict[str, Any]]:
    """Writes a build for each (rate, epoch) into the folder `out` and returns their manifests, rates first.

    A build is `NAME.bin`, `NAME.idx`, `NAME.provenance.parquet`, `NAME.parts.json` and, last, `NAME.manifest.json`,
    with NAME from `Variant.name`. Builds that are there and up to date are left alone; of one that is not, the parts
    that did not change are kept. `roles` names the special tokens of a tokenizer that is not ours. With `loss`
    "target" `NAME.loss_starts.npy` says where the target of each document begins (see `data_prep.structure`); documents
    without one have loss everywhere. Memory does not grow with the corpus.

    Raises `DataError` for an empty selection or impossible settings, `TokenizerError` (naming them) for special tokens
    that are needed and missing.
    """
    corpus, out = as_path(corpus), as_path(out)
    variants = _variants(split, fim_rates, epochs)
    chosen = read_selection(corpus, selection)
    if not chosen["left"][split]["documents"]:
        raise DataError(f"{corpus}: selection {selection!r} has no {split} documents to build from")
    encoder = Encoder.load(encoder_path, roles)
    structured = _structured(corpus, loss, fim_rates)
    bases = {v: _base(encoder, split, seed, v, structured, loss) for v in variants}
    whole = [chosen["digest"], chosen["corpus_fingerprint"], *([structured.digests] if structured.paths else [])]
    inputs = {v: fingerprint(bases[v], *whole) for v in variants}
    with lock_directory(out), ExitStack() as stack:
        missing = tuple(v for v in variants if _finished(out / v.name(split), inputs[v]) is None)
        if missing:
            given = tuple(sorted((roles or {}).items()))
            plan = Plan(split, missing, seed, encoder.path, encoder.digest, given, loss)
            folder = out / f"parts-{split}"
            chosen_folder = selection_directory(corpus, selection)
            shards = [_Shard.of(shard, chosen_folder, bases, structured.paths) for shard in list_shards(corpus)]
            earlier = {v: _earlier(out / v.name(split), stack) for v in missing}

            def run(tasks: list[ShardTask]) -> list[dict[str, Any]]:
                return run_shards(tasks, workers, progress, f"{split} tokens", engine)

            parts = _parts(shards, plan, earlier, folder, run)
            if shards != [_Shard.of(shard.path, chosen_folder, bases, structured.paths) for shard in shards]:
                raise DataError(f"{corpus} was changed while a build was reading it; run the build again")
            for variant in missing:
                prefix = out / variant.name(split)
                _join(prefix, plan, variant, parts[variant], encoder, chosen["digest"], inputs[variant])
            remove_folder(folder)
        return [_finished(out / v.name(split), inputs[v]) for v in variants]


def _variants(split: str, fim_rates: Sequence[float], epochs: Sequence[int]) -> list[Variant]:
    if split not in SPLITS:
        raise DataError(f"split is {split!r}; it must be one of {', '.join(SPLITS)}")
    wrong = [rate for rate in fim_rates if not 0 <= rate <= 1] or [epoch for epoch in epochs if epoch < 0]
    if wrong or not fim_rates or not epochs:
        raise DataError(f"rates {list(fim_rates)}, epochs {list(epochs)}: give rates from 0 to 1 and epochs from 0")
    return [Variant(rate, epoch) for rate in dict.fromkeys(map(float, fim_rates)) for epoch in dict.fromkeys(epochs)]


@dataclass(frozen=True)
class _Structured:
    """The annotations of headings and targets that a build reads."""

    paths: Mapping[str, Path]
    """Name of a documents shard -> its annotation; none where neither special markers nor targets are asked for."""
    digests: Sequence[tuple[str, str]]
    special_markers: bool


def _structured(corpus: Path, loss: str, fim_rates: Sequence[float]) -> _Structured:
    if loss not in LOSSES:
        raise DataError(f"loss is {loss!r}; it must be one of {', '.join(LOSSES)}")
    there = structures_of(corpus, list_shards(corpus))
    special = any(manifest.get("special_markers") for _, manifest in there.values())
    if loss == "target" and not there:
        raise DataError(
            f"{corpus}: loss on targets needs the annotation {ANNOTATION}, which `data commits` writes; without it, "
            "build with loss all"
        )
    if not special and loss == "all":
        return _Structured({}, (), False)
    if any(fim_rates):
        what = "targets" if loss == "target" else "special markers"
        raise DataError(f"{corpus}: documents with {what} cannot be split for infilling; build them with --fim-rate 0")
    digests = tuple((name, manifest["sha256"]) for name, (_, manifest) in sorted(there.items()))
    return _Structured({name: path for name, (path, _) in there.items()}, digests, special)


def _base(encoder: Encoder, split: str, seed: int, variant: Variant, structured: _Structured, loss: str) -> str:
    """What every part of a variant is made of, besides documents. Raises `TokenizerError` naming the special tokens
    that it puts around texts and the tokenizer does not have."""
    roles = [*(FIM_ROLES if variant.fim_rate else ()), *(COMMIT_ROLES if structured.special_markers else ())]
    try:
        special = encoder.special.require("eos", *roles)
    except TokenizerError as error:
        raise TokenizerError(f"{encoder.path}: {error}") from None
    more = [] if loss == "all" else [loss]
    return fingerprint(MANIFEST, encoder.digest, split, seed, asdict(variant), special, *more)


@dataclass(frozen=True)
class _Shard:
    """A documents shard, its rows of the selection, and for each variant what a part of it is made of."""

    path: Path
    chosen: Path
    structure: Path | None
    made_of: Mapping[Variant, str]

    @classmethod
    def of(cls, path: Path, selection: Path, bases: Mapping[Variant, str], structures: Mapping[str, Path]) -> "_Shard":
        chosen, structure = selection / path.name, structures.get(path.name)
        read = [path, chosen, *([structure] if structure else [])]
        digests = [(finished_manifest(made) or {}).get("sha256") for made in read]
        return cls(path, chosen, structure, {variant: fingerprint(base, digests) for variant, base in bases.items()})


def _earlier(prefix: Path, stack: ExitStack) -> dict[str, Part]:
    manifest = _whole(prefix)
    return earlier_parts(prefix, manifest, stack) if manifest else {}


def _parts(
    shards: Sequence[_Shard],
    plan: Plan,
    earlier: Mapping[Variant, Mapping[str, Part]],
    folder: Path,
    run: Callable[[list[ShardTask]], list[dict[str, Any]]],
) -> dict[Variant, list[Part]]:
    """The parts of each variant of the plan, in the order of the shards; what no build before has is encoded."""
    needed = [tuple(v for v in plan.variants if shard.made_of[v] not in earlier[v]) for shard in shards]
    tasks = []
    for shard, variants in zip(shards, needed, strict=True):
        if variants:
            output = folder / f"{shard.path.stem}.tokens"
            table = output.with_suffix(".parquet")
            args = (replace(plan, variants=variants), shard.path, shard.chosen, table, shard.structure)
            made_of = fingerprint([shard.made_of[variant] for variant in variants])
            tasks.append(ShardTask(output, made_of, encode_shard, args))
    encoded = zip(tasks, run(tasks), strict=True)
    parts: dict[Variant, list[Part]] = {variant: [] for variant in plan.variants}
    for shard, variants in zip(shards, needed, strict=True):
        now = {v: earlier[v][shard.made_of[v]] for v in plan.variants if v not in variants}
        if variants:
            task, manifest = next(encoded)
            now |= {v: encoded_part(shard.made_of[v], task.output, manifest, i) for i, v in enumerate(variants)}
        for variant, part in now.items():
            parts[variant].append(part)
    return parts


def _join(
    prefix: Path, plan: Plan, variant: Variant, parts: Sequence[Part], encoder: Encoder, selection: str, inputs: str
) -> None:
    """Joins the parts of one variant into its files, the manifest last."""
    remove_file(_manifest_path(prefix))  # of older files: never beside the new ones
    joined = join_parts(prefix, encoder.dtype, parts, inputs, plan.loss == "target")
    files = joined.pop("files")
    manifest = {
        "format": MANIFEST,
        "name": prefix.name,
        "split": plan.split,
        "dtype": encoder.dtype.name,
        **joined,
        "tokenizer": {
            "digest": encoder.digest,
            "vocab_size": encoder.vocab_size,
            "eos_id": encoder.special.eos,
        },
        "fim": {"rate": variant.fim_rate, "seed": plan.seed, "epoch": variant.epoch},
        "selection": selection,
        "inputs": inputs,
        "files": files,
    }
    write_json(_manifest_path(prefix), manifest)


def _manifest_path(prefix: Path) -> Path:
    return prefix.with_name(prefix.name + ".manifest.json")


def _finished(prefix: Path, inputs: str) -> dict[str, Any] | None:
    """The manifest of a build that is whole and up to date."""
    manifest = _whole(prefix)
    return manifest if manifest and manifest.get("inputs") == inputs else None


def _whole(prefix: Path) -> dict[str, Any] | None:
    """The manifest of a build that is whole, whatever it was made from."""
    try:
        manifest = json.loads(_manifest_path(prefix).read_bytes())
        sizes = {name: prefix.with_name(name).stat().st_size for name in manifest["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return manifest if all(sizes[name] == file["size_bytes"] for name, file in manifest["files"].items()) else None
