"""Which C# file refers to which: compiled by Mono's compiler, read from the assemblies with Mono.Cecil.

Mono is unpacked from Debian packages, not installed. A repository's project files say which sources make an assembly
and what it refers to. In which file a type stands is found by its declaration; types that are declared in several files
are left out, since an assembly does not say which of them refers to what.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

Edges = set[tuple[str, str]]
PACKAGES = (
    *("mono-mcs", "mono-runtime-sgen", "mono-runtime-common", "libmono-corlib4.5-cil", "libmono-cecil-private-cil"),
    *(f"libmono-{name}4.0-cil" for name in ("system", "system-core", "system-xml", "system-configuration", "security")),
    *(f"libmono-system-{name}4.0-cil" for name in ("numerics", "data", "web", "drawing", "windows-forms", "runtime")),
    *(f"libmono-system-{name}4.0-cil" for name in ("security", "transactions", "enterpriseservices")),
    "libmono-posix4.0-cil",
)
DEFINES = "MONO;TRACE;CLR_2_0;CLR_4_0;NET_2_0;NET_4_0"
NAMESPACE = re.compile(r"^\s*namespace\s+([\w.]+)")
DECLARED = re.compile(
    r"^\s*(?:\[[^\]]*\]\s*)*(?:(?:public|internal|private|protected|abstract|sealed|static|partial|unsafe|new)\s+)*"
    r"(?:class|struct|interface|enum|delegate\s+[\w.<>,\[\] ]+?)\s+(\w+)"
)


class Project(NamedTuple):
    path: Path
    assembly: str
    sources: list[Path]
    references: list[str]


def csharp(root: Path, debian: Path) -> Edges | None:
    """Edges between files of a repository, as far as its projects compile; None where there is no compiler."""
    mono, compiler = debian / "usr/bin/mono-sgen", debian / "usr/lib/mono/4.5/mcs.exe"
    cecil = sorted(debian.glob("usr/lib/mono/gac/Mono.Cecil/0.11*/Mono.Cecil.dll"))
    if not (mono.is_file() and compiler.is_file() and cecil):
        return None
    places = {"MONO_CFG_DIR": debian / "etc", "MONO_PATH": compiler.parent, "MONO_GAC_PREFIX": debian / "usr"}
    env = os.environ | {name: str(path) for name, path in places.items()}
    with tempfile.TemporaryDirectory() as work:
        out = Path(work)
        for library in (cecil[-1], *debian.glob("usr/lib/mono/gac/Mono.Posix/4*/Mono.Posix.dll")):
            shutil.copy(library, out)

        def run(*command: object, folder: Path = out) -> subprocess.CompletedProcess:
            said = [str(mono), *map(str, command)]
            return subprocess.run(said, cwd=folder, env=env, capture_output=True, text=True)

        compiled, sources = [], []
        for project in in_order(list(projects(root))):
            options = ["-nologo", "-warn:0", "-unsafe", "-target:library", f"-lib:{out}", f"-d:{DEFINES}"]
            options += [f"-r:{name}.dll" for name in project.references]
            assembly = out / f"{project.assembly}.dll"
            made = run(compiler, *options, f"-out:{assembly}", *project.sources, folder=project.path.parent)
            if made.returncode:
                error = next((line for line in made.stdout.splitlines() + made.stderr.splitlines() if line), "")
                print(f"{project.path.relative_to(root)} is left out: {error[:150]}")
                continue
            compiled.append(assembly)
            sources += project.sources
        reader = out / "types.exe"
        options = ["-nologo", "-r:Mono.Cecil.dll", "-r:System.Core.dll", f"-lib:{out}", f"-out:{reader}"]
        if run(compiler, *options, Path(__file__).with_name("types_of_assemblies.cs")).returncode:
            return None
        said = run(reader, *compiled).stdout
    files = declared(root, sources)
    pairs = (line.split("\t") for line in said.splitlines())
    named = ((files.get(plain(one), set()), files.get(plain(other), set())) for one, other in pairs)
    return {(*one, *other) for one, other in named if len(one) == len(other) == 1 and one != other}


def projects(root: Path) -> Iterator[Project]:
    """Those whose sources are all there; tests and samples left out."""
    for path in sorted(root.rglob("*.csproj")):
        if any(part in ("tests", "samples", "examples") or part.startswith("tests") for part in path.parts):
            continue
        tree = ElementTree.parse(path)
        found: dict[str, list[str]] = {"Compile": [], "Reference": [], "ProjectReference": [], "AssemblyName": []}
        for element in tree.iter():
            tag = element.tag.rpartition("}")[2]
            if tag in found:
                found[tag].append((element.get("Include") or element.text or "").replace("\\", "/"))
        sources = [(path.parent / source).resolve() for source in found["Compile"]]
        references = [name.split(",")[0] for name in found["Reference"]]
        references += [Path(name).stem.removesuffix(".dll") for name in found["ProjectReference"]]
        if sources and all(source.is_file() for source in sources):
            yield Project(path, (found["AssemblyName"] or [path.stem])[0], sources, references)


def in_order(waiting: list[Project]) -> Iterator[Project]:
    """Projects after those of the repository that they refer to."""
    while waiting:
        names = {project.assembly for project in waiting}
        ready = [one for one in waiting if not names & (set(one.references) - {one.assembly})] or waiting
        yield from ready
        waiting = [one for one in waiting if one not in ready]


def declared(root: Path, sources: list[Path]) -> dict[str, set[str]]:
    """Full name of a type -> the files that declare it, seen from the root."""
    files: dict[str, set[str]] = {}
    for source in sources:
        namespace = ""
        for line in source.read_text(encoding="utf-8", errors="replace").splitlines():
            if found := NAMESPACE.match(line):
                namespace = f"{found[1]}."
            elif found := DECLARED.match(line):
                files.setdefault(namespace + found[1], set()).add(str(source.relative_to(root.resolve())))
    return files


def plain(name: str) -> str:
    """Without the number of type parameters."""
    return name.partition("`")[0]
