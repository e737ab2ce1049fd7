"""`megatron-seed tokenizer`: train, export, check."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from tokenizer.errors import TokenizerError

app = typer.Typer(no_args_is_help=True, help="Train a tokenizer, export it, and check that its encoders agree.")

RolesOption = Annotated[
    list[str] | None, typer.Option("--role", metavar="ROLE=TOKEN", help="The tokenizer's own token for a role.")
]


@app.command()
def train(
    inputs: Annotated[list[Path], typer.Argument(help="Text files, directories of them, or parquet files (text).")],
    out: Annotated[Path, typer.Option(help="Directory to write.")],
    vocab_size: Annotated[int, typer.Option(help="Number of ids, special tokens included.")],
    kind: Annotated[str, typer.Option(help="sentencepiece or byte_bpe.")] = "sentencepiece",
    max_chars: Annotated[int, typer.Option(help="Characters used of all texts; 0 for all.")] = 400_000_000,
    max_chars_per_text: Annotated[int, typer.Option(help="Characters used of one text; 0 for all.")] = 100_000,
    seed: Annotated[int, typer.Option(help="Keys the choice of texts.")] = 1234,
    character_coverage: Annotated[float, typer.Option(help="Share of characters that get pieces.")] = 0.9995,
    special: Annotated[list[str] | None, typer.Option(help="A group of further special tokens: commits.")] = None,
) -> None:
    """Train a tokenizer on whole files."""
    from tokenizer.train import TrainSettings
    from tokenizer.train import train as train_tokenizer

    settings = TrainSettings(
        vocab_size,
        kind,
        max_chars=max_chars or None,
        max_chars_per_text=max_chars_per_text or None,
        seed=seed,
        character_coverage=character_coverage,
        special=tuple(special or ()),
    )
    with Progress(console=Console(stderr=True)) as progress:
        description = train_tokenizer(read_texts(inputs), out, settings, progress)
    typer.echo(json.dumps({"out": str(out), **description}, ensure_ascii=False, indent=1))


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="A sentencepiece model file.")],
    out: Annotated[Path, typer.Option(help="Directory to write.")],
    role: RolesOption = None,
) -> None:
    """Write the Hugging Face tokenizer of a sentencepiece model, with exactly the same ids."""
    from tokenizer.export import export as export_tokenizer

    description = export_tokenizer(model, out, parse_roles(role))
    typer.echo(json.dumps({"out": str(out), **description}, ensure_ascii=False, indent=1))


@app.command()
def check(
    tokenizer: Annotated[Path, typer.Argument(help="A tokenizer directory.")],
    inputs: Annotated[list[Path], typer.Argument(help="Text files, directories of them, or parquet files (text).")],
) -> None:
    """Compare the ids of the fast encoder, transformers and sentencepiece on every file, and decode them again."""
    from tokenizer.check import compare

    with Progress(console=Console(stderr=True)) as progress:
        report = compare(tokenizer, read_texts(inputs), progress)
    typer.echo(json.dumps(report.to_json(), indent=1))
    if not report.agree:
        raise TokenizerError(f"{tokenizer}: its encoders disagree on some texts (see the report); do not train with it")


def parse_roles(pairs: Sequence[str] | None) -> dict[str, str]:
    """`["eos=</s>"]` -> `{"eos": "</s>"}`."""
    wrong = [pair for pair in pairs or () if "=" not in pair]
    if wrong:
        raise TokenizerError(f"--role {wrong[0]}: write it as ROLE=TOKEN, as in eos='<|endoftext|>'")
    return dict(pair.split("=", 1) for pair in pairs or ())


def read_texts(inputs: Sequence[Path]) -> Iterator[str]:
    """The texts of UTF-8 files, of the files under directories (hidden ones left out), and of parquet tables.

    Says at the end how many files were left out because they are not UTF-8. Raises `TokenizerError` for a path that is
    not there.
    """
    left_out = 0
    for path in _files(inputs):
        if path.suffix == ".parquet":
            yield from _parquet_texts(path)
            continue
        try:
            yield path.read_bytes().decode()
        except UnicodeDecodeError:
            left_out += 1
    if left_out:
        Console(stderr=True).print(f"{left_out} files are not UTF-8 and were left out")


def _files(inputs: Sequence[Path]) -> Iterator[Path]:
    for path in inputs:
        if path.is_dir():
            below = (found for found in sorted(path.rglob("*")) if found.is_file() and not found.is_symlink())
            yield from (f for f in below if not any(part.startswith(".") for part in f.relative_to(path).parts))
        elif path.is_file():
            yield path
        else:
            raise TokenizerError(f"{path}: there is no such file or directory")


def _parquet_texts(path: Path) -> Iterator[str]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise TokenizerError(f"{path}: parquet needs pyarrow: pip install -e '.[data]' in the checkout") from None
    try:
        with parquet.ParquetFile(path) as file:
            _require_texts(path, file.schema_arrow)
            for batch in file.iter_batches(batch_size=256, columns=["text"]):
                yield from (text for text in batch.column(0).to_pylist() if text is not None)
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise TokenizerError(f"{path} is no parquet file that can be read: {' '.join(str(error).split())}") from None


def _require_texts(path: Path, schema: Any) -> None:
    """Raises `TokenizerError` where a table has no column of texts."""
    from pyarrow import types

    if "text" not in schema.names:
        raise TokenizerError(f"{path} has no column `text`; its columns are {', '.join(schema.names)}")
    kind = schema.field("text").type
    value = kind.value_type if types.is_dictionary(kind) else kind
    if not (types.is_string(value) or types.is_large_string(value) or types.is_string_view(value)):
        raise TokenizerError(f"{path}: the column `text` holds {kind}, not text")
