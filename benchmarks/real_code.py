"""Real files to measure on: code of this machine and of Debian source packages, sampled by language.

Debian packages are fetched once with apt-get, as source archives that are read and never built or installed:

    python benchmarks/real_code.py fetch --into ARCHIVES
    python benchmarks/real_code.py sample --archives ARCHIVES --out files.jsonl

`files.jsonl` has a line per file (language, source, path, text), each content once. Files in folders of tests are left
out: those of compilers hold broken code on purpose. The sample is a function of what is there: per language and source
the files with the smallest hashes.
"""

import argparse
import contextlib
import hashlib
import heapq
import json
import os
import subprocess
import sysconfig
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_prep.languages import UNKNOWN, detect, may_be_code

PACKAGES = """
    angular.js ansible augeas autopkgtest awesome bash-completion bison cargo chicken cmake containerd
    core-match-clojure curl debootstrap docker.io elixir-lang emacs erlang etcd fmtlib fpc ghc ghdl git
    glmark2 godot golang-1.19 gradle groovy grpc guava-libraries helm iverilog jqueryui keepass2 kotlin
    lapack leiningen-clojure libmojolicious-perl libmoose-perl librsvg linux maxima mediawiki mesa
    neovim nginx nlohmann-json3 node-lodash node-rollup node-typescript node-undici nrepl-clojure nunit
    ocaml ocaml-dune octave pandoc perl php-twig phpmyadmin phpunit poco prosody protobuf r-base r-cran-
    dplyr r-cran-ggplot2 r-cran-tibble racket rails rasqal redis ring-clojure rust-ripgrep sbcl scala
    sqlite3 supertuxkart swi-prolog symfony tcllib thrift tk8.6 tmux tomcat9 vlc wordpress xmonad yosys
    zabbix
"""
BINARY_PACKAGES = ("texlive-latex-base", "texlive-latex-recommended", "texlive-latex-extra", "augeas-lenses")
ROOTS = (
    sysconfig.get_paths()["stdlib"],
    sysconfig.get_paths()["purelib"],
    "/usr/include",
    "/usr/share",
    "/usr/lib",
)
TEST_FOLDERS = frozenset(
    ("test", "tests", "testing", "testsuite", "testsuites", "testdata", "test-data", "t", "fixtures", "idle_test")
)
DEB_SRC = "deb-src http://deb.debian.org/debian bookworm main\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("fetch", help="Debian source archives")
    command.add_argument("--into", type=Path, required=True)
    command = commands.add_parser("sample", help="files by language")
    command.add_argument("--archives", type=Path, help="what fetch brought")
    command.add_argument("--roots", nargs="*", default=ROOTS)
    command.add_argument("--per-language", type=int, default=2000)
    command.add_argument("--per-source", type=int, default=300, help="of one language")
    command.add_argument("--max-file-bytes", type=int, default=1 << 20)
    command.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.command == "fetch":
        fetch(arguments.into)
        return
    rows = list(sample(arguments.roots, arguments.archives, arguments))
    with open(arguments.out, "w", encoding="utf-8") as out:
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    for language, count in Counter(row["language"] for row in rows).most_common():
        print(f"{count:>6} {language}")


def fetch(folder: Path, sources: Sequence[str] = PACKAGES.split(), binaries: Sequence[str] = BINARY_PACKAGES) -> None:
    """Downloads what is not there yet; what Debian does not have is said and left out."""
    for name in ("state/lists/partial", "cache/archives/partial", "archives"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "sources.list").write_text(DEB_SRC)
    options = [f"Dir::State={folder.resolve()}/state", f"Dir::Cache={folder.resolve()}/cache"]
    options += [f"Dir::Etc::SourceList={folder.resolve()}/sources.list", "Dir::Etc::SourceParts=/dev/null"]
    apt = ["apt-get", "-qq", *(word for option in options for word in ("-o", option))]
    subprocess.run([*apt, "update"], check=True)
    commands = [[*apt, "source", "--download-only", name] for name in sources]
    commands += [["apt-get", "-qq", "download", name] for name in binaries]
    for command in commands:
        if subprocess.run(command, cwd=folder / "archives").returncode:
            print(f"{command[-1]}: not fetched")


def sample(roots: list[str], archives: Path | None, limits: argparse.Namespace) -> Iterator[dict[str, str]]:
    """The sampled files, by language and source."""
    chosen: dict[tuple[str, str], list[tuple[int, str, str]]] = {}
    seen: set[bytes] = set()
    for source, path, data in files(roots, archives, limits.max_file_bytes):
        digest = hashlib.sha256(data).digest()
        if digest in seen:
            continue
        seen.add(digest)
        with contextlib.suppress(UnicodeDecodeError):
            text = data.decode()
            language = detect(path, text)
            if language != UNKNOWN and "\0" not in text and text.strip():
                heap = chosen.setdefault((language, source), [])
                entry = (-int.from_bytes(digest[:8], "big"), path, text)
                (heapq.heappush if len(heap) < limits.per_source else heapq.heappushpop)(heap, entry)
    by_language: dict[str, list[tuple[int, str, str, str]]] = {}
    for (language, source), heap in chosen.items():
        by_language.setdefault(language, []).extend((-key, source, path, text) for key, path, text in heap)
    for language in sorted(by_language):
        for _, source, path, text in sorted(by_language[language])[: limits.per_language]:
            yield {"language": language, "source": source, "path": path, "text": text}


def files(roots: list[str], archives: Path | None, max_bytes: int) -> Iterator[tuple[str, str, bytes]]:
    """(source, path, content) of every file that may be code."""
    for root in roots:
        for directory, folders, names in os.walk(root):
            folders[:] = sorted(set(folders) - TEST_FOLDERS)
            for path in (Path(directory, name) for name in sorted(names)):
                with contextlib.suppress(OSError):
                    wanted = may_be_code(str(path)) and not path.is_symlink() and path.is_file()
                    if wanted and path.stat().st_size <= max_bytes:
                        yield root, str(path), path.read_bytes()
    for archive in sorted((archives / "archives").iterdir()) if archives else ():
        source = archive.name.split("_")[0]
        if archive.suffix == ".deb":
            with (
                subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE) as unpack,
                tarfile.open(fileobj=unpack.stdout, mode="r|") as members,
            ):
                yield from _members(source, members, max_bytes)
        elif ".orig" in archive.name and archive.suffix != ".asc":
            with tarfile.open(archive, mode="r|*") as members:
                yield from _members(source, members, max_bytes)


def _members(source: str, archive: tarfile.TarFile, max_bytes: int) -> Iterator[tuple[str, str, bytes]]:
    for member in archive:
        parts = member.name.split("/")
        wanted = member.isfile() and 0 < member.size <= max_bytes and may_be_code(member.name)
        if wanted and not TEST_FOLDERS & set(parts[:-1]):
            yield source, member.name, archive.extractfile(member).read()


if __name__ == "__main__":
    main()
