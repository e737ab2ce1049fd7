"""The stage: WARC files to a corpus of pages, what is counted, what a further run does, and what it survives."""

import gzip
import json
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import tokenize
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from object_store import s3_server
from typer.testing import CliRunner
from warc_files import HTML_TYPE, article, counted, documentation, plain_page, record_bytes, source_page, warc_bytes

from data_prep.cli import app
from data_prep.documents import SCHEMA, list_shards
from data_prep.errors import DataError
from data_prep.web import reader
from data_prep.web.reasons import REASONS
from data_prep.web.run import WebSource, import_pages, source_of
from data_prep.web.settings import load_config

PAGES = [(f"https://site{n % 3}.example.org/{n}", plain_page(n)) for n in range(9)]


@pytest.fixture
def warcs(tmp_path) -> Path:
    folder = tmp_path / "warcs"
    folder.mkdir()
    return folder


@pytest.fixture
def run(tmp_path, warcs):
    """run(sections...) brings tmp_path/corpus up to date with the WARC files and returns the report."""

    def bring(corpus="corpus", workers=1, sources=None, remove=(), **sections):
        sources = [WebSource(str(warcs), "crawl")] if sources is None else sources
        return import_pages(tmp_path / corpus, sources, load_config(None, sections), workers, remove=remove)

    return bring


@pytest.fixture
def pages(tmp_path):
    """pages() is every document of the corpus with its facts, in their order."""

    def read(corpus="corpus") -> list[dict]:
        found = []
        for shard in list_shards(tmp_path / corpus):
            facts = pq.read_table(tmp_path / corpus / "annotations/web" / shard.name).to_pylist()
            for row, fact in zip(pq.read_table(shard).to_pylist(), facts, strict=True):
                assert row["id"] == fact["id"]
                found.append({**fact, **row})
        return found

    return read


def test_what_a_page_is(warcs, run, pages):
    (warcs / "a.warc.gz").write_bytes(record_bytes("http://u:p@WWW.Example.org/a?b#c", source_page(textwrap).encode()))
    report = run()
    (page,) = pages()
    assert {key: page[key] for key in ("source", "repository", "path", "language", "encoding")} == {
        "source": "crawl", "repository": "example.org", "path": "http://www.example.org/a?b", "language": "Web",
        "encoding": "utf-8",
    }  # fmt: skip
    assert (page["url"], page["host"], page["site"]) == (page["path"], "www.example.org", "example.org")
    assert (page["title"], page["content_type"], page["charset"]) == ("textwrap", HTML_TYPE, "utf-8")
    assert page["date"].isoformat() == "2024-05-06T07:08:09+00:00" and page["record"] == "a.warc.gz#0"
    assert page["has_code"] and page["code_share"] > 0.9 and page["code_blocks"] == 1 and not page["is_truncated"]
    assert page["html_bytes"] == len(source_page(textwrap).encode()) and page["failed"] is None
    assert 'def fill(text, width=70, **kwargs):\n    """Fill a single paragraph' in page["text"]
    assert (report.documents, report.units_made, report.languages["Web"]["documents"]) == (1, 1, 1)


def test_real_pages(warcs, run, pages):
    tokenizer = ("https://code.example.org/tokenize", source_page(tokenize).encode())
    real = [*documentation(textwrap, random, json), tokenizer]
    (warcs / "a.warc.gz").write_bytes(warc_bytes(real))
    (warcs / "b.warc").write_bytes(
        warc_bytes([("https://u16.example.org/", plain_page().decode().encode("utf-16"))], gzip=False)
    )
    assert run().documents == 5 and not run().drops
    found = {page["path"]: page for page in pages()}
    assert [found[url]["has_code"] for url, _ in real] == [False, False, False, True]
    assert found["https://u16.example.org/"]["encoding"] == "utf-16-le"


def record(url, body=b"", **options) -> bytes:
    return record_bytes(f"https://example.org/{url}" if "//" not in url else url, body or plain_page(), **options)


def typed(content_type: str, *more: tuple[str, str]) -> list[tuple[str, str]]:
    return [("Content-Type", content_type), *more]


def hostile() -> dict[str, list[bytes]]:
    """reason -> records that are dropped for it."""
    bomb = gzip.compress(b"<html>" + b"<p>" * (1 << 21))
    zip_type = typed(HTML_TYPE, ("Content-Encoding", "gzip"))
    return {
        "other_record": [record("a", kind="conversion", headers=typed("text/plain"))],
        "bad_url": [record("ftp://example.org/"), record("http://" + "a" * 3000)],
        "status": [record("a", status="404 Not Found"), record("b", status="301 Moved")],
        "not_html": [record("a", b"{}", headers=typed("application/json")), record("b", b"%PDF-1.4"),
                     record("c", b"plain", headers=typed("text/plain")),
                     record("d", kind="resource", headers=typed("image/png"))],
        "too_large": [record("a", b"<p>" + b"x" * (5 << 20))],
        "bomb": [record("a", bomb, headers=zip_type)],
        "bad_encoding": [record("a", b"\x1f\x8b\x08" + b"\xff" * 99, headers=zip_type)],
        "not_text": [record("a", bytes(range(256)) * 9), record("b", b"<p>\0</p>")],
        "too_deep": [record("a", b"<div>" * 100_000), record("b", b"<b><i>" * 2000)],
        "empty": [record("a", b" \n"), record("b", b"<html><script>x</script></html>"), record("c", b"<p>&nbsp;</p>")],
    }  # fmt: skip


def test_every_reason_is_counted_and_the_rest_is_taken(warcs, run, pages):
    records = [entry for entries in hostile().values() for entry in entries]
    resource = record_bytes("https://example.org/r", plain_page(7), kind="resource", headers=typed("text/html"))
    mixed = [one for entry in records for one in (entry, record(f"good/{len(entry)}"))] + [resource]
    (warcs / "a.warc.gz").write_bytes(b"".join(mixed))
    report = run()
    assert counted(report) == {reason: len(entries) for reason, entries in hostile().items()}, report.drops
    assert report.documents == len(records) + 1 and set(report.drops) <= set(REASONS)
    assert len({page["id"] for page in pages()}) == report.documents, "one URL several times: told apart by record"
    assert report.drops["status"]["examples"][0].endswith("https://example.org/a (404)")
    assert report.drops["bomb"]["examples"][0].startswith("a.warc.gz#")


def test_damaged_and_cut_files(warcs, run):
    data = warc_bytes(PAGES)
    (warcs / "cut.warc.gz").write_bytes(data[: len(data) // 2])
    (warcs / "damaged.warc.gz").write_bytes(data[:900] + b"\0" * 40 + data[940:])
    (warcs / "none.warc.gz").write_bytes(b"<html>no archive</html>")
    (warcs / "empty.warc").touch()
    report = run()
    assert counted(report) == {"truncated_file": 1, "damaged_record": 1, "not_warc": 2}
    assert report.documents >= 8 + 4


def test_a_page_that_never_ends_costs_that_page(warcs, run):
    """100,000 attributes of one element are quadratic work within the parser."""
    never = b"<html><body><div " + b" ".join(b"a%d=1" % number for number in range(400_000)) + b">x</div>"
    (warcs / "a.warc.gz").write_bytes(record("first") + record("never", never) + record("last"))
    report = run(records={"timeout_s": 5, "max_html_bytes": 8 << 20})
    assert counted(report) == {"timed_out": 1} and report.documents == 2
    assert "https://example.org/never" in report.drops["timed_out"]["examples"][0]


CRASHING = """
import os
from data_prep.web import pages, reader

extract, records_of, serve = pages.extract, pages.records_of, reader.serve

def crash(html, settings):
    if "SEGFAULT" in html:
        os.kill(os.getpid(), 11)
    if "PANIC" in html:
        raise type("PanicException", (BaseException,), {})("a native panic")
    return extract(html, settings)

def crash_between(*arguments):
    for record in records_of(*arguments):
        yield record
        if "between" in getattr(record, "url", ""):
            os.kill(os.getpid(), 11)

pages.extract, pages.records_of = crash, crash_between
"""


@pytest.fixture
def crashing(tmp_path, monkeypatch):
    """Pages are read by a process that crashes on some of them."""
    (tmp_path / "crashing_pages.py").write_text(CRASHING)
    monkeypatch.syspath_prepend(str(tmp_path))
    made = reader.Helper
    monkeypatch.setattr(reader, "Helper", lambda entry: made("crashing_pages:serve"))


def test_a_crash_between_records_costs_none(warcs, run, pages, crashing):
    records = [record(name) for name in ("a", "b", "between", "c", "between/2", "d")]
    (warcs / "a.warc.gz").write_bytes(b"".join(records))
    report = run()
    assert report.documents == 6 and not report.drops
    assert [page["path"][-1] for page in pages()] == ["a", "b", "n", "c", "2", "d"]


@pytest.mark.parametrize("compress", [True, False])
def test_a_page_that_kills_the_process_costs_that_page(warcs, run, pages, crashing, compress):
    """In one compressed member and in many."""
    bodies = [b"one", b"SEGFAULT", b"two", b"PANIC", b"three", b"SEGFAULT", b"SEGFAULT", b"four"]
    records = [
        record(f"{number}", article("", prose=body.decode() * 9).encode(), gzip=compress)
        for number, body in enumerate(bodies)
    ]
    (warcs / "a.warc").write_bytes(b"".join(records))
    if not compress:
        (warcs / "b.warc.gz").write_bytes(gzip.compress(b"".join(records)))
    report = run()
    files = 1 if compress else 2
    assert counted(report) == {"crashed": 3 * files, "failed": files}
    assert [page["path"][-1] for page in pages()] == ["0", "2", "4", "7"] * files
    assert "https://example.org/1 (crashed (signal 11))" in report.drops["crashed"]["examples"][0]


def test_memory_is_bounded(warcs, run):
    """A page that needs more than it may have is dropped, and the run goes on."""
    (warcs / "a.warc.gz").write_bytes(record("a") + record("b", b"<p>" * 2_600_000) + record("c"))
    report = run(records={"memory_bytes": 512 << 20, "max_html_bytes": 8 << 20}, extraction={"max_depth": 10**7})
    assert report.documents == 2 and counted(report) in ({"crashed": 1}, {"failed": 1}, {"timed_out": 1})


def test_a_second_run_does_nothing_and_new_files_are_added(warcs, run, pages, tmp_path, snapshot):
    (warcs / "a.warc.gz").write_bytes(warc_bytes(PAGES[:4]))
    assert run().units_made == 1
    first = snapshot(tmp_path / "corpus")
    assert run().units_made == 0 and snapshot(tmp_path / "corpus") == first
    (warcs / "sub").mkdir()
    (warcs / "sub" / "b.warc").write_bytes(warc_bytes(PAGES[4:], gzip=False))
    report = run()
    assert (report.units_made, report.units, report.documents) == (1, 2, 9)
    assert {
        name: data
        for name, data in snapshot(tmp_path / "corpus").items()
        if name in first and "import.json" not in name
    } == {name: data for name, data in first.items() if "import.json" not in name}
    (warcs / "a.warc.gz").unlink()
    assert run().documents == 5 and {page["record"].split("#")[0] for page in pages()} == {"sub/b.warc"}
    assert {path.name for path in (tmp_path / "corpus/annotations/web").glob("*.parquet")} == {
        shard.name for shard in list_shards(tmp_path / "corpus")
    }


def test_sources_are_brought_up_to_date_one_by_one(warcs, run, tmp_path):
    for name in ("a", "b"):
        (warcs / f"{name}.warc.gz").write_bytes(warc_bytes(PAGES))
    sources = [WebSource(str(warcs / f"{name}.warc.gz"), name) for name in ("a", "b")]
    assert run(sources=sources[:1]).documents == 9
    assert run(sources=sources[1:]).documents == 18
    assert run(sources=[], remove=["a"]).documents == 9
    with pytest.raises(DataError, match="no source 'c' to remove; it has b"):
        run(sources=[], remove=["c"])


def test_the_same_bytes_however_it_is_made(warcs, run, tmp_path, snapshot):
    for name in "abc":
        (warcs / f"{name}.warc.gz").write_bytes(warc_bytes(PAGES) + hostile()["not_text"][0])
    expected = None
    for corpus, workers in (("one", 1), ("two", 3)):
        run(corpus, workers)
        found = snapshot(tmp_path / corpus)
        assert expected is None or found == expected
        expected = found
    parts = run("parts", part_bytes=1024, shard_bytes=3000)
    assert parts.units > 3 and parts.documents == 27 and parts.shards > 6
    texts = [
        {
            (row["id"], row["text"])
            for shard in list_shards(tmp_path / corpus)
            for row in pq.read_table(shard).to_pylist()
        }
        for corpus in ("one", "parts")
    ]
    assert texts[0] == texts[1] and counted(parts) == {"not_text": 3}


def test_what_decides_whether_a_part_is_read_again(warcs, run):
    (warcs / "a.warc.gz").write_bytes(warc_bytes(PAGES))
    assert run().units_made == 1
    assert run(part_bytes=1 << 20).units_made == 0
    assert run(extraction={"main_content": False}).units_made == 1
    (warcs / "a.warc.gz").write_bytes(warc_bytes(PAGES[:3]))
    report = run(extraction={"main_content": False})
    assert (report.units_made, report.documents) == (1, 3)


def test_a_killed_run_goes_on(warcs, run, tmp_path, snapshot):
    for number in range(6):
        (warcs / f"{number}.warc.gz").write_bytes(warc_bytes(PAGES * 4))
    run("whole")
    code = "from launch.cli import main; main()"
    arguments = ["data", "web", str(tmp_path / "corpus"), f"crawl={warcs}", "--workers", "2"]
    command = [sys.executable, "-c", code, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    until = time.monotonic() + 60
    while not list((tmp_path / "corpus").glob("imports/*.ledger.json")) and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 0 < len(list((tmp_path / "corpus").glob("imports/*.ledger.json"))) <= 6
    time.sleep(0.5)  # what it started ends with it
    assert run().units_made < 6 and snapshot(tmp_path / "corpus") == snapshot(tmp_path / "whole")


def test_errors_say_what_to_do(warcs, run, tmp_path, take, files):
    with pytest.raises(DataError, match=r"holds no WARC file \(\.warc, "):
        run()
    with pytest.raises(DataError, match="does not exist"):
        run(sources=[WebSource(str(tmp_path / "nowhere"), "a")])
    with pytest.raises(DataError, match="no source was given"):
        run(sources=[])
    with pytest.raises(DataError, match="two sources are named 'a'"):
        run(sources=[WebSource(str(warcs), "a")] * 2)
    with pytest.raises(DataError, match="use letters, digits"):
        run(sources=[WebSource(str(warcs), "a b")])
    (warcs / "a.warc.gz").write_bytes(hostile()["status"][0])
    with pytest.raises(DataError, match=r"nothing is left to train on: 1 x status \(an HTTP status other than 200\)"):
        run("empty")
    take(files(tmp_path / "code", {"repo/a.py": "x = 1\n"}))
    with pytest.raises(DataError, match="holds documents that are no pages"):
        run()


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"record": {}}, "there is no key 'record'; did you mean 'records'"),
        ({"records": {"timeout": 1}}, "there is no key 'records.timeout'; did you mean 'timeout_s'"),
        ({"part_bytes": 0}, "part_bytes: Input should be greater than or equal to 1024"),
    ],
)
def test_settings_that_are_none(sections, said):
    with pytest.raises(DataError, match=said):
        load_config(None, sections)


def test_sources_of_a_command_line():
    assert source_of("crawl=/data/a.warc.gz") == WebSource("/data/a.warc.gz", "crawl")
    assert source_of("/data/CC-MAIN-2024.warc.gz").name == "CC-MAIN-2024"
    assert source_of("s3://bucket/crawl=1/x.warc") == WebSource("s3://bucket/crawl=1/x.warc", "x")


def test_the_command(warcs, tmp_path):
    (warcs / "a.warc.gz").write_bytes(warc_bytes(PAGES) + hostile()["status"][0])
    (tmp_path / "web.yaml").write_text("extraction: {main_content: false}\nexamples: 1\n")
    arguments = [
        "web",
        str(tmp_path / "corpus"),
        f"crawl={warcs}",
        "--config",
        str(tmp_path / "web.yaml"),
        "--workers",
        "1",
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "9 pages" in result.output and "(1 of 1 parts read now)" in result.output
    assert "dropped 1 (status), such as a.warc.gz#" in result.output
    for step in (["inspect", str(tmp_path / "corpus")], ["dedup", str(tmp_path / "corpus"), "--workers", "1"]):
        assert CliRunner().invoke(app, step).exit_code == 0


def test_an_object_store_gives_the_same(warcs, run, tmp_path, monkeypatch, snapshot):
    (warcs / "a.warc.gz").write_bytes(warc_bytes(PAGES))
    (warcs / "b.warc").write_bytes(warc_bytes(PAGES, gzip=False))
    run("disk")
    with s3_server(monkeypatch) as bucket:
        for path in warcs.iterdir():
            (bucket / "raw" / path.name).write_bytes(path.read_bytes())
        report = import_pages(bucket / "corpus", [WebSource(f"{bucket}/raw", "crawl")], load_config())
        assert report.documents == 18
        shards = sorted((bucket / "corpus" / "documents").glob("*.parquet"))
        found = {shard.name: pq.read_table(shard.open("rb")) for shard in shards}
    expected = {shard.name: pq.read_table(shard) for shard in list_shards(tmp_path / "disk")}
    assert found == expected and set(next(iter(found.values())).column_names) == set(SCHEMA.names)
    shutil.rmtree(tmp_path / "disk")
