"""Web pages out of what is installed on a machine: documentation as HTML, and what can be made into it.

Five kinds, each named in the pages' URLs and in the report of a run:

- `shipped`: HTML files that packages install, in folders of documentation and among Python packages;
- `readme`: descriptions of installed Python packages, written in Markdown by people, as their index shows them;
- `pydoc`: reference pages of the standard library, as `python -m pydoc -w` writes them;
- `licence`: texts of licences and notices, page by page: what a crawl holds too, and not about code;
- `mathematics`: explanations with formulas in the sources of installed Python packages, without what they say of code.

Their hosts end in `.example`, which is nobody's: they were never fetched from anywhere.
"""

from __future__ import annotations

import hashlib
import html
import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from launch.full.mathematics import as_html, explanations
from launch.full.warc import Page, write_warc

MOST_BYTES = 400_000
_PACKAGES = sysconfig.get_path("purelib")
_FOLDERS = (
    "/usr/share/doc",
    "/usr/local/share/doc",
    f"{sys.base_prefix}/share/doc",
    _PACKAGES,
    "/usr/lib/node_modules",
    "/usr/local/lib/node_modules",
    os.path.expanduser("~/.rustup/toolchains"),
)
_SHARES = {"shipped": 0.35, "readme": 0.15, "pydoc": 0.15, "licence": 0.15, "mathematics": 0.2}
"""Of the pages; ours. What one kind lacks is not made up for by another."""
_MOST_OF_A_SITE = 0.1
_SHIPPED_PATTERN = re.compile(r"\.html?$", re.I)
_LEGAL = re.compile(r"^(?:licen[cs]e|copying|notice|copyright|authors|contributors)", re.I)
_PAGES_IN_A_FILE = 500


def write_archives(folder: Path, most: int) -> dict[str, dict[str, int]]:
    """Writes at most `most` pages into WARC files of a folder; returns pages, bytes and sites of each kind."""
    makers = {
        "shipped": _shipped,
        "readme": _readmes,
        "pydoc": _pydoc,
        "licence": _licences,
        "mathematics": _mathematics,
    }
    found: dict[str, dict[str, int]] = {}
    folder.mkdir(parents=True, exist_ok=True)
    for kind, make in makers.items():
        pages = list(make(int(most * _SHARES[kind])))
        for number, start in enumerate(range(0, len(pages), _PAGES_IN_A_FILE)):
            write_warc(folder / f"{kind}-{number:03d}.warc.gz", pages[start : start + _PAGES_IN_A_FILE])
        sites = {page.url.split("/")[2] for page in pages}
        found[kind] = {"pages": len(pages), "size_bytes": sum(len(p.html) for p in pages), "sites": len(sites)}
    return found


def _shipped(most: int) -> Iterator[Page]:
    """HTML files, in the order of a hash of their paths."""
    files = (file for folder in _FOLDERS for file in _html_files(folder))
    return _of_many_sites(files, most, "shipped", lambda path: _content(Path(path)))


def _mathematics(most: int) -> Iterator[Page]:
    """Explanations, in the order of a hash of their texts."""

    def page(text: str) -> bytes:
        made = as_html(text)
        return _document(*made) if made else b""

    return _of_many_sites(explanations(Path(_PACKAGES)), most, "mathematics", page)


def _of_many_sites(
    found: Iterable[tuple[str, str, str]], most: int, kind: str, content: Callable[[str], bytes]
) -> Iterator[Page]:
    """Pages made of (site, place, source), in the order of a hash of the source, at most a tenth from one site."""
    ordered = sorted(found, key=lambda one: hashlib.sha256(one[2].encode("utf-8", "surrogateescape")).digest())
    taken: dict[str, int] = {}
    left = most
    for site, below, source in ordered:
        if not left:
            return
        if taken.get(site, 0) < max(1, int(most * _MOST_OF_A_SITE)) and (made := content(source)):
            taken[site] = taken.get(site, 0) + 1
            left -= 1
            yield Page(_url(site, kind, below), made)


def _html_files(folder: str) -> Iterator[tuple[str, str, str]]:
    """(site: the folder's entry that a file lies below, path below that, path); links are not followed."""
    for place, _, names in os.walk(folder):
        for name in filter(_SHIPPED_PATTERN.search, names):
            path = os.path.join(place, name)
            if not os.path.islink(path):
                site, _, below = os.path.relpath(path, folder).partition(os.sep)
                yield site, below or site, path


def _distributions() -> list[importlib.metadata.Distribution]:
    """Installed Python packages, once each, in the order of a hash of their names."""
    found = {one.metadata["Name"]: one for one in importlib.metadata.distributions() if one.metadata["Name"]}
    return [found[name] for name in sorted(found, key=lambda name: hashlib.sha256(name.encode()).digest())]


def _readmes(most: int) -> Iterator[Page]:
    from markdown_it import MarkdownIt

    left = most
    for one in _distributions():
        text = one.metadata.get_payload() or one.metadata.get("Description") or ""
        if left and "markdown" in (one.metadata.get("Description-Content-Type") or "") and len(text) > 300:
            left -= 1
            name = one.metadata["Name"]
            yield Page(_url(name, "readme", "index.html"), _document(name, MarkdownIt().enable("table").render(text)))


def _licences(most: int) -> Iterator[Page]:
    left = most
    for one in _distributions():
        for file in one.files or ():
            if left and _LEGAL.match(file.name) and file.suffix not in (".py", ".pyc"):
                text = _content(Path(one.locate_file(file))).decode("utf-8", "replace")
                if text.strip():
                    left -= 1
                    blocks = (f"<p>{html.escape(block)}</p>" for block in re.split(r"\n\s*\n", text) if block.strip())
                    name = one.metadata["Name"]
                    yield Page(_url(name, "licence", str(file)), _document(f"{name}: {file.name}", "\n".join(blocks)))


def _content(path: Path) -> bytes:
    """Nothing of a file that is too long or may not be read."""
    try:
        return path.read_bytes() if path.stat().st_size <= MOST_BYTES else b""
    except OSError:
        return b""


def _pydoc(most: int) -> Iterator[Page]:
    """Rendered by a process of its own, since pydoc imports what it describes."""
    if not most:
        return
    modules = sorted(sys.stdlib_module_names, key=lambda name: hashlib.sha256(name.encode()).digest())
    command = [sys.executable, "-sP", "-c", _RENDER, str(most), *modules]
    # Pages show values of modules: the environment's are nobody's business, and sets are to have one order.
    quiet = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": {"PYTHONHASHSEED": "0"}}
    with subprocess.Popen(command, stdout=subprocess.PIPE, **quiet) as child:
        for line in child.stdout:
            name, size = line.split()
            yield Page(_url("pydoc", "pydoc", f"{name.decode()}.html"), child.stdout.read(int(size)))


# Prints name, size and page of each module, without addresses. Modules that act when they are imported are left out.
_RENDER = """
import importlib, os, pydoc, re, sys
out = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)
left = int(sys.argv[1])
for name in sys.argv[2:]:
    if not left:
        break
    if name.startswith("_") or name in ("antigravity", "this", "idlelib", "turtledemo", "tkinter", "turtle"):
        continue
    try:
        module = importlib.import_module(name)
        page = pydoc.HTMLDoc().page(name, pydoc.HTMLDoc().document(module, name))
        page = re.sub(r"(?: |&nbsp;)at(?: |&nbsp;)0x[0-9a-f]+|(?<=handle) [0-9a-f]+", "", page).encode()
    except BaseException:
        continue
    left -= 1
    out.write(f"{name} {len(page)}\\n".encode() + page)
    out.flush()
"""


def _document(title: str, body: str) -> bytes:
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title>'
    return (
        f"<!DOCTYPE html><html><head>{head}</head><body>\n<h1>{html.escape(title)}</h1>\n{body}</body></html>".encode()
    )


def _url(site: str, kind: str, path: str) -> str:
    host = re.sub(r"[^a-z0-9]+", "-", site.lower()).strip("-") or "site"
    plain = re.sub(r"[^A-Za-z0-9._/-]+", "-", path)
    return f"https://{host}.example/{kind}/{plain}"
