"""Import: what reading shared blobs once saves, and how often an encoding is told right.

    python benchmarks/importing.py forks FOLDER --out forks.json
    python benchmarks/importing.py encodings --wheel Django.whl        (pip download --no-deps django)

forks. FOLDER becomes a bare Git repository with `--forks` copies, each with a share `--changed` of its files changed.
They are imported with blobs of a unit kept and without, in turns; CPU seconds of one process, and blobs read.

encodings. Texts are code with 2, 5 or 20 comments in one language, drawn from Django's translations, encoded in an
encoding of that language. Right: the text came back; dropped: none did; wrong: another text did. Languages whose
encodings are not among those that are told can only be dropped or wrong.
"""

import argparse
import json
import random
import re
import resource
import shutil
import statistics
import subprocess
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

from data_prep.importing import ImportLimits, SourceSpec, import_documents
from data_prep.sources.base import Unit
from data_prep.sources.encodings import transcode
from data_prep.sources.git import GitTree

# fmt: off
ENCODINGS = {
    "zh_Hans": ["gb18030"], "zh_Hant": ["big5"], "ja": ["cp932", "euc_jp"], "ko": ["cp949"], "fr": ["cp1252"],
    "de": ["cp1252"], "es": ["cp1252"], "it": ["cp1252"], "pt": ["cp1252"], "pt_BR": ["cp1252"], "nl": ["cp1252"],
    "sv": ["cp1252"], "da": ["cp1252"], "fi": ["cp1252"], "nb": ["cp1252"], "pl": ["cp1250", "iso8859_2"],
    "cs": ["cp1250", "iso8859_2"], "sk": ["cp1250"], "hu": ["cp1250"], "ro": ["cp1250"], "tr": ["cp1254"],
    "ru": ["cp1251", "koi8_r"], "uk": ["cp1251"], "bg": ["cp1251"],
}
# fmt: on
UNTOLD = {"el": ["cp1253"], "he": ["cp1255"], "ar": ["cp1256"], "lt": ["cp1257"]}
COMMENTS = (2, 5, 20)
CODE = "import os\n\n\ndef f(x):\n    return x + 1\n" * 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("forks")
    command.add_argument("folder", type=Path)
    command.add_argument("--forks", type=int, default=3)
    command.add_argument("--changed", type=float, default=0.05)
    command.add_argument("--rounds", type=int, default=3)
    command.add_argument("--out", type=Path, default=Path("forks.json"))
    command = commands.add_parser("encodings")
    command.add_argument("--wheel", type=Path, required=True)
    command.add_argument("--texts", type=int, default=60, help="of each language, encoding and number of comments")
    command.add_argument("--out", type=Path, default=Path("encodings.json"))
    arguments = parser.parse_args()
    {"forks": forks, "encodings": encodings}[arguments.command](arguments)


def forks(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        make_forks(arguments.folder, root, arguments.forks, arguments.changed)
        rows = []
        for _ in range(arguments.rounds):
            rows.append({"once": measure(root, True), "again": measure(root, False)})
    print("| blobs | CPU seconds | blobs read | documents | MB of text |\n| --- | ---: | ---: | ---: | ---: |")
    for name, said in (("again", "read for every repository"), ("once", "read once")):
        cpu = statistics.median(row[name]["cpu_s"] for row in rows)
        one = rows[0][name]
        print(f"| {said} | {cpu:.2f} | {one['reads']:,} | {one['documents']:,} | {one['text_bytes'] / 1e6:.1f} |")
    arguments.out.write_text(json.dumps(rows, indent=1) + "\n")


def make_forks(folder: Path, root: Path, count: int, changed: float) -> None:
    def git(*words: str) -> None:
        who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run(["git", *who, "-C", root / "work", *words], check=True, stdout=subprocess.DEVNULL)

    shutil.copytree(folder, root / "work", ignore=shutil.ignore_patterns("__pycache__", ".git"))
    git("init", "--quiet")
    draw = random.Random(1)
    files = sorted(path for path in (root / "work").rglob("*.py") if path.is_file())
    for fork in range(count + 1):
        for path in draw.sample(files, int(changed * len(files))) if fork else ():
            path.write_bytes(path.read_bytes() + f"# fork {fork}\n".encode())
        git("add", "--all")
        git("commit", "--quiet", "--message", str(fork))
        git("clone", "--quiet", "--bare", ".", str(root / "all" / f"{draw.randrange(10**6)}-owner.git"))


def measure(root: Path, once: bool) -> dict[str, float]:
    reads, read, known_blobs = [], GitTree.read, Unit.known_blobs

    def counted(tree: GitTree, entry: object) -> bytes:
        reads.append(1)
        return read(tree, entry)

    shutil.rmtree(root / "corpus", ignore_errors=True)
    with patch.object(GitTree, "read", counted), patch.object(Unit, "known_blobs", known_blobs if once else _none):
        before = resource.getrusage(resource.RUSAGE_SELF)
        source = SourceSpec("folders", root / "all", "forks")
        report = import_documents([source], root / "corpus", ImportLimits(), 1)
        after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"cpu_s": cpu_s, "reads": len(reads), "documents": report.documents, "text_bytes": report.text_bytes}


def _none(_unit: Unit) -> None:
    return None


def encodings(arguments: argparse.Namespace) -> None:
    rows = []
    with zipfile.ZipFile(arguments.wheel) as wheel:
        for told, table in ((True, ENCODINGS), (False, UNTOLD)):
            for language, names in table.items():
                found = [text for text in translations(wheel, language) if not text.isascii()]
                for encoding in names:
                    counts = {count: trial(found, encoding, count, arguments.texts) for count in COMMENTS}
                    rows.append({"language": language, "encoding": encoding, "told": told, "counts": counts})
    print("| encodings | comments | texts | right | dropped | wrong |\n| --- | ---: | ---: | ---: | ---: | ---: |")
    for told, said in ((True, "told"), (False, "not told")):
        for count in COMMENTS:
            total = sum((row["counts"][count] for row in rows if row["told"] == told), Counter())
            shares = " | ".join(f"{total[key] / total.total():.1%}" for key in ("right", "dropped", "wrong"))
            print(f"| {said} | {count} | {total.total():,} | {shares} |")
    arguments.out.write_text(json.dumps(rows, indent=1) + "\n")


def translations(wheel: zipfile.ZipFile, language: str) -> Iterator[str]:
    for name in sorted(wheel.namelist()):
        if name.endswith(f"locale/{language}/LC_MESSAGES/django.po"):
            for match in re.finditer(
                r'^msgstr(?:\[\d\])? ((?:"(?:[^"\\]|\\.)*"\n?)+)', wheel.read(name).decode(), re.M
            ):
                parts = re.findall(r'"((?:[^"\\]|\\.)*)"', match.group(1))
                yield "".join(parts).replace("\\n", " ").replace('\\"', '"')


def trial(found: list[str], encoding: str, comments: int, texts: int) -> Counter[str]:
    draw, counts = random.Random(f"{encoding} {comments}"), Counter()
    for _ in range(texts):
        lines = "".join(f"# {text}\n" for text in draw.sample(found, comments))
        data = (CODE + lines + CODE).encode(encoding, "ignore")
        answer = transcode(data)
        counts["dropped" if answer is None else "right" if answer[0] == data.decode(encoding) else "wrong"] += 1
    return counts


if __name__ == "__main__":
    main()
