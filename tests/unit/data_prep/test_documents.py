"""Documents: ids that do not move, and shards that give back what was put in."""

import hashlib
import io

import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.documents import SCHEMA, Document, DocumentWriter, document_id

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200)
documents = st.builds(
    Document,
    source=names,
    repository=names,
    path=names,
    language=st.sampled_from(["Python", "C++"]),
    text=texts,
    record=st.none() | names,
    licence_file=st.none() | names,
    repository_licence=st.none() | names,
    stars=st.none() | st.integers(0, 2**62),
)


def test_the_id_is_the_documented_hash():
    assert document_id("s", "r", "p") == hashlib.sha256(b"s\0r\0p").hexdigest()[:32]
    assert document_id("s", "r", "p", "7") == hashlib.sha256(b"s\0r\0p\0007").hexdigest()[:32]


@given(st.lists(st.tuples(names, names, names), unique=True, max_size=30))
def test_ids_differ_where_places_differ(places):
    assert len({document_id(*place) for place in places}) == len(places)


@given(documents, texts)
def test_the_id_does_not_depend_on_the_text(document, text):
    other = Document(document.source, document.repository, document.path, "C", text, document.record)
    assert other.row()["id"] == document.row()["id"]


@settings(deadline=None)
@given(st.lists(documents, max_size=20), st.integers(1, 400))
def test_a_shard_gives_back_its_documents(items, row_group_bytes):
    stream = io.BytesIO()
    writer = DocumentWriter(stream, row_group_bytes)
    for item in items:
        writer.add(item.row())
    writer.close()
    table = pq.read_table(io.BytesIO(stream.getvalue()))
    assert table.schema.equals(SCHEMA)
    assert table.to_pylist() == [item.row() for item in items]
    assert writer.rows == len(items)
    assert writer.text_bytes == sum(len(item.text.encode()) for item in items)
    for row in table.to_pylist():
        assert row["sha256"] == hashlib.sha256(row["text"].encode()).hexdigest()
        assert row["size_bytes"] == len(row["text"].encode())


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 120))
def test_a_row_group_ends_when_its_bytes_are_reached(sizes, row_group_bytes):
    stream = io.BytesIO()
    writer = DocumentWriter(stream, row_group_bytes)
    for index, size in enumerate(sizes):
        writer.add(Document("s", "r", str(index), "C", "x" * size).row())
    writer.close()
    metadata = pq.ParquetFile(io.BytesIO(stream.getvalue())).metadata
    counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    assert sum(counts) == len(sizes)
    start = 0
    for count in counts[:-1]:
        assert sum(sizes[start : start + count]) >= row_group_bytes > sum(sizes[start : start + count - 1])
        start += count
