"""Numbers of pages: on planted junk, on code between prose, in several languages, and on hostile texts."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.annotators.base import AnnotatorSpec
from data_prep.annotators.page import Page, Prose, notices
from data_prep.annotators.repetition import WordNgrams, repeated_share

ENGLISH = (
    "The scheduler keeps a queue of tasks that are ready to run. When a worker has nothing to do, it takes the task "
    "with the highest priority and runs it until it waits for something or its time is over. None of them starves."
)
GERMAN = (
    "Der Planer führt eine Liste der Aufgaben, die bereit sind. Wenn ein Arbeiter nichts zu tun hat, nimmt er die "
    "Aufgabe mit der höchsten Priorität und führt sie aus, bis sie auf etwas wartet oder ihre Zeit vorbei ist."
)
RUSSIAN = (
    "Планировщик хранит очередь задач, готовых к выполнению. Когда рабочему потоку нечего делать, он берёт задачу с "
    "наивысшим приоритетом и выполняет её, пока она не начнёт чего-то ждать."
)
CHINESE = (
    "调度器维护一个准备运行的任务队列。当工作线程空闲时，它会取出优先级最高的任务并运行，直到该任务等待某个事件或者时间用完。"
    * 2
)
CODE = """
    def run(self, task):
        while task.ready():
            self.queue.push(task)
        return self.result
"""[1:]


def page(text, **settings):
    found = Page(**settings).annotate([{"text": text}])
    assert found.keys() == Page.columns.keys()
    return {name: values[0] for name, values in found.items()}


def test_words_stand_between_spaces_and_hold_a_letter_or_digit():
    assert page("one two, 3 -- don't <br> (four)\n")["words"] == 6
    assert page("")["words"] == page(" \n-- ** ...\n")["words"] == 0
    assert page("这是一个测试")["words"] == 1 + 3, "in writing without spaces, two characters are a word"
    assert page("x y\u00e9 漢")["characters"] == 6


def test_code_is_told_from_prose():
    text = f"{ENGLISH}\n\n{CODE}\nfor (i = 0; i < n; i++) {{\nx = y;\n}}\n• a list item\n    • and one below it\n"
    assert Prose.of(text).lines == [ENGLISH, "• a list item", "• and one below it"]
    assert Prose.of(f"{ENGLISH}\nMore.\n\nAgain.\n{CODE}").paragraphs == [f"{ENGLISH}\nMore.", "Again."]
    assert page(CODE)["prose_share"] == 0 and page(ENGLISH)["prose_share"] == 1
    assert page(CODE)["mean_word_length"] is None, "nothing is said of prose that is not there"


def test_lines_and_paragraphs_that_repeat():
    found = page("same line\nother\nsame line\nsame line\n")
    assert found["repeated_line_share"] == 18 / 36
    assert page("a b\nc\n\nd\n\na b\nc\n")["repeated_paragraph_share"] == 5 / 16
    assert page(CODE * 5)["repeated_line_share"] == 0, "code may"
    prose = page(f"{ENGLISH}\n{ENGLISH}")["repeated_line_share"]
    assert page(f"{ENGLISH}\n{ENGLISH}\n{CODE * 5}")["repeated_line_share"] < prose / 2, "it counts in the whole"


def test_word_ngrams_that_repeat():
    found = page("cheap shoes " * 30)
    assert found["top_2gram_share"] == 1 and found["repeated_5gram_share"] > 0.9
    varied = page(" ".join(f"word{i} is {i * 7}" for i in range(60)))
    assert varied["top_2gram_share"] == varied["repeated_5gram_share"] == 0
    assert page(ENGLISH)["top_3gram_share"] == 0 and page(CODE * 9)["top_3gram_share"] == 0


WORDS = st.lists(st.sampled_from(["a", "bb", "ccc", "dé"]), max_size=40)


def plain_shares(words, n, whole):
    """The same by dictionaries: (most frequent n-gram, n-grams that stood before)."""
    ngrams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    counts = {ngram: ngrams.count(ngram) for ngram in ngrams}
    size = {ngram: sum(len(word.encode()) for word in ngram) for ngram in counts}
    most = max(counts.values(), default=0)
    top = max((count * size[ngram] for ngram, count in counts.items() if count == most), default=0) if most > 1 else 0
    again = [i for i, ngram in enumerate(ngrams) if ngram in ngrams[:i]]
    covered = {j for i in again for j in range(i, i + n)}
    return min(1, top / whole), sum(len(words[j].encode()) for j in covered) / whole


@given(st.lists(WORDS, min_size=1, max_size=5), st.integers(1, 6))
def test_ngram_shares_are_those_of_counting_each_text_alone(texts, n):
    whole = [max(1, sum(len(word.encode()) for word in words)) for words in texts]
    found = WordNgrams([" ".join(words) for words in texts], whole)
    expected = [plain_shares(words, n, size) for words, size in zip(texts, whole, strict=True)]
    assert found.top_shares(n) == pytest.approx([top for top, _ in expected])
    assert found.repeated_shares(n) == pytest.approx([again for _, again in expected])


def test_what_is_said_of_a_page_does_not_depend_on_its_neighbours():
    texts = [ENGLISH, "", CODE, "cheap shoes " * 30, GERMAN * 3, "\n\n", CHINESE, "spam " * 2000]
    alone = [page(text) for text in texts]
    random.Random(1).shuffle(order := list(range(len(texts))))
    together = Page().annotate([{"text": texts[i]} for i in order])
    for place, index in enumerate(order):
        assert {name: values[place] for name, values in together.items()} == alone[index]
    assert all(not values for values in Page().annotate([]).values())


def test_signs_of_lists_ellipses_and_symbols():
    assert page("Read this ...\nand that…\nDone.\n")["ellipsis_line_share"] == pytest.approx(2 / 3)
    assert page("• one\n- two\n3. three\nfour\n")["bullet_line_share"] == 3 / 4
    assert page("Some #tag and a few words that follow #another one\n")["symbols_per_word"] == 0.2
    assert page("12 34 five 6\n")["alphabetic_word_share"] == 1 / 4
    assert page("ab 1! é\n")["letter_share"] == 3 / 5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Lorem ipsum dolor sit amet", ["lorem_ipsum"]),
        ("Please enable JavaScript to view this page.", ["needs_javascript"]),
        ("JavaScript is disabled in your browser.", ["needs_javascript"]),
        ("You need to enable JavaScript to run this app.", ["needs_javascript"]),
        ("This site uses cookies. Accept all cookies? Cookie policy", ["cookies"]),
        ("404 Not Found", ["no_access"]),
        ("npm ERR! 404 Not Found - GET http://www.foo.com/-/ping", []),
        ("The page you are looking for could not be found.", ["no_access"]),
        ("Checking your browser before accessing example.org", ["no_access"]),
        ("Please verify you are a human", ["no_access"]),
        ("JavaScript has closures, and a cookie is a string that a server sets.", []),
        ("The key was not found in the dictionary, so KeyError is raised.", []),
        (ENGLISH, []),
    ],
)
def test_notices(text, said):
    assert notices(text) == said == page(text)["notices"]


def test_lorem_ipsum_in_code_is_no_filler():
    assert page(f"{ENGLISH}\n\n    <p>Lorem ipsum dolor</p>\n")["notices"] == []


@pytest.mark.parametrize(("text", "language"), [(ENGLISH, "en"), (GERMAN, "de"), (RUSSIAN, "ru"), (CHINESE, "zh")])
def test_the_natural_language_is_that_of_the_prose(text, language):
    found = page(text)
    assert found["natural_language"] == language and found["language_margin"] >= 10
    mixed = page(f"{text}\n\n{CODE * 20}")
    assert (mixed["natural_language"], mixed["language_margin"]) == (language, found["language_margin"])


def test_capitals_do_not_matter():
    assert page(ENGLISH.upper())["natural_language"] == "en"
    assert page(ENGLISH.upper())["language_margin"] == page(ENGLISH)["language_margin"]


def test_no_language_is_named_where_there_is_too_little_prose():
    for text in ("", CODE * 20, "vmaxq_u32 vaddq_s16 std::vec::Vec<u8> getValue() x86_64", "Short text."):
        found = page(text)
        assert found["natural_language"] is found["language_margin"] is None
    assert page("This is a short text about words.", language_bytes=5)["natural_language"] == "en"


def test_real_texts_in_english():
    files = [path for path in Path("/usr/share/common-licenses").glob("*") if path.is_file()]
    if not files:
        pytest.skip("no licence texts on this machine")
    for path in files:
        found = page(path.read_text(encoding="utf-8", errors="replace"))
        assert found["natural_language"] == "en" and found["language_margin"] >= 20, path
        assert found["notices"] == [] and found["words"] > 100 and found["repeated_line_share"] < 0.2


HOSTILE = (
    *("\0" * 9, "\n" * 100_000, "x" * 1_000_000, "1" * 1_000_000, "{" * 300_000, "• " * 100_000, "a\n" * 100_000),
    *("-- " * 200_000, "漢" * 300_000, "e\u0301" * 200_000, "\u202e" * 999, "can't be found page " * 20_000),
)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_pages_have_finite_numbers(text):
    found = page(text)
    shares = [value for name, value in found.items() if name.endswith("_share") and value is not None]
    assert all(0 <= share <= 1 for share in shares) and found["words"] <= len(text)


@given(st.text(max_size=400))
def test_any_text_has_numbers(text):
    assert page(text)["characters"] == len(text)


def test_it_is_a_built_in_whose_settings_are_checked():
    assert AnnotatorSpec.of("page", language_bytes=7).load().language_bytes == 7
    assert repeated_share([], 0) == 0
