"""JSONL and parquet with The-Stack-like columns, whole and damaged."""

import gzip
import itertools
import json
import os
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.documents import document_id
from data_prep.errors import DataError
from data_prep.importing import ImportLimits
from data_prep.sources.base import Drops
from data_prep.sources.tables import JsonlSlice

STACK = [
    {"content": f"x = {i}\n", "max_stars_repo_name": f"o/r{i % 3}", "max_stars_repo_path": f"f{i}.py", "lang": "Python",
     "max_stars_count": i}
    for i in range(10)
]  # fmt: skip


def jsonl(records) -> bytes:
    return b"".join((r if isinstance(r, bytes) else json.dumps(r).encode()) + b"\n" for r in records)


def counts(report) -> dict[str, int]:
    return {reason: drop["count"] for reason, drop in report.drops.items()}


def pack(name: str, data: bytes) -> bytes:
    if name.endswith(".gz"):
        return gzip.compress(data)
    return zstandard.compress(data) if name.endswith(".zst") else data


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz", "t.jsonl.zst", "t.json.gz", "t.ndjson"])
def test_the_stack_columns(tmp_path, take, rows, name):
    (tmp_path / name).write_bytes(pack(name, jsonl(STACK)))
    report = take(tmp_path / name)
    assert report.documents == 10 and not report.drops
    row = next(row for row in rows() if row["path"] == "f4.py")
    assert (row["repository"], row["language"], row["text"], row["stars"]) == ("o/r1", "Python", "x = 4\n", 4)
    offset = len(jsonl(STACK[:4]))
    assert row["id"] == document_id("src", "o/r1", "f4.py", f"{name}#{offset}")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("text", "repository_name", "path", "language", "stars"), ("o/r", "a.h", "C++", 7)),
        (("content", "repo_name", "file_path", "programming_language", "star_count"), ("o/r", "a.h", "C++", 7)),
        (("code", "repo", "filename", "lang", "repo_stars"), ("o/r", "a.h", "C++", 7)),
    ],
)
def test_the_usual_names_of_columns(tmp_path, take, rows, names, expected):
    record = dict(zip(names, ("int f();\n", "o/r", "a.h", "cpp", 7), strict=True))
    (tmp_path / "t.jsonl").write_bytes(jsonl([record]))
    take(tmp_path / "t.jsonl")
    (row,) = rows()
    assert (row["repository"], row["path"], row["language"], row["stars"]) == expected


def test_what_is_missing_is_filled_in(tmp_path, take, rows):
    records = [
        {"text": "a = 1\n", "path": "a.py"},
        {"text": "b = 1\n", "lang": "ruby"},
        {"text": "c", "path": "c.py", "stars": "many"},
        {"text": "d = 1\n", "path": "d.py", "lang": "Vue", "stars": 3.0},
        {"text": "e = 1\n", "path": "e.py", "stars": -1},
    ]
    (tmp_path / "t.jsonl").write_bytes(jsonl(records))
    take(tmp_path / "t.jsonl")
    found = [(row["repository"], row["path"], row["language"], row["stars"]) for row in rows()]
    starts = [len(jsonl(records[:i])) for i in range(5)]
    assert found == [
        ("t.jsonl#0", "a.py", "Python", None),
        (f"t.jsonl#{starts[1]}", f"t.jsonl#{starts[1]}", "Ruby", None),
        (f"t.jsonl#{starts[2]}", "c.py", "Python", None),
        (f"t.jsonl#{starts[3]}", "d.py", "Python", 3),
        (f"t.jsonl#{starts[4]}", "e.py", "Python", None),
    ]


def test_repeated_paths_have_ids_of_their_own(tmp_path, take, rows):
    (tmp_path / "t.jsonl").write_bytes(jsonl([STACK[0]] * 5))
    take(tmp_path / "t.jsonl")
    assert len({row["id"] for row in rows()}) == 5


def test_bad_lines_cost_themselves_only(tmp_path, take, rows):
    long = {**STACK[0], "content": "y" * 2000}
    far_too_long = {**STACK[0], "content": "z" * 20_000, "other": "w" * 2_000_000}
    bad = [
        b"{not json}", b"", b"   ", b'{"content": "caf\xe9"}', b"[1, 2]", b'"text"', b'{"content": 5}',
        b'{"content": null}', {"content": "x", "path": ["a.py"]}, {"other": "x"}, long, far_too_long,
        {**STACK[0], "content": "a\0b"}, {**STACK[0], "content": " "}, {"content": "words", "path": "a.txt"},
        b"[" * 100_000,
        b'{"content": "\\ud800", "path": "a.py"}', b'{"content": ' + b"9" * 5000 + b"}", {**STACK[0], "path": "\ud800"},
    ]  # fmt: skip
    (tmp_path / "t.jsonl").write_bytes(jsonl([STACK[1], *bad, STACK[2]]))
    report = take(tmp_path / "t.jsonl", max_file_bytes=1000)
    assert [row["path"] for row in rows()] == ["f1.py", "f0.py", "f2.py"]
    assert counts(report) == {
        "malformed_json": 3, "not_utf8": 2, "wrong_type": 5, "missing_column": 1, "too_large": 2, "binary": 1,
        "empty": 1, "unknown_language": 1,
    }  # fmt: skip
    assert "no content/text/code/contents among other" in report.drops["missing_column"]["examples"][0]
    assert report.drops["malformed_json"]["examples"][0].startswith(f"t.jsonl#{len(jsonl([STACK[1]]))}: ")


@pytest.mark.parametrize("name", ["t.jsonl.gz", "t.jsonl.zst"])
@pytest.mark.parametrize("how", ["cut", "broken", "not an archive"])
def test_a_damaged_archive_gives_what_comes_before_the_damage(tmp_path, files, take, rows, name, how):
    many = [{**STACK[0], "content": "".join(f"{i * j} " for j in range(100))} for i in range(3000)]
    data = bytearray(pack(name, jsonl(many)))
    if how == "cut":
        del data[len(data) // 2 :]
    elif how == "broken":
        data[len(data) // 2 : len(data) // 2 + 50] = b"\0" * 50
    else:
        data = b"this is not an archive"
    files(tmp_path / "tables", {name: bytes(data), "good.jsonl": jsonl(STACK)})
    report = take(tmp_path / "tables")
    assert report.drops["damaged_table"]["count"] == 1
    assert report.drops["damaged_table"]["examples"][0].startswith(f"{name}: ")
    assert {row["path"] for row in rows()} >= {row["max_stars_repo_path"] for row in STACK}
    assert report.documents < 3010
    if how == "cut":
        assert report.documents > 10


def test_archives_of_several_frames(tmp_path, take, rows):
    halves = jsonl(STACK[:5]), jsonl(STACK[5:])
    (tmp_path / "t.jsonl.zst").write_bytes(b"".join(map(zstandard.compress, halves)))
    assert take(tmp_path / "t.jsonl.zst").documents == 10
    (tmp_path / "t.jsonl.gz").write_bytes(b"".join(map(gzip.compress, halves)))
    assert take(tmp_path / "t.jsonl.gz").documents == 10


@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(
        st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=30), max_size=25
    ),
    cuts=st.lists(st.tuples(st.integers(0, 24), st.integers(-2, 2)), max_size=5),
    newline_at_end=st.booleans(),
)
def test_ranges_of_bytes_hold_every_line_once(tmp_path_factory, lines, cuts, newline_at_end):
    path = tmp_path_factory.mktemp("jsonl") / "t.jsonl"
    data = b"\n".join(json.dumps({"content": "x" + line, "lang": "C"}).encode() for line in lines)
    data += b"\n" if newline_at_end else b""
    path.write_bytes(data)
    starts = [0, *itertools.accumulate(len(line) for line in data.splitlines(keepends=True))]
    near_starts = {starts[index % len(starts)] + offset for index, offset in cuts}
    edges = sorted({0, len(data), *(edge for edge in near_starts if 0 < edge < len(data))})
    drops, found = Drops(), []
    for start, end in itertools.pairwise(edges):
        found += [d.text for d in JsonlSlice(str(path), "s", "t", start, end).documents(ImportLimits(), drops)]
    expected = [document.text for document in JsonlSlice(str(path), "s", "t").documents(ImportLimits(), Drops())]
    assert found == expected == ["x" + line for line in lines if "\0" not in line]


def test_a_large_table_is_cut_to_parts_and_shards(tmp_path, take, rows):
    records = [{"content": f"# {i}\n" + "x" * 200, "path": f"{i}.py"} for i in range(100)]
    for name in ("t.jsonl", "t.jsonl.zst"):
        (tmp_path / name).write_bytes(pack(name, jsonl(records)))
        report = take(tmp_path / name, shard_bytes=3000)
        assert report.shards >= 7
        assert sorted(row["path"] for row in rows()) == sorted(record["path"] for record in records)


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz", "t.parquet"])
def test_at_most_max_total_bytes(tmp_path, take, rows, name):
    records = [{"content": f"{i:03d}" + "x" * 97, "path": f"{i}.py"} for i in range(50)]
    if name == "t.parquet":
        pq.write_table(pa.Table.from_pylist(records), tmp_path / name, row_group_size=5, use_dictionary=False)
    else:
        (tmp_path / name).write_bytes(pack(name, jsonl(records)))
    report = take(tmp_path / name, max_total_bytes=2000, shard_bytes=1000)
    assert sum(row["size_bytes"] for row in rows()) <= 2000
    assert 10 <= report.documents <= 20
    assert sorted(int(row["path"][:-3]) for row in rows()) == list(range(report.documents))
    assert report.drops["total_size"]["count"] > 0


def test_parquet(tmp_path, take, rows):
    table = pa.Table.from_pylist(STACK)
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=3)
    assert take(tmp_path / "a.parquet", shard_bytes=20).documents == 10
    assert [row["stars"] for row in sorted(rows(), key=lambda row: row["path"])] == list(range(10))
    row = next(row for row in rows() if row["path"] == "f7.py")
    assert row["id"] == document_id("src", "o/r1", "f7.py", "a.parquet#7")


@pytest.mark.parametrize("kind", [pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_text_of_other_types(tmp_path, take, rows, kind):
    content = (
        pa.array(["a = 1\n", "b = 1\n"]).cast(kind)
        if pa.types.is_dictionary(kind)
        else pa.array(["a = 1\n", "b = 1\n"], kind)
    )
    pq.write_table(pa.table({"content": content, "path": ["a.py", "b.py"]}), tmp_path / "a.parquet")
    take(tmp_path / "a.parquet")
    assert [row["text"] for row in rows()] == ["a = 1\n", "b = 1\n"]


def test_parquet_rows_that_are_no_text(tmp_path, take, rows):
    content = pa.array([b"a = 1\n", b"caf\xe9", None], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"content": content, "path": ["a.py", "b.py", "c.py"]}), tmp_path / "a.parquet")
    report = take(tmp_path / "a.parquet")
    assert [row["path"] for row in rows()] == ["a.py"]
    assert counts(report) == {"not_utf8": 1, "wrong_type": 1}


def test_bad_parquet_files_beside_a_good_one(tmp_path, files, take, rows):
    root = files(tmp_path / "tables", {"rubbish.parquet": b"PAR1rubbishPAR1", "empty.parquet": b""})
    pq.write_table(pa.Table.from_pylist(STACK), root / "good.parquet")
    pq.write_table(pa.table({"source": ["x"], "path": ["a.py"]}), root / "columns.parquet")
    pq.write_table(pa.table({"content": [1, 2]}), root / "numbers.parquet")
    whole = (root / "good.parquet").read_bytes()
    (root / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    broken = bytearray(whole)
    broken[4:200] = b"\xff" * 196
    (root / "pages.parquet").write_bytes(bytes(broken))
    report = take(root)
    assert {row["path"] for row in rows()} == {record["max_stars_repo_path"] for record in STACK}
    assert counts(report) == {"damaged_table": 4, "missing_column": 1, "wrong_type": 1}
    assert report.drops["missing_column"]["examples"] == [
        "columns.parquet: no content/text/code/contents among source, path"
    ]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_a_file_whose_name_is_not_utf8_ends_no_import(tmp_path, files, take, rows, suffix):
    root = files(tmp_path / "tables", {"good.jsonl": jsonl(STACK)})
    if suffix == ".parquet":
        (root / "good.jsonl").unlink()
        pq.write_table(pa.Table.from_pylist(STACK), root / "good.parquet")
    shutil.copy(root / f"good{suffix}", root / os.fsdecode(b"b\xff" + suffix.encode()))
    report = take(root)
    if suffix == ".parquet":  # Arrow opens no such name
        assert report.documents == 10 and counts(report) == {"unreadable": 1}
        assert report.drops["unreadable"]["examples"][0].startswith("b\\udcff.parquet: ")
    else:
        assert report.documents == 20 and counts(report) == {}


@pytest.mark.parametrize("kind", ["auto", "jsonl"])
def test_hidden_and_ignored_folders_hold_no_records(tmp_path, files, take, kind):
    left_out = (".ipynb_checkpoints/a-checkpoint.jsonl", "sub/.cache/b.jsonl", "node_modules/c.jsonl", "._a.jsonl")
    content = {"a.jsonl": jsonl(STACK), "sub/d.jsonl": jsonl(STACK), **dict.fromkeys(left_out, jsonl(STACK))}
    root = files(tmp_path / ".tables", content)
    assert take(root, kind).documents == 20


def test_a_source_of_which_nothing_can_be_read_ends_the_run(tmp_path, take):
    (tmp_path / "bad.parquet").write_bytes(b"rubbish")
    with pytest.raises(DataError, match=r"source src cannot be read: 1 x damaged_table .*bad.parquet") as caught:
        take(tmp_path / "bad.parquet")
    assert "\n" not in str(caught.value)
    (tmp_path / "bad.jsonl").write_bytes(b"rubbish\n" * 3)
    with pytest.raises(DataError, match="source src cannot be read: 3 x malformed_json"):
        take(tmp_path / "bad.jsonl")


def test_auto_knows_folders_of_tables(tmp_path, files, take, rows):
    root = files(tmp_path / "tables", {"README.md": "# tables\n", "python/a.jsonl": jsonl(STACK), ".cache/x": b""})
    assert take(root).documents == 10
    files(root, {"python/module.py": "a = 1\n"})
    assert [row["path"] for row in (take(root), rows())[1]] == ["README.md", "module.py"]


def test_a_folder_of_both_kinds_is_refused(tmp_path, files, take):
    files(tmp_path / "tables", {"a.jsonl": jsonl(STACK), "b.parquet": b"PAR1"})
    with pytest.raises(DataError, match="both JSONL and parquet"):
        take(tmp_path / "tables")
