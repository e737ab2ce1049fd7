"""Languages told by content, on files whose language is known by other means: from which package they are.

    python benchmarks/languages.py fetch --into ARCHIVES       Debian packages, read and never built or installed
    python benchmarks/languages.py check --archives ARCHIVES --out languages.json

Only extensions that stand for several languages count. A label says what every file of an extension in (a folder of) a
package is, such as `.pl` of SWI-Prolog or `.v` of Coq's library; languages that are not among the 89 are `unknown`.
Of an extension and label the files with the smallest hashes are taken, at most `--most`. The share of right answers is
given over all files, and for each extension as the mean over its labels, which a large package cannot buy.
"""

import argparse
import contextlib
import hashlib
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from real_code import fetch

from data_prep.languages import UNKNOWN, detect, extension_of


class Label(NamedTuple):
    """Files of a package with one of these extensions, whose path matches, are in `language`; `said` names others.

    `fresh` packages were not looked at when the rules were written.
    """

    package: str
    extensions: str
    language: str
    said: str = ""
    path: str = ""
    fresh: bool = False


LABELS = (
    Label("antlr", "g", "ANTLR", path=r"/examples/|/antlr/"),
    Label("bison", "l", UNKNOWN, "Lex"),
    Label("bison", "y yy", "Yacc"),
    Label("dejagnu", "exp", "Tcl"),
    Label("flex", "l", UNKNOWN, "Lex"),
    Label("fpc-source-3.2.2", "pp inc", "Pascal", path=r"/(rtl|packages|compiler)/"),
    Label("gap-core", "g", UNKNOWN, "GAP"),
    Label("gforth", "fs", UNKNOWN, "Forth"),
    Label("gforth-common", "fs", UNKNOWN, "Forth"),
    Label("glmark2-data", "frag vert", "GLSL"),
    Label("gnudatalanguage", "pro", UNKNOWN, "IDL"),
    Label("gnustep-base", "m", UNKNOWN, "Objective-C", path=r"/(Source|Tools)/[^/]*\.m$"),
    Label("keepass2", "cs", "C#"),
    Label("libclc-15-dev", "cl", UNKNOWN, "OpenCL"),
    Label("libcoq-stdlib", "v", UNKNOWN, "Coq"),
    Label("libeigen3-dev", "h", "C++", path=r"/src/"),
    Label("libglib2.0-dev", "h", "C"),
    Label("libglm-dev", "inl", "C++"),
    Label("libgnustep-base-dev", "h", UNKNOWN, "Objective-C", path=r"/Foundation/NS"),
    Label("libgnustep-gui-dev", "h", UNKNOWN, "Objective-C", path=r"/AppKit/NS"),
    Label("libgtk-3-dev", "h", "C"),
    Label("linux-libc-dev", "h", "C"),
    Label("llvm-14-dev", "h", "C++", path=r"/llvm/"),
    Label("llvm-14-dev", "inc", "C++", path=r"/llvm/"),
    Label("mercurial", "t", UNKNOWN, "cram", path=r"/tests/"),
    Label("mlton", "fun sig sml", "Standard ML", path=r"/(mlton|lib)/"),
    Label("mathics3", "m", "Mathematica"),
    Label("musl", "s", "Assembly"),
    Label("node-typescript", "ts", "TypeScript"),
    Label("octave-common", "m", "MATLAB"),
    Label("octave-signal", "m", "MATLAB"),
    Label("octave-statistics", "m", "MATLAB"),
    Label("perl", "pl pm t", "Perl"),
    Label("php8.2", "inc", "PHP", path=r"/tests/"),
    Label("puppet-module-puppetlabs-apache", "pp", UNKNOWN, "Puppet"),
    Label("puppet-module-puppetlabs-mysql", "pp", UNKNOWN, "Puppet"),
    Label("puppet-module-puppetlabs-stdlib", "pp", UNKNOWN, "Puppet"),
    Label("qtbase5-dev", "h", "C++", path=r"/Qt\w+/q"),
    Label("qtbase5-examples", "pro", UNKNOWN, "qmake", fresh=True),
    Label("r-cran-dplyr", "r", "R"),
    Label("supercollider-common", "sc", UNKNOWN, "SuperCollider"),
    Label("swi-prolog-core", "pl", "Prolog"),
    Label("swi-prolog-core-packages", "pl", "Prolog"),
    Label("texlive-latex-base", "cls", "TeX"),
    Label("texlive-latex-recommended", "cls", "TeX"),
    Label("texlive-publishers", "cls", "TeX"),
    Label("yosys", "v", "Verilog"),
    Label("syslinux", "inc", "Assembly", path=r"/core/"),
    Label("antlr3", "g", "ANTLR", fresh=True),
    Label("bc", "y", "Yacc", fresh=True),
    Label("expect", "exp", "Tcl", fresh=True),
    Label("gnustep-gui", "m", UNKNOWN, "Objective-C", path=r"/(Source|Panels)/[^/]*\.m$", fresh=True),
    Label("gprolog", "pl", "Prolog", fresh=True),
    Label("iverilog", "v", "Verilog", path=r"/(ivtest|ivltests|examples|vvp)/", fresh=True),
    Label("lazarus-src-2.2", "inc pp", "Pascal", fresh=True),
    Label("libcoq-mathcomp-algebra", "v", UNKNOWN, "Coq", fresh=True),
    Label("libcoq-mathcomp-ssreflect", "v", UNKNOWN, "Coq", fresh=True),
    Label("libcurl4-openssl-dev", "h", "C", fresh=True),
    Label("libimage-exiftool-perl", "pl pm t", "Perl", fresh=True),
    Label("libpoco-dev", "h", "C++", path=r"/Poco/", fresh=True),
    Label("libprotobuf-dev", "h inc", "C++", fresh=True),
    Label("libpython3.11-dev", "h", "C", path=r"/python3.11/[^/]*\.h$", fresh=True),
    Label("nunit", "cs", "C#", fresh=True),
    Label("octave-image", "m", "MATLAB", fresh=True),
    Label("octave-io", "m", "MATLAB", fresh=True),
    Label("openssl", "inc", "C", path=r"/(crypto|providers|include|ssl|test)/", fresh=True),
    Label("puppet-module-puppetlabs-postgresql", "pp", UNKNOWN, "Puppet", fresh=True),
    Label("puppet-module-puppetlabs-apt", "pp", UNKNOWN, "Puppet", fresh=True),
    Label("r-cran-tibble", "r", "R", fresh=True),
    Label("sc3-plugins-language", "sc", UNKNOWN, "SuperCollider", fresh=True),
    Label("texlive-latex-extra", "cls", "TeX", fresh=True),
)
SOURCES = (
    "antlr", "bison", "flex", "gnustep-base", "keepass2", "mercurial", "mlton", "musl", "perl", "php8.2",
    "r-cran-dplyr", "syslinux", "antlr3", "bc", "expect", "gnustep-gui", "gprolog", "iverilog", "nunit", "openssl",
    "r-cran-tibble",
)  # fmt: skip
WHEELS = ("mathics3",)
BINARIES = tuple(sorted({label.package for label in LABELS} - {*SOURCES, *WHEELS}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("fetch")
    command.add_argument("--into", type=Path, required=True)
    command = commands.add_parser("check")
    command.add_argument("--archives", type=Path, required=True, help="what fetch brought")
    command.add_argument("--most", type=int, default=200, help="files of an extension and label")
    command.add_argument("--show", type=int, default=0, help="wrong answers to print, for each extension and label")
    command.add_argument("--out", type=Path, default=Path("languages.json"))
    arguments = parser.parse_args()
    if arguments.command == "fetch":
        fetch(arguments.into, SOURCES, BINARIES)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *WHEELS]
        subprocess.run([*command, "--dest", arguments.into / "archives"], check=True)
    else:
        check(arguments)


def check(arguments: argparse.Namespace) -> None:
    found = list(labelled(arguments.archives, arguments.most))
    summary = {}
    for name, fresh in (("packages in view when the rules were written", False), ("other packages", True)):
        summary[name] = report(name, [entry for entry in found if entry[0].fresh == fresh], arguments.show)
    arguments.out.write_text(json.dumps(summary, indent=1) + "\n")


def report(name: str, found: list[tuple[Label, str, str, str]], show: int) -> dict[str, Any]:
    right: dict[tuple[str, str], Counter[bool]] = defaultdict(Counter)
    wrong: dict[tuple[str, str], list[str]] = defaultdict(list)
    for label, extension, path, text in found:
        key, answer = (extension, label.said or label.language), detect(path, text)
        right[key][answer == label.language] += 1
        if answer != label.language:
            wrong[key].append(f"{label.package}: {path}: {answer}")
    shares = {key: counts[True] / counts.total() for key, counts in right.items()}
    print(f"\n| {name} | is | files | told right |\n| --- | --- | ---: | ---: |")
    for (extension, said), share in sorted(shares.items()):
        print(f"| `.{extension}` | {said} | {right[extension, said].total()} | {share:.1%} |")
        for line in wrong[extension, said][:show]:
            print("   ", line)
    extensions = sorted({extension for extension, _ in shares})
    means = {e: _mean([share for (name, _), share in shares.items() if name == e]) for e in extensions}
    of_all = sum(counts[True] for counts in right.values()) / len(found)
    lowest = min(means, key=means.get)
    print(f"\n{len(found)} files: {of_all:.1%} right; mean of extensions {_mean(list(means.values())):.1%}, ", end="")
    print(f"the lowest `.{lowest}` {means[lowest]:.1%}")
    rows = [{"extension": e, "label": s, "files": right[e, s].total(), "right": shares[e, s]} for e, s in shares]
    return {"files": len(found), "right": of_all, "by_extension": means, "labels": rows}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def labelled(archives: Path, most: int) -> Iterator[tuple[Label, str, str, str]]:
    """(label, extension, path, text) of the sampled files; each content once."""
    seen: set[bytes] = set()
    groups: dict[tuple[str, str, bool], list[tuple[bytes, Label, str, str]]] = defaultdict(list)
    for archive in sorted((archives / "archives").iterdir()):
        package = archive.name.split("-" if archive.suffix == ".whl" else "_")[0]
        labels = [label for label in LABELS if label.package == package]
        for path, data in members(archive) if labels else ():
            extension = extension_of(path)
            for label in labels:
                if extension in label.extensions.split() and re.search(label.path, f"/{path}"):
                    digest = hashlib.sha256(data).digest()
                    with contextlib.suppress(UnicodeDecodeError):
                        text = data.decode()
                        if digest not in seen and text.strip() and "\0" not in text:
                            groups[extension, label.said or label.language, label.fresh].append(
                                (digest, label, path, text)
                            )
                    seen.add(digest)
    for (extension, *_), found in sorted(groups.items()):
        for _, label, path, text in sorted(found)[:most]:
            yield label, extension, path, text


def members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """(path, content) of the files in a Debian package, or in a source archive."""
    with contextlib.ExitStack() as stack:
        if archive.suffix == ".whl":
            wheel = stack.enter_context(zipfile.ZipFile(archive))
            yield from ((name, wheel.read(name)) for name in wheel.namelist())
            return
        if archive.suffix == ".deb":
            command = ["dpkg-deb", "--fsys-tarfile", archive]
            unpack = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
            tar = stack.enter_context(tarfile.open(fileobj=unpack.stdout, mode="r|"))
        elif ".tar." in archive.name and archive.suffix != ".asc" and ".debian." not in archive.name:
            tar = stack.enter_context(tarfile.open(archive, mode="r|*"))
        else:
            return
        for member in tar:
            if member.isfile() and 0 < member.size <= 1 << 20:
                yield member.name, tar.extractfile(member).read()


if __name__ == "__main__":
    main()
