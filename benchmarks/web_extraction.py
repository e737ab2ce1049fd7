"""WARC to text: how fast, and how many lines of code keep their indentation; and trafilatura on the same pages.

    python benchmarks/web_extraction.py --out web.json
    python benchmarks/web_extraction.py --root ~/docs --root /usr/share/doc

The pages are the documentation that packages ship: HTML files below `--root` (default: those of ROOTS that exist), at
most `--pages` of each, in a WARC file written by warcio. Ours is the stage's shard function, from the WARC file to
documents, annotation and ledger; CPU seconds of all its processes, those that have ended included. trafilatura gets
each page decoded, and nothing else is charged to it. Lines of code are what lxml finds in `pre` elements and in the
fragments of Doxygen, without line numbers, buttons and tooltips. A line is kept when the text holds it with its
indentation, as often as the page does. Peer: `pip install trafilatura lxml_html_clean`.
"""

import argparse
import hashlib
import io
import json
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lxml.html
import trafilatura
from resiliparse.extract.html2text import extract_plain_text
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from data_prep.documents import shard_batches
from data_prep.shards import ShardTask, write_shard
from data_prep.web.archive import Part
from data_prep.web.documents import WebUnit, write_unit
from data_prep.web.reader import end_helper
from data_prep.web.settings import WebConfig

RATE_GOAL, RATIO_GOAL = 15.0, 10.0
ROOTS = (
    "~/.rustup/toolchains/stable-x86_64-unknown-linux-gnu/share/doc/rust/html",
    "/usr/share/doc",
    "/usr/share/gtk-doc",
    "/usr/lib/node_modules",
)
Pages = dict[str, bytes]  # by URL


def pages_below(root: Path, most: int) -> Pages:
    """HTML files below a folder, chosen by the hash of their path."""
    found = [path for path in root.rglob("*.html") if path.is_file() and not path.is_symlink()]
    names = {path: path.relative_to(root).as_posix() for path in found}
    chosen = sorted(found, key=lambda path: hashlib.sha256(names[path].encode()).digest())[:most]
    return {f"https://{root.name}.example.org/{names[path]}": path.read_bytes() for path in chosen}


def write_warc(path: Path, pages: Pages) -> None:
    with open(path, "wb") as stream:
        writer = WARCWriter(stream, gzip=True)
        for url, data in pages.items():
            headers = StatusAndHeaders("200 OK", [("Content-Type", "text/html")], protocol="HTTP/1.1")
            record = writer.create_warc_record(url, "response", payload=io.BytesIO(data), http_headers=headers)
            writer.write_record(record)


def cpu_s() -> float:
    """Of this process and of those it started that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def by_us(warc: Path, work: Path) -> tuple[dict[str, str], float]:
    """Text by URL, and CPU seconds."""
    unit = WebUnit("unit", "benchmark", warc.name, Part(warc))
    start = cpu_s()
    write_shard(ShardTask(work / "imports" / "unit.ledger", "", write_unit, (unit, "", work, WebConfig())))
    end_helper()
    spent_s = cpu_s() - start
    shards = sorted((work / "documents").glob("*.parquet"))
    rows = (row for shard in shards for batch in shard_batches(shard, ["path", "text"]) for row in batch.to_pylist())
    return {row["path"]: row["text"] for row in rows}, spent_s


def by_peer(pages: Pages, extract: Callable[[str], str | None]) -> tuple[dict[str, str], float]:
    start = time.process_time()
    texts = {url: extract(data.decode("utf-8", "replace")) or "" for url, data in pages.items()}
    return texts, time.process_time() - start


def code_lines(data: bytes) -> list[str]:
    """Lines of code of a page that are not blank, as lxml has them."""
    root = lxml.html.document_fromstring(data, parser=lxml.html.HTMLParser(encoding="utf-8"))
    texts = ["".join(_text(block)) for block in root.iter("pre", "div") if block.tag == "pre" or _is(block, "fragment")]
    return [line.rstrip().replace("\xa0", " ") for text in texts for line in text.split("\n") if line.strip()]


def _is(element: Any, name: str) -> bool:
    return name in (element.get("class") or "").split()


def _text(element: Any) -> Iterator[str]:
    yield element.text or ""
    for child in element:
        if isinstance(child.tag, str) and child.tag != "button" and not _is(child, "lineno") and not _is(child, "ttc"):
            yield "\n" if child.tag == "br" else ""
            yield from _text(child)
            yield "\n" if _is(child, "line") else ""
        yield child.tail or ""


def kept(lines: dict[str, list[str]], texts: dict[str, str]) -> int:
    """How many of the pages' code lines are in their texts as they were."""
    total = 0
    for url, wanted in lines.items():
        there = Counter(line.rstrip() for line in texts.get(url, "").split("\n"))
        total += (Counter(wanted) & there).total()
    return total


def measure(pages: Pages, peer_pages: int, runs: int) -> dict[str, Any]:
    some = dict(list(pages.items())[:: max(1, len(pages) // peer_pages)])
    mb, some_mb = (sum(map(len, group.values())) / 1e6 for group in (pages, some))
    lines = {url: code_lines(data) for url, data in some.items()}
    peers = {
        "trafilatura": trafilatura.extract,
        "resiliparse": lambda html: extract_plain_text(html, main_content=True, preserve_formatting=True),
    }
    spent: dict[str, list[float]] = {name: [] for name in ("all", "ours", *peers)}
    texts: dict[str, dict[str, str]] = {}
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            for name, group in (("all", pages), ("ours", some)):
                warc = Path(folder) / f"{name}.warc.gz"
                write_warc(warc, group)
                texts[name], spent_s = by_us(warc, Path(folder) / name)
                spent[name].append(spent_s)
        for name, extract in peers.items():
            texts[name], spent_s = by_peer(some, extract)
            spent[name].append(spent_s)
    count = sum(map(len, lines.values()))
    best = {name: min(seconds) for name, seconds in spent.items()}
    return {
        "pages": len(pages),
        "mb": mb,
        "taken": len(texts["all"]),
        "cpu_s": best["all"],
        "mb_per_s": mb / best["all"],
        "compared": {"pages": len(some), "mb": some_mb, "code_lines": count},
        "peers": {
            name: {"mb_per_s": some_mb / best[name], "lines_kept": kept(lines, texts[name]) / max(1, count)}
            for name in ("ours", *peers)
        },
    }


def table(results: dict[str, Any]) -> str:
    compared, peers = results["compared"], results["peers"]
    ratio = peers["ours"]["mb_per_s"] / peers["trafilatura"]["mb_per_s"]
    verdict = "met" if results["mb_per_s"] >= RATE_GOAL else "not met"
    lines = [
        f"{results['pages']} pages, {results['mb']:.1f} MB of HTML: {results['mb_per_s']:.1f} MB per CPU-second "
        f"(goal {RATE_GOAL:.0f}: {verdict}); {results['taken']} have text.",
        f"\nOn {compared['pages']} of them ({compared['mb']:.1f} MB, {compared['code_lines']:,} lines of code):\n",
        "| what | MB per CPU s | lines of code with their indentation |",
        "| --- | --- | --- |",
    ]
    for name, row in peers.items():
        lines.append(f"| {name} | {row['mb_per_s']:.1f} | {100 * row['lines_kept']:.1f} % |")
    lines.append(
        f"\nTo trafilatura: {ratio:.1f} (goal {RATIO_GOAL:.0f}: {'met' if ratio >= RATIO_GOAL else 'not met'})."
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, action="append", help="folder of HTML files")
    parser.add_argument("--pages", type=int, default=500, help="of each root")
    parser.add_argument("--peer-pages", type=int, default=600, help="that the peers are given, too")
    parser.add_argument("--runs", type=int, default=2, help="of which the best counts")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    roots = arguments.root or [Path(root).expanduser() for root in ROOTS]
    found = [page for root in roots if root.is_dir() for page in pages_below(root, arguments.pages).items()]
    pages = dict(sorted(found, key=lambda page: hashlib.sha256(page[0].encode()).digest()))
    results = measure(pages, arguments.peer_pages, arguments.runs)
    print(table(results))
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
