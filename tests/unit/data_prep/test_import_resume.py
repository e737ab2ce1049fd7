"""Import does only what is missing or has changed, and its bytes do not depend on how it was run."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import data_prep.importing
from data_prep.documents import list_shards
from data_prep.errors import DataError
from data_prep.importing import ImportLimits, SourceSpec, import_documents
from data_prep.shards import finished_manifest
from data_prep.sources.base import Piece, group_units


@pytest.fixture
def root(tmp_path, files) -> Path:
    content = {f"r{i}/f{j}.py": f"# {i} {j}\n" + "x = 1\n" * (20 * i + j) for i in range(12) for j in range(4)}
    return files(tmp_path / "root", content)


@pytest.fixture
def made(monkeypatch) -> list[str]:
    """Names of the units whose import really ran."""
    names = []
    original = data_prep.importing.import_unit

    def recording(stream, unit, *args):
        names.append(unit.name)
        return original(stream, unit, *args)

    monkeypatch.setattr(data_prep.importing, "import_unit", recording)
    return names


def test_one_worker_and_two_write_the_same_bytes(tmp_path, root, snapshot):
    spec, limits = [SourceSpec("folders", str(root), "src")], ImportLimits(shard_bytes=2000)
    import_documents(spec, tmp_path / "one", limits, 1)
    import_documents(spec, tmp_path / "two", limits, 2)
    assert len(list_shards(tmp_path / "one")) > 3
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")


def test_a_second_run_does_nothing(tmp_path, root, take, made):
    first = take(root, shard_bytes=2000)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "corpus").rglob("*") if path.name != ".lock"}
    assert first.units_made == first.units == len(made) > 3
    again = take(root, shard_bytes=2000)
    assert again.units_made == 0 and len(made) == first.units
    assert again.documents == first.documents and again.drops == first.drops
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_a_changed_file_redoes_its_unit_only(root, take, rows, made):
    total = take(root, shard_bytes=2000).units
    made.clear()
    (root / "r5/f2.py").write_text("changed = True\n")
    report = take(root, shard_bytes=2000)
    assert 0 < len(made) < total / 2
    assert report.documents == 48
    assert [row["text"] for row in rows() if (row["repository"], row["path"]) == ("r5", "f2.py")] == [
        "changed = True\n"
    ]


def test_a_touched_file_redoes_its_unit_and_changes_nothing(tmp_path, root, take, made, snapshot):
    take(root, shard_bytes=2000)
    before = {name: data for name, data in snapshot(tmp_path / "corpus").items() if name.endswith(".parquet")}
    made.clear()
    os.utime(root / "r5/f2.py", ns=(1, 1))
    take(root, shard_bytes=2000)
    assert len(made) == 1
    assert {name: data for name, data in snapshot(tmp_path / "corpus").items() if name.endswith(".parquet")} == before


def test_a_removed_repository_leaves_the_corpus(root, take, rows, made):
    take(root, shard_bytes=2000)
    made.clear()
    for path in (root / "r7").iterdir():
        path.unlink()
    (root / "r7").rmdir()
    assert take(root, shard_bytes=2000).documents == 44
    assert len(rows()) == 44 and not any(row["repository"] == "r7" for row in rows())


def test_lost_and_damaged_shards_are_made_again(tmp_path, root, take, rows, snapshot):
    take(root, shard_bytes=2000)
    before = snapshot(tmp_path / "corpus")
    first, second, *_ = list_shards(tmp_path / "corpus")
    first.unlink()
    second.write_bytes(b"PAR1")
    with pytest.raises(DataError, match="does not match its manifest"):
        rows()
    take(root, shard_bytes=2000)
    assert snapshot(tmp_path / "corpus") == before


def test_an_unfinished_import_is_no_corpus(tmp_path, root, take, rows, monkeypatch):
    take(root, shard_bytes=2000)
    (root / "r3/f0.py").write_text("changed = 1\n")

    def stop(*_args, **_kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(data_prep.importing, "run_shards", stop)
        take(root, shard_bytes=2000)
    with pytest.raises(DataError, match="did not finish"):
        rows()
    take(root, shard_bytes=2000)
    assert len(rows()) == 48


def test_other_limits_import_anew(root, take, made):
    take(root, shard_bytes=2000)
    made.clear()
    report = take(root, shard_bytes=2000, examples=1)
    assert report.units_made == report.units == len(made)
    assert take(root, shard_bytes=2000, examples=1, max_file_bytes=300).drops["too_large"]["count"] > 0


def test_a_new_licence_is_seen_by_every_part_of_its_repository(tmp_path, files, take, rows):
    root = files(tmp_path / "root", {f"r/{i:02d}.py": "x" * 500 for i in range(20)})
    assert take(root, shard_bytes=1500).units > 3
    files(root, {"r/LICENSE": "MIT"})
    take(root, shard_bytes=1500)
    assert {row["licence_file"] for row in rows()} == {"LICENSE"}


def test_sources_are_added_kept_and_removed(tmp_path, root, take, rows, files):
    take(root)
    other = files(tmp_path / "other", {"s/a.c": "int a;\n"})
    assert take(other, name="other").documents == 49
    assert set(take(root).sources) == {"src", "other"}
    import_documents([], tmp_path / "corpus", ImportLimits(), 1, remove=["src"])
    assert [row["source"] for row in rows()] == ["other"]
    with pytest.raises(DataError, match="no source 'src' to remove; it has other"):
        import_documents([], tmp_path / "corpus", ImportLimits(), 1, remove=["src"])


@pytest.fixture
def killed_after(monkeypatch):
    """killed_after(units, function) calls a function whose run is killed after that many units."""
    original = data_prep.importing.run_shards

    def run(units, function):
        def begin(tasks, *args):
            original(tasks[:units], *args)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(data_prep.importing, "run_shards", begin)
            function()

    return run


def test_a_source_that_was_not_imported_to_the_end_is_not_complete_with_another(
    tmp_path, root, take, rows, files, killed_after
):
    other = files(tmp_path / "other", {"s/a.c": "int a;\n"})
    killed_after(2, lambda: take(root, shard_bytes=2000))
    with pytest.raises(DataError, match=r"source src was not imported to the end: name it again, or .* --remove"):
        take(other, name="other")
    take(root, shard_bytes=2000)
    assert take(other, name="other").documents == len(rows()) == 49


def test_a_source_that_was_not_imported_to_the_end_can_be_removed(tmp_path, root, take, rows, files, killed_after):
    other = files(tmp_path / "other", {"s/a.c": "int a;\n"})
    killed_after(2, lambda: take(root, shard_bytes=2000))
    spec = SourceSpec("folders", str(other), "other")
    report = import_documents([spec], tmp_path / "corpus", ImportLimits(), 1, remove=["src"])
    assert [row["source"] for row in rows()] == ["other"] and set(report.sources) == {"other"}


@pytest.mark.parametrize("units", [0, 1, 3])
def test_a_changed_source_that_was_not_imported_to_the_end_is_not_complete(
    tmp_path, root, take, rows, files, killed_after, units
):
    other = files(tmp_path / "other", {"s/a.c": "int a;\n"})
    take(root, shard_bytes=2000)
    for number in range(0, 12, 3):
        (root / f"r{number}/f1.py").write_text("y = 1\n" * 100)
    (root / "r0/f0.py").unlink()
    killed_after(units, lambda: take(root, shard_bytes=2000))
    with pytest.raises(DataError, match="source src was not imported to the end"):
        take(other, name="other")
    take(root, shard_bytes=2000)
    take(other, name="other")
    assert len({row["id"] for row in rows()}) == len(rows()) == 48


def test_two_sources_cannot_have_one_name(tmp_path, root):
    specs = [SourceSpec("folders", str(root), "a"), SourceSpec("folder", str(root), "a")]
    with pytest.raises(DataError, match="two sources are named 'a'"):
        import_documents(specs, tmp_path / "corpus", ImportLimits(), 1)


def test_a_large_repository_is_cut_and_a_shard_has_at_most_its_bytes(tmp_path, files, take, rows):
    content = {f"r/{i:03d}/{j}.py": f"# {i} {j}\n" + "x" * 90 for i in range(20) for j in range(5)}
    files(tmp_path / "root", content)
    report = take(tmp_path / "root", shard_bytes=1500)
    assert report.shards >= 7
    assert sorted(f"r/{row['path']}" for row in rows()) == sorted(content)
    for shard in list_shards(tmp_path / "corpus"):
        assert finished_manifest(shard)["text_bytes"] <= 1500


sizes = st.dictionaries(st.text("abcdef", min_size=1, max_size=4), st.integers(0, 900), min_size=2, max_size=60)


def units(pieces: dict[str, int]) -> list[frozenset[str]]:
    planned = [Piece(None, key, size, "") for key, size in sorted(pieces.items())]
    return [frozenset(piece.key for piece in unit.pieces) for unit in group_units("s", planned, 1000)]


@given(sizes)
def test_units_keep_the_order_and_have_at_most_the_target(pieces):
    planned = [Piece(None, key, size, "") for key, size in sorted(pieces.items())]
    groups = list(group_units("s", planned, 1000))
    assert [piece.key for unit in groups for piece in unit.pieces] == sorted(pieces)
    assert all(sum(piece.size_bytes for piece in unit.pieces) <= 1000 for unit in groups)
    assert len({unit.name for unit in groups}) == len(groups)


def test_a_new_repository_changes_few_units():
    many = {f"{i:05d}": 100 + i % 7 for i in range(4000)}
    before = units(many)
    for new in ("00000x", "01234x", "02500x"):
        after = units({**many, new: 100})
        assert len(set(after) - set(before)) <= 8 < len(before) / 10
