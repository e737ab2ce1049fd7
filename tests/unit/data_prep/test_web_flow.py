"""From WARC files to token files: every rule of the shipped selection drops exactly the pages planted for it.

Real pages are documentation of the standard library, with and without code tags, texts of licences, and explanations
with formulas.
"""

import ast
import hashlib
import html
import importlib.metadata
import io
import itertools
import json
from pathlib import Path

import mpmath
import numpy as np
import pyarrow.parquet as pq
import pytest
import sympy
from oracle_server import OracleServer, Says
from typer.testing import CliRunner
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from data_prep.cli import app
from data_prep.documents import list_shards
from data_prep.selection.config import load_config
from launch.full.mathematics import as_html, explanations

EXAMPLES = Path(__file__).parents[3] / "examples"
NAMES = ("web_candidates", "web_recalled", "web_selection", "math_recalled", "math_selection")
CANDIDATES, RECALLED, CONFIG, MATH_RECALLED, MATH = (EXAMPLES / f"{name}.yaml" for name in NAMES)
ENGLISH = (
    "The scheduler keeps a queue of tasks that are ready to run. When a worker has nothing to do, it takes the task "
    "with the highest priority and runs it until it waits for something or its time is over. {} "
    "Tasks that have waited for long are moved up, so that none of them starves while others keep coming in."
)
GERMAN = (
    "Der Planer führt eine Liste der Aufgaben, die bereit sind. Wenn ein Arbeiter nichts zu tun hat, nimmt er die "
    "Aufgabe mit der höchsten Priorität und führt sie aus, bis sie auf etwas wartet oder ihre Zeit vorbei ist. "
    "Aufgaben, die schon lange warten, rücken nach vorne, damit keine von ihnen für immer liegen bleibt."
)
RUSSIAN = (
    "Планировщик хранит очередь задач, готовых к выполнению. Когда рабочему потоку нечего делать, он берёт задачу с "
    "наивысшим приоритетом и выполняет её, пока она не начнёт чего-то ждать или её время не закончится. Задачи, "
    "которые давно ждут, продвигаются вперёд, чтобы ни одна из них не осталась без внимания."
)
LOREM = "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor incididunt ut labore. " * 2
WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet", "jetty", "knoll", "ledge")


def prose(seed, words):
    """Words that say nothing, in an order of their own."""
    drawn = np.random.default_rng(seed).choice(WORDS, words)
    return " ".join(f"{word}{index % 89}" for index, word in enumerate(drawn))


def page(title, *paragraphs, code=""):
    body = "".join(f"<p>{html.escape(paragraph)}</p>\n" for paragraph in paragraphs)
    block = f"<pre><code>{html.escape(code)}</code></pre>" if code else ""
    return f"<html><head><title>{title}</title></head><body><h1>{title}</h1>\n{body}{block}</body></html>"


def planted():
    """rule -> {URL: page}: what is to be dropped by which rule."""
    listing = "".join(f"<li>{prose(1000 + i, 9)}</li>" for i in range(40))
    return {
        "few_words": {"https://few.org/": page("Moved", "Go to the new place")},
        "filler": {"https://filler.org/": page("Theme", LOREM, ENGLISH.format("A demo."))},
        "notice": {
            "https://script.org/": page("App", "You need to enable JavaScript to run this app, which is a fine one."),
            "https://cookies.org/": page("Hello", "This site uses cookies to work, and so that we know what you like."),
            "https://gone.org/x": page("Oops", "The page that you are looking for could not be found on this server."),
        },
        "repeated_lines": {"https://lines.org/": page("Notes", *["Subscribe to our letter today"] * 20, prose(1, 60))},
        "repeated_words": {"https://words.org/": page("Deals", "cheap shoes and " * 40 + prose(2, 20))},
        "copied_words": {"https://copied.org/": page("Again", " and ".join([prose(3, 80)] * 4))},
        "links": {"https://links.org/": f"<html><body><ul>{listing}</ul></body></html>"},
        "teasers": {"https://teasers.org/": page("All", *[f"{prose(500 + i, 12)} ..." for i in range(12)])},
        "no_text": {"https://numbers.org/": page("1", *[f"{i * 7919} {i * 104729} {i / 7:.5f} ok" for i in range(60)])},
        "other_language": {"https://de.org/": page("Planer", GERMAN), "https://ru.org/": page("План", RUSSIAN)},
        "blocked": {
            "https://www.blocked.org/tasks": page("Tasks", ENGLISH.format("It is written down here.")),
            "https://mixed.org/ads/1": page("Queue", f"You can read about all of it here. {prose(9, 70)}"),
        },
    }


def docstrings():
    """Pages of the standard library's documentation: (title, paragraphs, code of a function); no docstring twice."""
    seen = set()
    for path in sorted(Path(ast.__file__).parent.rglob("*.py")):
        if path.name.startswith("_") or "test" in str(path) or "site-packages" in str(path):
            continue
        source = path.read_text(encoding="utf-8", errors="replace")
        said, code = [], ""
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.FunctionDef) or not (text := ast.get_docstring(node)):
                continue
            text = " ".join(text.split())
            if len(text) > 40 and text not in seen and not any(mark in text for mark in (">>>", "...", "--")):
                seen.add(text)
                said.append(f"{node.name}: {text}")
                code = ast.get_source_segment(source, node)[:600]
            if sum(map(len, said)) > 700:
                yield path.stem, said, code
                said, code = [], ""


def licences():
    """Paragraphs of the licences of installed packages, three to a page, none twice."""
    seen, found = set(), []
    for distribution in sorted(importlib.metadata.distributions(), key=lambda one: one.name):
        for file in distribution.files or ():
            if "licen" in file.name.lower() and file.suffix in ("", ".txt", ".md"):
                text = Path(distribution.locate_file(file)).read_text(encoding="utf-8", errors="replace")
                for paragraph in (" ".join(one.split()) for one in text.split("\n\n")):
                    words = paragraph.split()
                    fresh = len(words) > 40 and paragraph[:60] not in seen and len(set(words)) > 0.5 * len(words)
                    if fresh and "Copyright (" not in paragraph:
                        seen.add(paragraph[:60])
                        found.append(paragraph[:2000])
    for start in range(0, len(found) - 2, 3):
        yield found[start : start + 3]


def mathematics():
    """Titles and HTML of what packages explain with formulas."""
    for package in (mpmath, sympy):
        for _, _, text in explanations(Path(package.__file__).parent):
            made = as_html(text)
            words = made[1].split() if made else ()
            if len(words) > 60 and len(set(words)) > 0.5 * len(words):
                yield made


_MORE = {
    "forum": (
        "ann wrote on Monday: has somebody tried this? I had no luck with it so far.",
        "bob replied: it worked for me, thanks for the hint. Did you read the thread above?",
        "cid wrote: same here, I agree with what bob said. Thread closed by a moderator.",
    ),
    "shop": (
        "Price 12.00 EUR, shipping is free within two days.",
        "Add it to your basket and check out now, while it is in stock.",
        "Customers who bought this item also bought what is on sale today.",
    ),
}


def real():
    """URL -> page; hosts say what a page is: manual, lesson (with tags), guide, forum, shop, legal, math (without)."""
    pages = {}
    for index, (title, said, code) in enumerate(itertools.islice(docstrings(), 330)):
        kind = ("manual", "guide", "forum", "guide", "shop")[index % 5]
        tagged = kind == "manual" and bool(code)
        pages[f"https://{kind if tagged or kind != 'manual' else 'guide'}{index % 37}.org/{index}"] = page(
            title, *_MORE.get(kind, ()), *said, code=code if tagged else ""
        )
    for index, paragraphs in enumerate(itertools.islice(licences(), 130)):
        pages[f"https://legal{index % 31}.org/{index}"] = page("Terms", *paragraphs)
    for index, (title, body) in enumerate(itertools.islice(mathematics(), 150)):
        more = _MORE["forum"] if index % 3 == 0 else ()
        host, block = ("lesson", "y = f(x)") if index % 10 == 0 else ("math", "")
        made = page(html.escape(title), *more, code=block).replace("</h1>", f"</h1>{body}")
        pages[f"https://{host}{index % 37}.org/{index}"] = made
    return pages


def write_warc(path, pages):
    with open(path, "wb") as stream:
        writer = WARCWriter(stream, gzip=True)
        for url, text in pages.items():
            headers = StatusAndHeaders("200 OK", [("Content-Type", "text/html; charset=utf-8")], protocol="HTTP/1.1")
            body = io.BytesIO(text.encode())
            writer.write_record(writer.create_warc_record(url, "response", payload=body, http_headers=headers))


def run(*arguments):
    result = CliRunner().invoke(app, [*map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def ask(corpus, name, prompt, script, *more):
    with OracleServer(script) as server:
        return run("oracle", "run", corpus, name, "--prompt", prompt, "--url", server.url, "--model", "m", *more)


def is_legal(text):
    return text.startswith("Terms")


def is_mathematical(text):
    return "\\(" in text or "\\[" in text


def category(text):
    return "forum" if "bob replied" in text else "shop" if "your basket" in text else "documentation"


def quality(text):
    return min(10, len(text.split()) // 28)


def rows_of(corpus, *places):
    """path -> what the documents and these folders say of it."""
    found = {}
    for shard in list_shards(corpus):
        rows = pq.read_table(shard).to_pylist()
        for place in places:
            said = pq.read_table(corpus / place / shard.name).to_pylist()
            for row, values in zip(rows, said, strict=True):
                row |= {f"{place}.{name}": value for name, value in values.items()}
        found |= {row["path"]: row for row in rows}
    return found


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    """Runs every step as docs/web.md has them; returns the folder, the planted pages and the copies."""
    folder = tmp_path_factory.mktemp("web")
    corpus, pages, junk = folder / "web", real(), planted()
    first = next(url for url in pages if "guide" in url)
    copies = {"https://copy.org/": pages[first], "https://near.org/": pages[first].replace("</p>", " Yes.</p>", 1)}
    write_warc(folder / "real.warc.gz", pages)
    write_warc(folder / "junk.warc.gz", copies | {url: text for found in junk.values() for url, text in found.items()})
    (folder / "blocked.txt").write_text("# planted\nblocked.org\nmixed.org/ads\n")
    run("web", corpus, folder / "real.warc.gz", folder / "junk.warc.gz")
    run("dedup", corpus)
    run("annotate", corpus, "page", "secrets", "blocklist", "--set", f"blocklist.lists=[{folder / 'blocked.txt'}]")

    run("select", corpus, "--selection", "candidates", "--config", CANDIDATES)
    label = lambda text, _: Says(f"Label: [[{'other' if is_legal(text) or is_mathematical(text) else 'code'}]]")  # noqa: E731
    ask(corpus, "recall", "web_recall", label, "--selection", "candidates", "--files", 450)
    classify(corpus, folder / "code", "code_page", "label=oracle_recall.label", "positive=code")

    run("select", corpus, "--selection", "recalled", "--config", RECALLED)
    sample = ("--selection", "recalled", "--files", 250)
    ask(corpus, "site", "site_category", lambda text, _: Says(f"Label: [[{category(text)}]]"), *sample)
    classify(corpus, folder / "site", "site", "label=oracle_site.label", "model.epochs=40")
    rating = lambda text, _: Says(f"Rating: [[{0 if is_mathematical(text) else quality(text)}]]")  # noqa: E731
    ask(corpus, "quality", "web", rating, *sample)
    run("score", "train", corpus, "quality", folder / "scorer", "--held-out", 0.2)
    run("score", "apply", corpus, folder / "scorer")
    run("select", corpus, "--config", CONFIG)
    recall_mathematics(folder, corpus)
    return folder, junk, (first, *copies)


def classify(corpus, model, annotation, *settings):
    """Trains a classifier on few labels and asks it about every page."""
    few = ("minimum_train=12", "minimum_evaluated=2")
    run("classify", "train", corpus, model, *(word for one in (*settings, *few) for word in ("--set", one)))
    run("classify", "apply", corpus, model, "--annotation", annotation)


def recall_mathematics(folder, corpus):
    """The steps of docs/web.md for mathematical pages."""
    label = lambda text, _: Says(f"Label: [[{'math' if is_mathematical(text) else 'other'}]]")  # noqa: E731
    ask(corpus, "math", "math_recall", label, "--selection", "candidates", "--files", 450)
    classify(corpus, folder / "math", "math_page", "label=oracle_math.label", "positive=math", "model.epochs=40")

    run("select", corpus, "--selection", "math_recalled", "--config", MATH_RECALLED)
    sample = ("--selection", "math_recalled", "--files", 150)
    ask(corpus, "math_site", "site_category", lambda text, _: Says(f"Label: [[{category(text)}]]"), *sample)
    classify(corpus, folder / "math_site", "math_site", "label=oracle_math_site.label", "model.epochs=40")
    ask(corpus, "math_quality", "math", lambda text, _: Says(f"Rating: [[{quality(text)}]]"), *sample)
    run("score", "train", corpus, "math_quality", folder / "math_scorer", "--held-out", 0.2)
    run("score", "apply", corpus, folder / "math_scorer", "--annotation", "math_quality")
    run("select", corpus, "--selection", "math", "--config", MATH)
    run("select", corpus, "--config", CONFIG)


def dropped(flow, rule):
    rows = rows_of(flow[0] / "web", "selections/main")
    return {path for path, row in rows.items() if row["selections/main.dropped_by"] == rule}


@pytest.mark.parametrize("rule", planted())
def test_a_rule_drops_exactly_what_was_planted_for_it(flow, rule):
    assert dropped(flow, rule) == set(flow[1][rule])


def test_of_copies_one_page_stays(flow):
    first, copy, near = flow[2]
    assert len(dropped(flow, "exact_duplicate") & {first, copy}) == 1
    assert dropped(flow, "exact_duplicate") <= {first, copy}
    assert len((dropped(flow, "near_duplicate") | dropped(flow, "exact_duplicate")) & {first, copy, near}) == 2


def test_pages_without_code_tags_must_be_recalled(flow):
    rows = rows_of(flow[0] / "web", "annotations/web", "annotations/code_page")
    legal = {path for path in rows if "//legal" in path}
    lost = dropped(flow, "not_recalled")
    assert len(legal) > 60 and len(lost & legal) > 0.5 * len(legal)
    about_code = {path for path in rows if "//guide" in path or "//forum" in path or "//shop" in path}
    assert len(about_code) > 150 and len(lost & about_code) <= 0.1 * len(about_code)
    for path in lost:
        row = rows[path]
        assert not row["annotations/web.has_code"] and not row["annotations/code_page.recalled"]
    assert not any("//manual" in path for path in lost), "pages with code tags skip the classifier"
    assert sum(row["annotations/web.has_code"] for row in rows.values()) == sum(
        "//manual" in path or "//lesson" in path for path in rows
    )


@pytest.mark.parametrize(
    ("config", "selection", "quality", "site", "kinds"),
    [
        (CONFIG, "main", "quality", "site", {"documentation", "forum", "shop"}),
        (MATH, "math", "math_quality", "math_site", {"documentation", "forum"}),
    ],
)
def test_thresholds_and_rates_are_those_of_the_kind_of_site(flow, config, selection, quality, site, kinds):
    rows = rows_of(flow[0] / "web", f"selections/{selection}", f"annotations/{quality}", f"annotations/{site}")
    config = load_config(config)
    low, rates = config.rules[-2].below, config.rules[-1].sample
    judged = {"low_quality": set(), "sampled_out": set(), None: set()}
    labels = set()
    for path, row in rows.items():
        if (by := row[f"selections/{selection}.dropped_by"]) not in judged:
            continue
        score, label = row[f"annotations/{quality}.score"], row[f"annotations/{site}.label"]
        labels.add(label)
        rate = rates.rates.get(label, rates.rate)
        draw = int(hashlib.sha256(f"{rates.seed}:{row['id']}".encode()).hexdigest(), 16) / 2**256
        poor = score < low.values.get(label, low.default)
        assert by == ("low_quality" if poor else "sampled_out" if draw >= rate else None), (path, label, score)
        judged[by].add(path)
    assert labels == kinds and judged["low_quality"] and judged[None]
    assert bool(judged["sampled_out"]) == any(kind in rates.rates for kind in kinds)


def test_a_second_classifier_recalls_mathematical_pages(flow):
    rows = rows_of(flow[0] / "web", "selections/math", "selections/main", "annotations/math_page")
    fates = (None, "low_quality", "about_code")
    judged = {path for path, row in rows.items() if row["selections/math.dropped_by"] in fates}
    mathematical = {path for path in rows if "//math" in path or "//lesson" in path}
    assert len(mathematical) == 150 and len(judged & mathematical) > 0.8 * len(mathematical)  # of some 15 to pick by
    assert len(judged - mathematical) < 0.1 * len(judged)
    assert all(rows[path]["annotations/math_page.recalled"] for path in judged)


def test_a_page_that_is_about_both_goes_where_it_scores_higher(flow):
    places = ("selections/main", "selections/math", "annotations/quality", "annotations/math_quality")
    rows = rows_of(flow[0] / "web", *places)
    fates = {path: (row["selections/main.dropped_by"], row["selections/math.dropped_by"]) for path, row in rows.items()}
    assert (None, None) not in fates.values()
    higher = {path for path, (by, _) in fates.items() if by == "about_mathematics"}
    lower = {path for path, (_, by) in fates.items() if by == "about_code"}
    assert any("//lesson" in path for path in higher) and not higher & lower
    for path in higher | lower:
        row = rows[path]
        assert (row["annotations/math_quality.score"] > row["annotations/quality.score"]) == (path in higher), path


def test_two_scorers_rate_the_pages_of_a_corpus_side_by_side(flow):
    folder, corpus = flow[0], flow[0] / "web"
    rows = rows_of(corpus, "annotations/quality", "annotations/math_quality").values()
    assert any(row["annotations/quality.score"] != row["annotations/math_quality.score"] for row in rows)
    for scorer, name in (("scorer", "quality"), ("math_scorer", "math_quality")):
        assert "(0 of 2 shards made now)" in run("score", "apply", corpus, folder / scorer, "--annotation", name)


def test_all_selections_have_the_same_junk_rules():
    names = {*planted(), "exact_duplicate", "near_duplicate"}
    for path in (CANDIDATES, RECALLED, CONFIG, MATH_RECALLED, MATH):
        junk = {rule.name: rule for rule in load_config(path).rules if rule.name in names}
        assert junk.keys() == names and list(junk.values()) == list(load_config(CONFIG).rules[: len(names)]), path


def test_the_selections_become_token_files(flow):
    folder = flow[0]
    run("tokenizer", folder / "web", folder / "tokenizer", "--vocab-size", 600, "--kind", "byte_bpe")
    for selection in ("main", "math"):
        asked = ("--tokenizer", folder / "tokenizer", "--fim-rate", 0, "--selection", selection)
        run("build", folder / "web", folder / "tokens" / selection, *asked)
        rows = rows_of(folder / "web", f"selections/{selection}").values()
        kept = [row for row in rows if row[f"selections/{selection}.split"] == "train"]
        (made,) = (folder / "tokens" / selection).glob("*.manifest.json")
        assert len(kept) > 50 and json.loads(made.read_text())["documents"] == len(kept)


def test_new_pages_go_through_the_same_steps(flow):
    """The last test: it adds to the corpus."""
    folder, corpus = flow[0], flow[0] / "web"
    new = {f"https://new{i}.org/": page("New", f"{prose(7000 + i, 60)}", code=f"x = {i}") for i in range(3)}
    write_warc(folder / "more.warc.gz", new)
    run("web", corpus, folder / "more.warc.gz")
    run("dedup", corpus)
    said = run(
        "annotate", corpus, "page", "secrets", "blocklist", "--set", f"blocklist.lists=[{folder / 'blocked.txt'}]"
    )
    assert said.count("(1 of 3 shards made now)") == 3
    run("select", corpus, "--selection", "candidates", "--config", CANDIDATES)
    run("classify", "apply", corpus, folder / "code", "--annotation", "code_page")
    run("select", corpus, "--selection", "recalled", "--config", RECALLED)
    run("classify", "apply", corpus, folder / "site", "--annotation", "site")
    run("score", "apply", corpus, folder / "scorer")
    run("classify", "apply", corpus, folder / "math", "--annotation", "math_page")
    run("score", "apply", corpus, folder / "math_scorer", "--annotation", "math_quality")
    run("select", corpus, "--config", CONFIG)
    rows = rows_of(corpus, "selections/recalled", "selections/main")
    assert all(rows[url]["selections/recalled.dropped_by"] is None for url in new)
    assert {rows[url]["selections/main.dropped_by"] for url in new} <= {None, "low_quality", "sampled_out"}
