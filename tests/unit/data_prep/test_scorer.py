"""Scorers: what is learnt from an oracle's scores, kept on disk, said of every file, and refused."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from typer.testing import CliRunner

from data_prep.annotate import AnnotatorSpec, annotate
from data_prep.cli import app
from data_prep.documents import list_shards
from data_prep.errors import DataError
from data_prep.held_out import HeldOut
from data_prep.oracle.scores import SCHEMA, write_scores
from data_prep.scorer.base import open_scorer, scorer_digest
from data_prep.scorer.design import Design, joined
from data_prep.scorer.examples import load_examples
from data_prep.scorer.features import SIGNS, features, products
from data_prep.scorer.linear import LinearScorer, LinearSettings, fit
from data_prep.scorer.measure import measure
from data_prep.scorer.train import train_scorer

SMALL = {"buckets": 1 << 12, "language_files": 20}


def code(number: int, documented: bool) -> str:
    doc = f'    """Adds {number} to x."""\n' if documented else ""
    return "".join(f"def f{number + k}(x):\n{doc}    return x + {number + k}\n\n\n" for k in range(1 + number % 7))


@pytest.fixture
def corpus(files: Callable, take: Callable, tmp_path: Path) -> Path:
    """24 repositories of 10 files each, every other file documented."""
    written = {f"r{r}/m{n}.py": code(31 * r + n, documented=n % 2 == 0) for r in range(24) for n in range(10)}
    take(files(tmp_path / "code", written), "folders")
    return tmp_path / "corpus"


def good(path: str, text: str) -> float:
    return 8.0 if '"""' in text else 2.0


def rate(corpus: Path, rule: Callable[[str, str], float | None] = good, name: str = "oracle", **changes: list) -> None:
    rows = [row for shard in list_shards(corpus) for row in pq.read_table(shard).to_pylist()]
    columns = {column: [row[column] for row in rows] for column in ("id", "repository", "path", "language", "sha256")}
    scores = [rule(row["path"], row["text"]) for row in rows]
    columns |= {
        "size_bytes": [row["size_bytes"] for row in rows],
        "cut": [False] * len(rows),
        "score": scores,
        "problem": ["refused" if score is None else None for score in scores],
        "model": ["m"] * len(rows),
        "prompt_version": ["p@1"] * len(rows),
        **changes,
    }
    write_scores(corpus, name, pa.table(columns, schema=SCHEMA), "inputs", {})


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def scores_of_corpus(corpus: Path, name: str = "quality") -> dict[str, float]:
    tables = [pq.read_table(corpus / "annotations" / name / shard.name) for shard in list_shards(corpus)]
    table = pa.concat_tables(tables)
    assert table.schema.field("score").type == pa.float32()
    return dict(zip(table["id"].to_pylist(), table["score"].to_pylist(), strict=True))


def test_a_scorer_is_trained_measured_and_scores_a_whole_corpus(corpus: Path, tmp_path: Path) -> None:
    rate(corpus)
    scorer = tmp_path / "scorer"
    said = run("score", "train", corpus, "oracle", scorer, "--held-out", "0.3", "--set", "buckets=4096")
    report = json.loads((tmp_path / "scorer.report" / "report.json").read_text())
    measured = report["measured"]
    assert measured["mae"] < 0.3 * measured["mean_predictor_mae"] and measured["spearman"] > 0.8
    assert f"MAE {measured['mae']:.3f}" in said
    assert (report["oracle"]["model"], report["oracle"]["prompt_version"]) == ("m", "p@1")
    page = (tmp_path / "scorer.report" / "report.html").read_text()
    assert "<svg" in page and "<script" not in page and "src=" not in page and "https:" not in page
    assert "240 files scored (1 of 1 shards made now)" in run("score", "apply", corpus, scorer, "--workers", "1")
    scores = scores_of_corpus(corpus)
    rows = [row for shard in list_shards(corpus) for row in pq.read_table(shard).to_pylist()]
    assert all((scores[row["id"]] > 5) == ('"""' in row["text"]) for row in rows)
    assert "(0 of 1 shards made now)" in run("score", "apply", corpus, scorer, "--workers", "1")


def test_scores_are_made_again_by_another_scorer_but_not_by_a_moved_one(corpus: Path, tmp_path: Path) -> None:
    rate(corpus)
    train_scorer(corpus, "oracle", tmp_path / "a", settings=SMALL, held_out=0.3)
    train_scorer(corpus, "oracle", tmp_path / "b", settings={**SMALL, "knots": 5}, held_out=0.3)
    assert "(1 of 1 shards made now)" in run("score", "apply", corpus, tmp_path / "a", "--workers", "1")
    (tmp_path / "a").rename(tmp_path / "moved")
    assert "(0 of 1 shards made now)" in run("score", "apply", corpus, tmp_path / "moved", "--workers", "1")
    assert "(1 of 1 shards made now)" in run("score", "apply", corpus, tmp_path / "b", "--workers", "1")


def test_scores_of_two_scorers_stand_side_by_side(corpus: Path, tmp_path: Path) -> None:
    rate(corpus)
    train_scorer(corpus, "oracle", tmp_path / "a", settings=SMALL, held_out=0.3)
    run("score", "apply", corpus, tmp_path / "a", "--workers", "1")
    before = scores_of_corpus(corpus)
    said = run("score", "apply", corpus, tmp_path / "a", "--annotation", "second", "--workers", "1")
    assert f"{corpus}: second: 240 files scored (1 of 1 shards made now)" in said
    train_scorer(corpus, "oracle", tmp_path / "b", settings={**SMALL, "knots": 5}, held_out=0.3)
    run("score", "apply", corpus, tmp_path / "b", "--annotation", "second", "--workers", "1")
    assert scores_of_corpus(corpus) == before != scores_of_corpus(corpus, "second")


def test_scores_take_the_place_of_no_other_annotation(corpus: Path, tmp_path: Path) -> None:
    rate(corpus)
    train_scorer(corpus, "oracle", tmp_path / "a", settings=SMALL, held_out=0.3)
    annotate(corpus, [AnnotatorSpec("signs")])
    with pytest.raises(DataError, match="annotation signs was made by another step; call this one otherwise"):
        run("score", "apply", corpus, tmp_path / "a", "--annotation", "signs", "--workers", "1")
    for name in ("page", "near_dedup", "My scores"):
        with pytest.raises(DataError, match=f"an annotation cannot be called '{name}'"):
            run("score", "apply", corpus, tmp_path / "a", "--annotation", name, "--workers", "1")


def test_the_same_scores_give_the_same_scorer(corpus: Path, tmp_path: Path) -> None:
    rate(corpus)
    for name in "ab":
        train_scorer(corpus, "oracle", tmp_path / name, settings=SMALL, held_out=0.3)
    one, other = (open_scorer(tmp_path / name) for name in "ab")
    np.testing.assert_array_equal(one.hashed, other.hashed)
    np.testing.assert_array_equal(one.worth, other.worth)


def test_a_loaded_scorer_says_what_the_fitted_one_did_whatever_the_batch(tmp_path: Path) -> None:
    documents = [{"text": code(n, n % 2 == 0), "language": "Python", "repository": f"r{n % 9}"} for n in range(80)]
    true = np.array([8.0 if n % 2 == 0 else 2.0 for n in range(80)])
    scorer, about = fit(documents, true, LinearSettings(**SMALL), seed=1)
    assert about["ridge"] in LinearSettings().ridge
    scorer.save(tmp_path)
    loaded = LinearScorer.load(tmp_path)
    whole = scorer.score(documents)
    np.testing.assert_array_equal(loaded.score(documents), whole)
    alone = np.concatenate([loaded.score([document]) for document in documents])
    np.testing.assert_allclose(alone, whole, atol=1e-5)
    other = loaded.score([{"text": "", "language": "Brainfuck"}, {"text": "\udcff x", "language": "Python"}])
    assert ((other >= 0) & (other <= 10)).all()


def test_a_function_of_the_users_is_a_scorer(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = tmp_path / "their_scorer.py"
    module.write_text("def by_length(documents):\n    return [min(10, len(d['text']) / 100) for d in documents]\n")
    assert "240 files scored" in run("score", "apply", corpus, "their_scorer:by_length", "--workers", "1")
    spec = AnnotatorSpec.of("quality", scorer="their_scorer:by_length", module_folder=str(tmp_path))
    first = spec.load().digest
    rows = [row for shard in list_shards(corpus) for row in pq.read_table(shard).to_pylist()]
    scores = scores_of_corpus(corpus)
    for row in rows:
        assert scores[row["id"]] == pytest.approx(min(10, len(row["text"]) / 100), abs=1e-5)
    module.write_text(module.read_text() + "# changed\n")
    assert spec.load().digest != first
    with pytest.raises(DataError, match="their_scorer:missing cannot be imported"):
        run("score", "apply", corpus, "their_scorer:missing", "--workers", "1")


def test_a_score_that_is_none_is_a_failure_not_a_score(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "wild_scorer.py").write_text(
        "def wild(documents):\n    return [11 if d['path'].endswith('m3.py') else None for d in documents]\n"
    )
    spec = AnnotatorSpec.of("quality", scorer="wild_scorer:wild", module_folder=str(tmp_path))
    with pytest.raises(DataError, match="score 11 is not between 0 and 10"):
        spec.load().annotate([{"text": "", "language": "Python", "path": "m3.py"}])
    assert spec.load().annotate([{"text": "", "language": "Python", "path": "a.py"}]) == {"score": [None]}


def test_repositories_are_on_one_side_and_duplicates_of_train_are_not_measured(corpus: Path) -> None:
    rate(corpus)
    split = HeldOut(fraction=0.3, seed=5)
    examples = load_examples(corpus, "oracle", split)
    sides = [{example["repository"] for example in side} for side in (examples.train, examples.held_out)]
    assert sides[0] and sides[1] and not sides[0] & sides[1]
    contents = {example["sha256"] for example in examples.train}
    assert not contents & {example["sha256"] for example in examples.held_out}
    assert len(examples.train) + len(examples.held_out) + examples.counts["on_both_sides"] == 240


def test_bad_scores_are_counted_or_refused_in_one_line(corpus: Path, tmp_path: Path) -> None:
    split = HeldOut(fraction=0.3)
    with pytest.raises(DataError, match=r"no scores of an oracle 'none'"):
        load_examples(corpus, "none", split)
    rate(corpus, lambda path, text: None if path.endswith("m1.py") else good(path, text), "some")
    assert load_examples(corpus, "some", split).counts["unscored"] == 24
    ids = [row for shard in list_shards(corpus) for row in pq.read_table(shard)["id"].to_pylist()]
    rate(corpus, name="strange", id=[f"x{name}" if k < 40 else name for k, name in enumerate(ids)])
    assert load_examples(corpus, "strange", split).counts["unknown"] == 40
    rate(corpus, name="foreign", id=[f"x{name}" for name in ids])
    with pytest.raises(DataError, match=r"none is a document of this corpus.*240 unknown"):
        load_examples(corpus, "foreign", split)
    rate(corpus, name="old", sha256=["0" * 64] * len(ids))
    with pytest.raises(DataError, match="240 changed"):
        load_examples(corpus, "old", split)
    rate(corpus, lambda path, text: 5.0, "flat")
    with pytest.raises(DataError, match="every file has the score 5; nothing can be learnt"):
        train_scorer(corpus, "flat", tmp_path / "flat", held_out=0.3)
    rate(corpus, lambda path, text: good(path, text) if path.endswith("m1.py") else None, "few")
    with pytest.raises(DataError, match="at least 50 and 10 are needed"):
        train_scorer(corpus, "few", tmp_path / "few", held_out=0.3)
    assert not (tmp_path / "few").exists()


def test_a_damaged_scorer_and_what_is_none_are_refused(corpus: Path, tmp_path: Path) -> None:
    rate(corpus)
    scorer = tmp_path / "scorer"
    train_scorer(corpus, "oracle", scorer, settings=SMALL, held_out=0.3)
    weights = scorer / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(DataError, match=r"scorer .* is damaged: .*weights.safetensors"):
        open_scorer(scorer)
    with pytest.raises(DataError, match=r"cannot be started: scorer .* is damaged"):
        run("score", "apply", corpus, scorer, "--workers", "1")
    (scorer / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"manifest.json is missing"):
        scorer_digest(scorer)
    with pytest.raises(DataError, match="is no scorer"):
        run("score", "apply", corpus, tmp_path / "code", "--workers", "1")
    with pytest.raises(DataError, match="is there and is no scorer"):
        train_scorer(corpus, "oracle", tmp_path / "code", settings=SMALL, held_out=0.3)
    with pytest.raises(DataError, match=r"linear scorer: there is no key 'bucket'; did you mean 'buckets'"):
        train_scorer(corpus, "oracle", tmp_path / "new", settings={"bucket": 3})
    with pytest.raises(DataError, match=r"linear scorer: buckets: .*a power of two is expected, .* 4,096 or 8,192"):
        train_scorer(corpus, "oracle", tmp_path / "new", settings={"buckets": 5000})
    with pytest.raises(DataError, match=r"linear scorer: ridge: "):
        train_scorer(corpus, "oracle", tmp_path / "new", settings={"ridge": []})
    with pytest.raises(DataError, match=r"held_out is 1; it must be at least 0 and below 1"):
        train_scorer(corpus, "oracle", tmp_path / "new", settings=SMALL, held_out=1.0)
    with pytest.raises(DataError, match="--kind forest: it must be linear or llama"):
        train_scorer(corpus, "oracle", tmp_path / "new", "forest")
    with pytest.raises(DataError, match="needs a pretrained checkpoint"):
        train_scorer(corpus, "oracle", tmp_path / "new", "llama")


def test_no_more_bytes_of_scored_files_than_are_asked_for_are_trained_on(corpus: Path, tmp_path: Path) -> None:
    rate(corpus)
    sizes = {row["id"]: row["size_bytes"] for shard in list_shards(corpus) for row in pq.read_table(shard).to_pylist()}
    split, taken, half = HeldOut(fraction=0.3), [], sum(sizes.values()) // 2
    for most_bytes in (half, 2 * half // 3, 2 * half + 1):
        examples = load_examples(corpus, "oracle", split, most_bytes=most_bytes)
        taken.append({example["id"] for example in (*examples.train, *examples.held_out)})
        assert sum(sizes[name] for name in taken[-1]) <= most_bytes
        assert len(taken[-1]) + examples.counts["over_most_bytes"] + examples.counts["on_both_sides"] == 240
    assert taken[1] < taken[0] and examples.counts["over_most_bytes"] == 0
    settings = SMALL | {"most_bytes": half}
    about = train_scorer(corpus, "oracle", tmp_path / "half", settings=settings, held_out=0.3)
    assert about["left_out"]["over_most_bytes"] > 60
    said = run("score", "report", corpus, tmp_path / "half", "--out", tmp_path / "again")
    first, again = (
        json.loads((tmp_path / name / "report.json").read_text())["measured"] for name in ("half.report", "again")
    )
    assert first == again and f"on {first['files']:,} held-out files" in said
    with pytest.raises(DataError, match=r"raise most_bytes, which leaves out 240$"):
        train_scorer(corpus, "oracle", tmp_path / "none", settings=SMALL | {"most_bytes": 1}, held_out=0.3)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.floats(0.1, 3), st.integers(0, 99))
def test_blocks_of_rows_are_solved_as_the_whole_matrix_is(heights: list[int], penalty: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    dense = generator.standard_normal((sum(heights), 5)).astype(np.float32)
    target = generator.standard_normal(len(dense))
    blocks = np.split(dense, np.cumsum(heights)[:-1])
    parts = [Design((csr_matrix(block),)) for block in blocks]
    design = joined(parts)
    weights = design.solve(target, penalty)
    exact = np.linalg.solve(dense.T @ dense + penalty**2 * np.eye(5), dense.T @ target)
    np.testing.assert_allclose(weights, exact, atol=5e-3)
    np.testing.assert_allclose(design.predict(weights), dense @ weights, atol=1e-6)
    np.testing.assert_allclose(np.concatenate([part.predict(weights) for part in parts]), dense @ weights, atol=1e-6)


@given(st.lists(st.tuples(st.integers(0, 10), st.floats(0, 10)), min_size=2, max_size=60))
def test_measures_are_those_of_their_definitions(pairs: list[tuple[int, float]]) -> None:
    true, predicted = (np.array(values, np.float32) for values in zip(*pairs, strict=True))
    found = measure(true, predicted, ["A" if k % 2 else "B" for k in range(len(pairs))], np.array([5.0]))
    errors = np.abs(true - predicted)
    assert found["mae"] == pytest.approx(errors.mean(), abs=1e-5)
    by_class = [errors[true == score].mean() for score in range(11) if (true == score).any()]
    assert found["class_mae"] == pytest.approx(np.mean(by_class), abs=1e-5)
    assert found["mean_predictor_mae"] == pytest.approx(np.abs(true - 5).mean(), abs=1e-5)
    assert sum(row["files"] for row in found["languages"].values()) == len(pairs)
    assert sum(row["files"] for row in found["classes"].values()) == len(pairs)
    for row in found["classes"].values():
        assert row["box"] == sorted(row["box"])


@given(st.lists(st.text(max_size=300), max_size=6), st.integers(10, 14))
def test_products_are_those_of_the_features(texts: list[str], power: int) -> None:
    data = [text.encode("utf-8", "surrogatepass") for text in texts]
    weights = np.random.default_rng(0).random(1 << power, np.float32)
    if not data:
        return
    columns, values, offsets, signs = features(data, 200, 1 << power)
    sums, same = products(data, 200, weights)
    assert signs.shape == (len(data), len(SIGNS)) and np.isfinite(signs).all()
    np.testing.assert_array_equal(same, signs)
    for index, (start, stop) in enumerate(itertools.pairwise(offsets)):
        own, part = columns[start:stop], values[start:stop]
        assert (own < 1 << power).all()
        assert sums[index] == pytest.approx(float((part * weights[own]).sum()), abs=1e-4)
        assert not len(part) or np.linalg.norm(part) == pytest.approx(2**0.5, abs=1e-4)


def test_signs_say_what_their_names_say() -> None:
    text = b'# One.\ndef area(w, h):\n    """Of a box."""\n    return w * h\n\n\ndef f(x):\n    return 12\n'
    (values,) = features([text], 1 << 16, 1 << 12)[3]
    signs = dict(zip(SIGNS, values.tolist(), strict=True))
    assert signs["definitions"] == pytest.approx(2 / 8)
    assert signs["comment_lines"] == pytest.approx(2 / 8)
    assert signs["blank_lines"] == pytest.approx(2 / 8)
    assert signs["literals"] == pytest.approx((1 + 10 + 1 + 2) / 51, abs=0.03)
    assert signs["generated"] == 0
    assert signs["bytes"] == pytest.approx(np.log1p(len(text)))
    assert signs["longest_line"] == pytest.approx(np.log1p(len(b'    """Of a box."""')))
