"""Text classifiers: how texts are prepared, what training gives, what is refused when one is loaded."""

import json
import re
import struct
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.classify import native
from data_prep.classify.model import ModelSettings, TextClassifier, describe, digest
from data_prep.classify.preparation import TextSettings, prepared
from data_prep.classify.thresholds import curve, precision_recall, threshold_for_recall, wilson
from data_prep.errors import DataError

SMALL = ModelSettings(dim=4, epochs=20, buckets=1 << 10, word_ngrams=2, min_count=1)


def words(*texts: str, **changes) -> list[str]:
    return [line.decode() for line in prepared(texts, TextSettings(**changes))]


def examples(count: int = 60) -> tuple[list[str], list[str]]:
    texts = [f"def f{n}(x): return x + {n}" if n % 2 else f"the cat {n} sat on the mat" for n in range(count)]
    return texts, ["code" if n % 2 else "other" for n in range(count)]


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    TextClassifier.train(*examples(), SMALL).save(tmp_path / "model", {"positive": "code", "threshold": 0.5})
    return tmp_path / "model"


@cache
def small_classifier() -> TextClassifier:
    return TextClassifier.train(*examples(), SMALL)


class TestPreparation:
    def test_identifiers_and_punctuation_come_apart(self) -> None:
        assert words("Get_User(x) == 12.5;") == ["get _ user ( x ) == 00 . 0 ;"]

    def test_no_layout_is_left(self) -> None:
        assert words("if x:\n\n\treturn   y\n") == words("if x: return y") == ["if x : return y"]

    def test_fences_and_tags_of_code_leave_nothing(self) -> None:
        marked = "see\n```python\nf(x)\n```\n<code class='a'>y</code> <PRE>z</PRE>\n~~~\nw"
        assert words(marked) == words("see f(x) y z w")

    def test_other_tags_stay(self) -> None:
        assert words("a <b> <codec>") == ["a < b > < codec >"]

    def test_runs_of_one_mark_are_cut(self) -> None:
        assert words("=====>  ---- a...") == ["=== > --- a ..."]

    def test_scripts_without_spaces_are_taken_letter_by_letter(self) -> None:
        assert words("漢字 テスト、über naïve 😀") == ["漢 字 テ ス ト 、 über naïve 😀"]

    def test_what_is_cut_off_does_not_count(self) -> None:
        assert words("a" * 100 + "b", characters=100) == ["a" * 100]

    def test_settings_that_keep_more(self) -> None:
        assert words("Ab 12", lower_case=False, digits_as_zero=False) == ["Ab 12"]

    @given(st.lists(st.text(max_size=60), max_size=5))
    def test_every_text_is_one_line_that_cannot_name_a_label(self, texts: list[str]) -> None:
        lines = words(*texts)
        assert len(lines) == len(texts)
        for line in lines:
            assert line == " ".join(line.split(" "))
            assert not re.search(r"[\n\r\t\v\f\0]|^ | $|  ", line)
            assert not any(word.startswith("__label__") or word == "</s>" for word in line.split(" "))

    @given(st.text(alphabet="aB1_-= <>\n\tü漢", max_size=80))
    def test_it_agrees_with_a_pattern(self, text: str) -> None:
        found = re.finditer(r"漢|[a-z0ü]+|([-=<>_])\1*", re.sub(r"\d", "0", text.lower()))
        expected = [match[0][:3] if match[1] else match[0] for match in found]
        assert words(text) == [" ".join(expected)]

    @given(st.lists(st.text(max_size=40), min_size=1, max_size=4))
    def test_a_text_is_prepared_by_itself(self, texts: list[str]) -> None:
        assert words(*texts) == [line for text in texts for line in words(text)]


class TestTraining:
    @pytest.mark.parametrize("dim", [1, 5, 16, 50])
    @pytest.mark.parametrize("word_ngrams", [1, 2])
    def test_equal_texts_give_equal_bytes_whatever_lay_in_memory(self, tmp_path: Path, dim: int, word_ngrams: int):
        chosen, digests = SMALL.model_copy(update={"dim": dim, "word_ngrams": word_ngrams}), set()
        for run in range(3):
            rubbish = [np.full(size, np.nan if run else 1e30, np.float32) for size in (64, 1000, 5000, 40_000) * 4]
            del rubbish
            about = TextClassifier.train(*examples(), chosen).save(tmp_path / f"{run}")
            digests.add(about["model"]["sha256"])
        assert len(digests) == 1

    def test_another_process_gives_the_same_bytes(self, tmp_path: Path, trained: Path) -> None:
        script = (
            "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
            "from test_classify_model import *\nTextClassifier.train(*examples(), SMALL).save(Path(sys.argv[2]))"
        )
        command = [sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path / "other")]
        subprocess.run(command, check=True, cwd=Path(__file__).parents[3])
        assert describe(tmp_path / "other")["model"] == describe(trained)["model"]

    def test_probabilities_are_those_of_the_library(self, trained: Path) -> None:
        classifier = TextClassifier.load(trained)
        texts = ["def g(x): return 1", "a cat on a mat", "", "zzz"]
        found = classifier.probabilities(texts)
        assert found.dtype == np.float32 and found.shape == (4, 2)
        for text, row in zip(texts, found, strict=True):
            labels, values = classifier.model.predict(words(text)[0], k=-1)
            said = {
                classifier.labels[int(label.removeprefix("__label__"))]: v
                for label, v in zip(labels, values, strict=True)
            }
            assert dict(zip(classifier.labels, row, strict=True)) == pytest.approx(said, abs=2e-5)

    def test_it_learns_and_is_loaded_as_it_was(self, trained: Path) -> None:
        classifier = TextClassifier.load(trained)
        texts, labels = examples(80)
        found = classifier.probabilities(texts)
        assert [classifier.labels[place] for place in found.argmax(axis=1)] == labels
        assert np.allclose(found.sum(axis=1), 1, atol=1e-3)
        again = TextClassifier.train(*examples(), SMALL).probabilities(texts)
        assert (found == again).all()

    @settings(max_examples=20, deadline=None)
    @given(st.lists(st.text(max_size=30), max_size=6))
    def test_what_is_said_of_a_text_depends_on_it_alone(self, texts: list[str]) -> None:
        classifier = small_classifier()
        whole = classifier.probabilities(texts)
        alone = [classifier.probabilities([text]) for text in texts]
        assert (whole == np.concatenate([np.empty((0, 2), np.float32), *alone])).all()

    def test_one_label_is_refused(self) -> None:
        with pytest.raises(DataError, match="two labels at least; the texts have 1"):
            TextClassifier.train(["a", "b"], ["x", "x"], SMALL)

    def test_training_that_diverges_says_what_to_do(self) -> None:
        with pytest.raises(DataError, match="lower the learning rate"):
            TextClassifier.train(*examples(), SMALL.model_copy(update={"learning_rate": 1e30}))

    def test_memory_is_dirty_again_afterwards(self) -> None:
        with native.clean_memory():
            pass
        import ctypes

        assert not native._is_clean(ctypes.CDLL(None))


class TestLoading:
    def test_saving_again_leaves_one_model(self, trained: Path) -> None:
        before = describe(trained)
        TextClassifier.train(*examples(40), SMALL).save(trained)
        after = describe(trained)
        assert after["model"]["file"] != before["model"]["file"]
        assert sorted(path.name for path in trained.iterdir()) == sorted(["model.json", after["model"]["file"]])

    def test_the_digest_follows_what_answers_depend_on(self, trained: Path) -> None:
        about = describe(trained)
        assert digest({**about, "name": "other", "measured": {}}) == digest(about)
        assert digest({**about, "threshold": 0.4}) != digest(about)

    def test_a_changed_file_is_refused_before_it_is_read(self, trained: Path) -> None:
        path = trained / describe(trained)["model"]["file"]
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"is not the file that model.json describes"):
            TextClassifier.load(trained)

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "data_prep.scorer/1"}'])
    def test_what_is_no_classifier(self, trained: Path, text: str) -> None:
        (trained / "model.json").write_text(text)
        with pytest.raises(DataError, match="is no classifier"):
            TextClassifier.load(trained)

    @pytest.mark.parametrize(
        "change",
        [{"labels": ["a"]}, {"labels": 3}, {"text": {"version": 1, "no": 1}}, {"model": {}}, {"settings": {"dim": 0}},
         {"model": {"file": "../../etc/passwd", "sha256": "0" * 64, "size_bytes": 1}}],
    )  # fmt: skip
    def test_a_damaged_description(self, trained: Path, change: dict) -> None:
        about = json.loads((trained / "model.json").read_text())
        (trained / "model.json").write_text(json.dumps(about | change))
        with pytest.raises(DataError, match="is damaged"):
            TextClassifier.load(trained)

    def test_another_version_of_preparation(self, trained: Path) -> None:
        about = json.loads((trained / "model.json").read_text())
        (trained / "model.json").write_text(json.dumps(about | {"text": {**about["text"], "version": 0}}))
        with pytest.raises(DataError, match="another version, which prepared texts otherwise"):
            TextClassifier.load(trained)

    def model(self, trained: Path) -> bytes:
        return (trained / describe(trained)["model"]["file"]).read_bytes()

    def test_a_sound_file(self, trained: Path) -> None:
        shape = native.check(trained / describe(trained)["model"]["file"])
        assert (shape.labels, shape.dim) == (2, 4)

    def test_no_cut_of_a_file_is_sound(self, trained: Path, tmp_path: Path) -> None:
        data, path = self.model(trained), tmp_path / "cut.bin"
        for size in [*range(0, 600, 7), len(data) // 2, len(data) - 1]:
            path.write_bytes(data[:size])
            with pytest.raises(DataError, match="is no whole fastText model"):
                native.load(path, 2)
        path.write_bytes(data + b"\0")
        with pytest.raises(DataError, match="is no whole fastText model"):
            native.load(path, 2)

    @pytest.mark.parametrize(
        ("place", "value"),
        [(0, 1), (4, 99), (8, 0), (8, -4), (8, 1 << 30), (28, 0), (36, 1), (40, -1), (40, 1 << 30), (44, 3), (64, -1),
         (64, 1 << 30), (68, 1 << 30), (72, 7)],
    )  # fmt: skip
    def test_a_header_that_lies(self, trained: Path, tmp_path: Path, place: int, value: int) -> None:
        data, path = bytearray(self.model(trained)), tmp_path / "lies.bin"
        struct.pack_into("<i", data, place, value)
        path.write_bytes(data)
        with pytest.raises(DataError, match="is no whole fastText model"):
            native.load(path, 2)

    def test_other_labels_than_described(self, trained: Path) -> None:
        with pytest.raises(DataError, match="a model of 2 labels, where 3 are described"):
            native.load(trained / describe(trained)["model"]["file"], 3)

    def test_weights_that_are_no_numbers(self, trained: Path, tmp_path: Path) -> None:
        data = self.model(trained)
        path = tmp_path / "nan.bin"
        path.write_bytes(data[:-16] + struct.pack("<4f", *[float("nan")] * 4))
        model = native.load(path, 2)
        with pytest.raises((DataError, RuntimeError)):
            native.probabilities(model, [b"def cat"], 2)


scored = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


class TestThresholds:
    @given(scored, st.floats(0.01, 1))
    def test_the_threshold_is_the_highest_with_this_recall(self, pairs: list, recall: float) -> None:
        scores, positive = [score for score, _ in pairs], [is_positive for _, is_positive in pairs]
        if not any(positive):
            with pytest.raises(DataError, match="no positive documents"):
                threshold_for_recall(scores, positive, recall)
            return
        threshold = threshold_for_recall(scores, positive, recall)
        assert precision_recall(scores, positive, threshold).recall >= recall - 1e-9
        assert precision_recall(scores, positive, np.nextafter(threshold, 2)).recall < recall

    @given(scored)
    def test_the_curve_is_what_its_thresholds_give(self, pairs: list) -> None:
        scores, positive = [score for score, _ in pairs], [is_positive for _, is_positive in pairs]
        found = curve(scores, positive)
        for threshold, precision, recall in zip(*found.values(), strict=True):
            same = precision_recall(scores, positive, threshold)
            assert (precision, recall) == pytest.approx((same.precision, same.recall))
        assert found["recall"] == sorted(found["recall"])
        assert not any(positive) or found["recall"][-1] == 1

    def test_wilson(self) -> None:
        assert wilson(0, 0) == (0.0, 1.0)
        assert wilson(8, 10) == pytest.approx((0.490, 0.943), abs=1e-3)
        assert wilson(10, 10)[1] == pytest.approx(1)

    def test_scores_that_do_not_fit(self) -> None:
        with pytest.raises(DataError, match="2 scores for 1 documents"):
            precision_recall([1, 2], [True], 0.5)
        with pytest.raises(DataError, match="1 of 2 scores are not numbers"):
            threshold_for_recall([float("nan"), 1.0], [True, True], 0.9)
        with pytest.raises(DataError, match="recall 2"):
            threshold_for_recall([1.0], [True], 2)
