"""Import graphs against checkers that resolve imports their own way, the order that comes of them, and speed.

    python benchmarks/repository_order.py fetch --into PLACE
    python benchmarks/repository_order.py check --place PLACE --out repository_order.json

`fetch` brings sources of Debian packages, packages of npm and a Go toolchain (nothing of it is installed). `check` lays
real repositories out, runs `data import`, `select` and `repositories` on them and asks for each language

| language | who else resolves its imports |
| --- | --- |
| Python | grimp |
| C, C++ | gcc -H: what the preprocessor opens, file by file |
| Go | go list |
| JavaScript, TypeScript | madge |
| Java | javac and jdeps: what compiled classes refer to |
| Rust | rustdoc (nightly), its JSON: the compiler's modules and `use` declarations |
| C# | Mono's compiler and Mono.Cecil: what compiled types refer to |

Found: of the checker's edges, those that we have too. More: of ours, those that the checker does not have. Backwards:
of the checker's edges that are in no cycle of both graphs together, those that point backwards in the strings; of
theirs: the same where only the checker's graph says what a cycle is. A checker that is not there is named and left out.
"""

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grimp
import networkx
import pyarrow.parquet as pq
from csharp_imports import PACKAGES as MONO
from csharp_imports import csharp
from real_code import fetch as fetch_debian

from data_prep.held_out import HeldOut
from data_prep.importing import ImportLimits, SourceSpec, import_documents
from data_prep.repositories.run import write_repositories
from data_prep.repositories.settings import RepositorySettings
from data_prep.select import SelectionConfig, select

Edges = set[tuple[str, str]]
DEBIAN_SOURCES = ("redis", "tmux", "libuv1", "leveldb", "snappy", "fmtlib", "libcommons-lang3-java")
CSHARP = ("nunit", "dbus-sharp")
DEBIAN_BINARIES = (
    *("golang-1.19-go", "golang-1.19-src", "golang-github-spf13-cobra-dev", "golang-github-sirupsen-logrus-dev"),
    *("golang-golang-x-tools-dev", "librust-regex-syntax-dev", "librust-hashbrown-dev", "librust-memchr-dev"),
    *MONO,
)
NPM = ("madge", "dependency-cruiser", "typescript", "rxjs", "zod", "eslint", "webpack")
PYTHON = ("networkx", "pydantic", "hypothesis", "sympy", "rich", "pip", "pygments")
# Where a compiler would be told to look for headers; the build files of these say so.
INCLUDES = {
    "redis": ["src", "deps/hiredis", "deps/lua/src", "deps/linenoise", "deps/hdr_histogram"],
    "libuv1": ["include", "src"],
    "leveldb": [".", "include"],
    "snappy": ["."],
    "fmtlib": ["include"],
    "tmux": ["."],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("fetch")
    command.add_argument("--into", type=Path, required=True)
    command = commands.add_parser("check")
    command.add_argument("--place", type=Path, required=True, help="what fetch brought")
    command.add_argument("--only", nargs="*", help="names of repositories")
    command.add_argument("--out", type=Path, default=Path("repository_order.json"))
    arguments = parser.parse_args()
    if arguments.command == "fetch":
        fetch(arguments.into)
    else:
        check(arguments.place.resolve(), arguments.only, arguments.out)


def fetch(place: Path) -> None:
    fetch_debian(place, (*DEBIAN_SOURCES, *CSHARP), DEBIAN_BINARIES)
    npm = ["npm", "install", "--prefix", str(place / "npm"), "--no-audit", "--no-fund", "--ignore-scripts", *NPM]
    (place / "npm").mkdir(exist_ok=True)
    subprocess.run(npm, check=True)
    for package in (place / "archives").glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, place / "debian"], check=True)


def check(place: Path, only: list[str] | None, out: Path) -> None:
    rows = []
    with tempfile.TemporaryDirectory(prefix="repository-order-") as work:
        sources = Path(work) / "sources"
        repositories = {name: entry for name, entry in lay_out(place, sources) if not only or name in only}
        for name in [path.name for path in sources.iterdir() if path.name not in repositories]:
            shutil.rmtree(sources / name)
        speed = run(sources, Path(work))
        ours, order = composition(Path(work) / "strings")
        print(
            f"{'repository':>20} {'language':>12} {'files':>6} {'edges':>7} {'found':>7} {'more':>7} {'backwards':>10}"
        )
        for name, (language, checker) in sorted(repositories.items(), key=lambda entry: (entry[1][0], entry[0])):
            row = {"repository": name, "language": language, "files": len(order.get(name, ()))}
            row |= compare(checker(sources / name), ours.get(name, set()), order.get(name, {})) if checker else {}
            rows.append(row)
            print_row(row)
        totals = total(rows)
        print(json.dumps(speed))
    out.write_text(json.dumps({"speed": speed, "languages": totals, "repositories": rows}, indent=1) + "\n")


def compare(theirs: Edges | None, ours: Edges, order: dict[str, int]) -> dict:
    if theirs is None:
        return {"checker": "not there"}
    theirs = {(one, other) for one, other in theirs if one != other and one in order and other in order}
    acyclic, in_theirs = (in_no_cycle(theirs, theirs | more) for more in (ours, set()))
    missed = sorted(theirs - ours)
    return {
        "edges": len(theirs),
        "found": len(theirs & ours),
        "ours": len(ours),
        "more": len(ours - theirs),
        "acyclic": len(acyclic),
        "backwards": sum(order[other] < order[one] for one, other in acyclic),
        "in_theirs": len(in_theirs),
        "backwards_in_theirs": sum(order[other] < order[one] for one, other in in_theirs),
        "missed_examples": missed[:: max(1, len(missed) // 8)][:8],
    }


def in_no_cycle(edges: Edges, graph: Edges) -> Edges:
    """The edges whose ends are in different cycles of a graph, or in none."""
    of = {}
    for number, group in enumerate(networkx.strongly_connected_components(networkx.DiGraph(list(graph)))):
        of |= dict.fromkeys(group, number)
    return {(one, other) for one, other in edges if of[one] != of[other]}


def total(rows: list[dict]) -> dict[str, dict]:
    print()
    found: dict[str, dict] = {}
    for row in rows:
        entry = found.setdefault(row["language"], dict.fromkeys(("files", *_COUNTS), 0))
        if "edges" in row:
            for key in entry:
                entry[key] += row[key]
    for language, entry in found.items():
        print_row({"repository": "all", "language": language, **entry})
    return found


_COUNTS = ("edges", "found", "ours", "more", "acyclic", "backwards", "in_theirs", "backwards_in_theirs")


def print_row(row: dict) -> None:
    def share(part: str, whole: str) -> str:
        return f"{row[part] / row[whole]:.1%}" if row.get(whole) else "-"

    print(
        f"{row['repository']:>20} {row['language']:>12} {row['files']:>6} {row.get('edges', '-'):>7} "
        f"{share('found', 'edges'):>7} {share('more', 'ours'):>7} {share('backwards', 'acyclic'):>10} "
        f"{share('backwards_in_theirs', 'in_theirs'):>10}",
        flush=True,
    )


# --- ours


def run(sources: Path, work: Path) -> dict:
    """Strings of all repositories, none cut; megabytes per CPU-second of what comes after the selection."""
    import_documents([SourceSpec("folders", str(sources), "real")], work / "corpus", ImportLimits(), 1)
    select(work / "corpus", "main", SelectionConfig(variant=None, rules=(), held_out=HeldOut(fraction=0)))
    settings = RepositorySettings(min_tokens=0, max_tokens=1 << 40)
    before, started = cpu_seconds(), time.perf_counter()
    about = write_repositories(work / "corpus", work / "strings", settings=settings)
    seconds, megabytes = cpu_seconds() - before, about["text_bytes"] / 1e6
    return {
        "megabytes": megabytes,
        "cpu_seconds": seconds,
        "mb_per_cpu_second": megabytes / seconds,
        "wall_seconds": time.perf_counter() - started,
        "files": about["files_taken"],
        "unread": about["unread"],
        "imports": about["imports"],
        "load": os.getloadavg(),
    }


def cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def composition(strings: Path) -> tuple[dict[str, Edges], dict[str, dict[str, int]]]:
    """Repository -> (file, file that it needs), and repository -> file -> its place in the string."""
    edges: dict[str, Edges] = {}
    order: dict[str, dict[str, int]] = {}
    for shard in (strings / "documents").glob("*.parquet"):
        names = dict(
            zip(
                *(pq.read_table(shard, columns=["id", "repository"])[c].to_pylist() for c in ("id", "repository")),
                strict=True,
            )
        )
        rows = pq.read_table(strings / "composition" / shard.name).to_pylist()
        paths = {row["id"]: row["path"] for row in rows}
        for row in rows:
            name = names[row["document"]]
            order.setdefault(name, {})[row["path"]] = row["place"]
            edges.setdefault(name, set()).update((row["path"], paths[other]) for other in row["needs"])
    return edges, order


# --- real repositories


def lay_out(place: Path, sources: Path) -> Iterator[tuple[str, tuple[str, Callable[[Path], Edges | None] | None]]]:
    """(name, (language, checker)) of every repository that is there, copied into `sources`."""
    for name in PYTHON:
        package = Path(next(iter(map(str, _purelib(name))), ""))
        if package.name:
            shutil.copytree(
                package, sources / f"py-{name}" / name, ignore=shutil.ignore_patterns("__pycache__", "*.so")
            )
            yield f"py-{name}", ("Python", lambda root, name=name: python(root, name))
    for archive in sorted((place / "archives").glob("*.orig.tar*")):
        name = archive.name.split("_")[0]
        if name in (*DEBIAN_SOURCES, *CSHARP) and archive.suffix != ".asc":
            _unpack(archive, sources / name)
            if name in INCLUDES:
                language = "C++" if name in ("leveldb", "snappy", "fmtlib") else "C"
                yield name, (language, lambda root, name=name: c(root, INCLUDES[name]))
            elif name.endswith("-java"):
                yield name, ("Java", java)
            else:
                yield name, ("C#", lambda root: csharp(root, place / "debian"))
    yield from _npm(place / "npm/node_modules", sources, place / "npm/node_modules/.bin/madge")
    go_sources = place / "debian/usr/share/gocode/src"
    for path in ("github.com/spf13/cobra", "github.com/sirupsen/logrus", "golang.org/x/tools"):
        if (go_sources / path).is_dir():
            name = f"go-{path.rpartition('/')[2]}"
            shutil.copytree(go_sources / path, sources / name)
            yield name, ("Go", lambda root, path=path: go(root, path, place / "debian"))
    for crate in sorted((place / "debian/usr/share/cargo/registry").glob("*")):
        if crate.name.startswith(("regex-syntax", "hashbrown", "memchr")):
            name = f"rust-{crate.name}"
            shutil.copytree(crate, sources / name)
            yield name, ("Rust", rust)


def _purelib(name: str) -> Iterator[Path]:
    yield from (Path(entry) / name for entry in sys.path if (Path(entry) / name / "__init__.py").is_file())


def _unpack(archive: Path, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent.parent) as work:
        with tarfile.open(archive) as tar:
            tar.extractall(work, filter="data")
        (top,) = Path(work).iterdir()
        folder.parent.mkdir(exist_ok=True)
        shutil.move(top, folder)


def _npm(modules: Path, sources: Path, madge: Path) -> Iterator[tuple[str, tuple[str, Callable]]]:
    for name, folder, language, extensions in (
        ("eslint", "lib", "JavaScript", "js"),
        ("webpack", "lib", "JavaScript", "js"),
        ("dependency-cruiser", "src", "JavaScript", "mjs,js"),
        ("rxjs", "src", "TypeScript", "ts"),
        ("zod", "src", "TypeScript", "ts"),
    ):
        if (modules / name / folder).is_dir():
            shutil.copytree(modules / name / folder, sources / f"js-{name}" / folder)
            yield (
                f"js-{name}",
                (language, lambda root, extensions=extensions: javascript(root, extensions, madge)),
            )


# --- checkers


def python(root: Path, name: str) -> Edges | None:
    sys.path.insert(0, str(root))
    try:
        graph = grimp.build_graph(name, cache_dir=None)
    finally:
        sys.path.remove(str(root))

    def path(module: str) -> str:
        base = module.replace(".", "/")
        return f"{base}/__init__.py" if (root / base / "__init__.py").is_file() else f"{base}.py"

    return {
        (path(module), path(other))
        for module in graph.modules
        for other in graph.find_modules_directly_imported_by(module)
    }


def c(root: Path, includes: list[str]) -> Edges | None:
    if not shutil.which("gcc"):
        return None
    edges: Edges = set()
    flags = [f"-I{root / folder}" for folder in includes]
    for file in sorted(root.rglob("*")):
        if file.suffix in (".c", ".h", ".cc", ".cpp", ".hpp"):
            language = (
                "c" if file.suffix == ".c" or not {".cc", ".cpp"} & {p.suffix for p in root.rglob("*.c*")} else "c++"
            )
            command = ["gcc", "-x", language, "-H", "-E", "-o", os.devnull, *flags, str(file)]
            said = subprocess.run(command, capture_output=True, text=True, errors="replace").stderr
            for opened in re.findall(r"^\. (.*)$", said, re.MULTILINE):
                target = Path(os.path.normpath(opened))
                if target.is_relative_to(root):
                    edges.add((str(file.relative_to(root)), str(target.relative_to(root))))
    return edges


def go(root: Path, path: str, debian: Path) -> Edges | None:
    goroot = debian / "usr/lib/go-1.19"
    if not (goroot / "bin/go").exists():
        return None
    with tempfile.TemporaryDirectory() as work:
        tree = Path(work) / "src" / path
        tree.parent.mkdir(parents=True)
        shutil.copytree(root, tree)
        environment = {
            **{"GO111MODULE": "off", "GOFLAGS": "", "GOPATH": work, "GOROOT": str(_goroot(debian, Path(work)))},
            **{"HOME": work, "PATH": os.environ["PATH"], "GOCACHE": f"{work}/cache"},
        }
        command = [str(goroot / "bin/go"), "list", "-e", "-json", "./..."]
        said = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True).stdout
    packages, at = [], 0
    while (at := said.find("{", at)) >= 0:
        package, at = json.JSONDecoder().raw_decode(said, at)
        packages.append(package)
    files = {p["ImportPath"]: p.get("GoFiles", []) + p.get("CgoFiles", []) for p in packages}

    def of(package: str, name: str) -> str:
        return f"{package}/{name}".removeprefix(f"{path}/")

    edges: Edges = set()
    for package in packages:
        for name in files[package["ImportPath"]]:
            text = (root / of(package["ImportPath"], name)).read_text(errors="replace")
            for other in package.get("Imports", []):  # of the whole package: which of its files imports it?
                if other in files and f'"{other}"' in text:
                    edges |= {(of(package["ImportPath"], name), of(other, target)) for target in files[other]}
    return edges


def _goroot(debian: Path, work: Path) -> Path:
    """The parts of Debian's Go, which it spreads over two folders, in one."""
    root = work / "goroot"
    root.mkdir()
    for folder in ("bin", "pkg"):
        (root / folder).symlink_to((debian / "usr/lib/go-1.19" / folder).resolve())
    (root / "src").symlink_to((debian / "usr/share/go-1.19/src").resolve())
    return root


def javascript(root: Path, extensions: str, madge: Path) -> Edges | None:
    if not madge.exists():
        return None
    command = [str(madge), "--json", "--extensions", extensions, "."]
    with tempfile.TemporaryFile() as answer:  # madge ends before a pipe has taken all
        subprocess.run(command, cwd=root, stdout=answer, stderr=subprocess.DEVNULL)
        answer.seek(0)
        said = json.loads(answer.read() or "{}")
    return {(os.path.normpath(one), os.path.normpath(other)) for one, others in said.items() for other in others}


def java(root: Path) -> Edges | None:
    if not (shutil.which("javac") and shutil.which("jdeps")):
        return None
    main = next(root.rglob("src/main/java"))
    sources = {str(path.relative_to(main)): path for path in main.rglob("*.java")}
    with tempfile.TemporaryDirectory() as work:
        command = ["javac", "-nowarn", "-encoding", "UTF-8", "-proc:none", "-d", work, *map(str, sources.values())]
        subprocess.run(command, check=True, capture_output=True)
        command = ["jdeps", "-verbose:class", "-filter:none", work]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def path(name: str) -> str | None:
        source = sources.get(f"{name.split('$')[0].replace('.', '/')}.java")
        return str(source.relative_to(root)) if source else None

    found = re.findall(r"^ +(\S+) +-> (\S+) ", said, re.MULTILINE)
    return {(path(one), path(other)) for one, other in found if path(one) and path(other)}


def rust(root: Path) -> Edges | None:
    """Modules and their files by rustdoc; `use` declarations by rustc, which prints a crate with its modules in it."""
    with tempfile.TemporaryDirectory() as work:
        crate = [str(root / "src/lib.rs"), "--edition", "2021", "--crate-name", "checked"]
        options = ["--document-private-items", "-Zunstable-options", "--output-format", "json", "-o", work]
        made = Path(work) / "checked.json"
        try:
            subprocess.run(["rustdoc", "+nightly", *crate, *options], cwd=root, capture_output=True)
            command = ["rustc", "+nightly", "-Zunpretty=expanded", "--crate-type", "lib", *crate]
            printed = subprocess.run(command, cwd=root, capture_output=True, text=True).stdout
            index = json.loads(made.read_text())["index"]
        except OSError:
            return None
    modules = {key: item for key, item in index.items() if "module" in item["inner"] and item["crate_id"] == 0}
    (top,) = (key for key, item in modules.items() if item["inner"]["module"]["is_crate"])
    files: dict[tuple[str, ...], str] = {}

    def walk(key: str, path: tuple[str, ...]) -> None:
        files[path] = os.path.relpath(root / modules[key]["span"]["filename"], root)
        for child in map(str, modules[key]["inner"]["module"]["items"]):
            if child in modules:
                walk(child, (*path, modules[child]["name"]))

    walk(top, ())
    edges = {(files[path[:-1]], file) for path, file in files.items() if path}
    return edges | {edge for at, used in _uses(printed) for edge in _used_files(at, used, files)}


def _uses(printed: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """(module, tree of a `use` declaration) of every declaration in what rustc prints, which it indents evenly."""
    around: list[tuple[int, str]] = []
    printed = re.sub(r"/\*.*?\*/", "", printed, flags=re.DOTALL)
    for match in re.finditer(
        r"^( *)(?:\}|(?:pub(?:\([^)]*\))? )?(?:mod (\w+) \{|use ([^;]+);))", printed, re.MULTILINE
    ):
        indent = len(match[1])
        around = [entry for entry in around if entry[0] < indent]
        if match[2]:
            around.append((indent, match[2]))
        elif match[3]:
            yield tuple(name for _, name in around), "".join(match[3].split())


def _used_files(at: tuple[str, ...], tree: str, files: dict[tuple[str, ...], str]) -> Iterator[tuple[str, str]]:
    while (
        match := re.search(r"(?:[\w]+::)*\{([^{}]*)\}", tree)
    ) is not None:  # the innermost braces, one after another
        prefix = match[0].partition("{")[0]
        tree = tree.replace(match[0], ",".join(prefix + part for part in match[1].split(",") if part))
    for path in tree.split(","):
        parts = path.split("::")
        start = at if parts[0] in ("self", "super") or (*at, parts[0]) in files else None
        start = () if parts[0] == "crate" else start
        if start is None or at not in files:
            continue
        while parts and parts[0] in ("crate", "self", "super"):
            start = start[:-1] if parts.pop(0) == "super" else start
        while parts and (*start, parts[0]) in files:
            start = (*start, parts.pop(0))
        yield files[at], files[start]


if __name__ == "__main__":
    main()
