"""Records of WARC files: what is found of a whole, damaged, cut or split file."""

import gzip
import io
import random

import pytest
import zstandard
from fastwarc.stream_io import Lz4Writer
from hypothesis import given
from hypothesis import strategies as st
from warc_files import plain_page, record_bytes, warc_bytes

from data_prep.web.archive import Damage, LostBodyError, Part, Position, can_be_split, records_of

PAGES = [(f"https://example.org/{n}", plain_page(n)) for n in range(6)]
RECORDS = {gzip: [record_bytes(url, body, gzip) for url, body in PAGES] for gzip in (True, False)}


def read(path, data: bytes | None = None, start=0, end=None, **options) -> list:
    """(URL, body) of what can be read, and reasons of what cannot."""
    if data is not None:
        path.write_bytes(data)
    found = []
    for record in records_of(Part(path, start, end), **options):
        if isinstance(record, Damage):
            found.append(record.reason)
            continue
        try:
            found.append((record.url, record.read(1 << 20)))
        except LostBodyError:
            found.append("lost")
    return found


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.warc"


def lz4(data: bytes) -> bytes:
    out = io.BytesIO()
    writer = Lz4Writer(out)
    writer.write(data)
    writer.close()
    return out.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        warc_bytes(PAGES, gzip=True),
        warc_bytes(PAGES, gzip=False),
        gzip.compress(warc_bytes(PAGES, gzip=False)),
        b"".join(zstandard.compress(record) for record in RECORDS[False]),
        zstandard.compress(warc_bytes(PAGES, gzip=False)),
        b"".join(map(lz4, RECORDS[False])),
    ],
    ids=["gzip", "plain", "one gzip member", "zstd", "one zstd frame", "lz4"],
)
def test_all_records_of_a_file(path, data):
    assert read(path, data) == PAGES
    positions = [record.position for record in records_of(Part(path))]
    assert len(set(positions)) == len(PAGES) and positions == sorted(positions)
    for position, left in zip(positions, range(5, -1, -1), strict=True):
        assert read(path, after=position) == PAGES[len(PAGES) - left :]


@pytest.mark.parametrize("compressed", [True, False])
def test_what_a_record_says(path, compressed):
    headers = [("content-type", "text/HTML; charset=x"), ("Content-Encoding", "br"), ("Transfer-Encoding", "chunked")]
    told = {"WARC_Truncated": "length", "WARC_Date": "2020-01-02T03:04:05.678Z"}
    path.write_bytes(record_bytes("https://e.org/", b"body", compressed, "404 Not Found", headers, **told))
    (record,) = records_of(Part(path))
    assert (record.position, record.status, record.size_bytes, record.is_truncated) == (Position(0, 0), 404, 4, True)
    assert record.date.isoformat() == "2020-01-02T03:04:05.678000+00:00"
    assert (record.content_type, record.content_encoding) == ("text/HTML; charset=x", "br")
    assert record.transfer_encoding == "chunked"
    for date in ("yesterday", "0001-01-01T00:00:00Z", ""):
        path.write_bytes(record_bytes("https://e.org/", b"", compressed, WARC_Date=date))
        assert next(records_of(Part(path))).date is None


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("bad", range(1, 5))
def test_damage_costs_the_record_it_is_in(path, compressed, bad):
    records = list(RECORDS[compressed])
    at = records[bad].find(b"HTTP/1.1") if not compressed else 40
    records[bad] = b"\0" * 12 + records[bad][12:at] + b"\0" * 20 + records[bad][at + 20 :]
    found = read(path, b"".join(records))
    assert [entry for entry in found if isinstance(entry, tuple)] == [*PAGES[:bad], *PAGES[bad + 1 :]]
    assert found.count("damaged_record") == 1 and len(found) <= len(PAGES) + 1


def test_damage_in_a_body_that_nobody_reads(path):
    """Which is met when the next record is looked for."""
    records = [
        *RECORDS[True][:2],
        record_bytes("https://e.org/", random.Random(1).randbytes(1 << 18)),
        RECORDS[True][2],
    ]
    records[2] = records[2][: 1 << 17] + b"\0" * 100 + records[2][(1 << 17) + 100 :]
    path.write_bytes(b"".join(records))
    found = [record.reason if isinstance(record, Damage) else record.url for record in records_of(Part(path))]
    assert found == [PAGES[0][0], PAGES[1][0], "https://e.org/", "damaged_record", PAGES[2][0]]


@pytest.mark.parametrize("compressed", [True, False])
def test_damage_at_the_start_of_a_file(tmp_path, compressed):
    path = tmp_path / ("a.warc.gz" if compressed else "a.warc")
    path.write_bytes(b"\0\0\0\0" + b"".join(RECORDS[compressed])[4:])
    assert read(path) == ["damaged_record", *PAGES[1:]]


def test_damage_in_a_file_that_is_one_member(path):
    """What comes more than a buffer before the damage stays."""
    draw = random.Random(1)
    pages = [(f"https://example.org/{n}", draw.randbytes(1 << 14)) for n in range(30)]
    data = bytearray(gzip.compress(warc_bytes(pages, gzip=False)))
    data[len(data) * 2 // 3] ^= 1
    found = read(path, bytes(data))
    assert found[:12] == pages[:12] and found[-1] == "truncated_file"


@pytest.mark.parametrize("compressed", [True, False])
def test_what_is_between_records_costs_none(path, compressed):
    records = RECORDS[compressed]
    rubbish = b"no record at all\r\n\r\n" * 1000
    found = read(path, b"".join(records[:3]) + rubbish + b"".join(records[3:]))
    assert found == [*PAGES[:3], "damaged_record", *PAGES[3:]]


@pytest.mark.parametrize("compressed", [True, False])
def test_wherever_a_file_is_cut_what_came_before_stays(path, compressed):
    data = b"".join(RECORDS[compressed][:3])
    borders = [sum(map(len, RECORDS[compressed][:n])) for n in range(4)]
    for cut in range(1, len(data), 97):
        found = read(path, data[:cut])
        whole = sum(border <= cut for border in borders[1:])
        pages = [entry for entry in found if isinstance(entry, tuple)]
        assert pages[:whole] == PAGES[:whole] and len(pages) <= whole + 1
        if len(pages) == whole and cut - borders[whole] > 60:  # of less there is not even the start of its headers
            assert found[-1] == "truncated_file"


@pytest.mark.parametrize(
    "data", [b"", b"WARC", b"\x1f\x8b\x08", gzip.compress(b"text", mtime=0), b"\0" * 5000, b"<html>" * 999]
)
def test_files_that_are_none(path, data):
    assert read(path, data)[-1] in ("not_warc", "truncated_file")


@given(st.integers(50, 3000), st.booleans())
def test_parts_of_a_file_have_each_record_once(tmp_path_factory, part_bytes, compressed):
    path = tmp_path_factory.mktemp("parts") / "a.warc"
    path.write_bytes(data := b"".join(RECORDS[compressed]))
    assert can_be_split(path)
    starts = range(0, len(data), part_bytes)
    assert [page for start in starts for page in read(path, None, start, start + part_bytes)] == PAGES


def test_one_long_member_belongs_to_the_part_it_starts_in(path):
    path.write_bytes(data := gzip.compress(warc_bytes(PAGES, gzip=False)))
    assert read(path, None, 0, 100) == PAGES and read(path, None, 100, len(data)) == []


def test_zstd_and_lz4_are_not_split(path):
    for data in (zstandard.compress(RECORDS[False][0]), lz4(RECORDS[False][0])):
        path.write_bytes(data)
        assert not can_be_split(path)


def test_a_page_about_warc_is_no_record(path):
    """Text that looks like the start of a record is not one, unless damage is around it."""
    body = b"<pre>\r\n\r\n" + RECORDS[False][0] + b"</pre>"
    assert read(path, record_bytes("https://e.org/", body, gzip=False)) == [("https://e.org/", body)]
