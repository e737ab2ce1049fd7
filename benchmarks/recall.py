"""Recall of pages about code: precision at 99 % recall on sites that neither training nor the threshold has seen.

    python benchmarks/recall.py --fetch --pages FOLDER          # Debian packages of documentation, and books
    python benchmarks/recall.py --pages FOLDER --work FOLDER --out recall.json

Every folder in `--pages` is a site: an unpacked package with HTML files, or a book of Standard Ebooks. Text is taken
out of all pages alike (`data_prep.web`), and nothing of the markup is left in it. To be found ("code") are pages of
which a tenth is blocks of code, by their tags, in documentation for programmers and administrators. To be left
("other") are pages without any code element in manuals for the users of a program, and prose. Pages in between
(documentation for programmers without code elements, manuals with some) have no label: tags do not tell what they are
about.

Whole sites are trained on (60 %), give the threshold (20 %) and are tested on (20 %), by the hash of `data classify`.
Each seed is a whole experiment, and what the test sites of all seeds hold is added up. Recall and the share of other
pages that are kept do not depend on how many pages are code; precision does, so it is given for some base rates.

Beside it, with the same split and way to pick a threshold: the scorer's linear model of hashed n-grams, and the share
of characters such as {}();=<> in a text.
"""

import argparse
import hashlib
import json
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.classify.model import TextClassifier, describe
from data_prep.classify.settings import ClassifyConfig
from data_prep.classify.thresholds import PrecisionRecall, precision_recall, threshold_for_recall
from data_prep.classify.train import train_classifier
from data_prep.documents import list_shards
from data_prep.importing import ImportLimits, SourceSpec, import_documents
from data_prep.scorer.linear import LinearSettings, fit
from data_prep.web.html import TooDeepError, extract
from data_prep.web.settings import ExtractionSettings

USERS = """anarchism debian-history debian-edu-doc-en freedombox-doc-en gimp-help-en gnucash-docs libreoffice-help-en-us
gnumed-doc eqonomize-doc nted-doc gm-assistant-doc sylpheed-doc kdiff3-doc partimage-doc diceware-doc therion-doc
hplip-doc denemo-doc tap-plugins-doc crrcsim-doc copyq-doc fwbuilder-doc ublock-origin-doc fontforge-doc drgeo-doc
phylip-doc paml-doc munipack-doc zoneminder-doc mplayer-doc xfig-doc hugin-data pspp gpsbabel-doc xsane-common
pcb-common installation-guide-amd64 debian-faq kicad-doc-en texstudio-doc texmaker-data alpine-doc""".split()  # noqa: SIM905
PROGRAMMERS = """apache2-doc db5.3-doc cppreference-doc-en-html octave-doc twisted-doc cmake-doc gradle-doc antlr4-doc
postgresql-doc-15 docbook-xsl-doc-html erlang-doc imagemagick-6-doc ffmpeg-doc sqlite3-doc harden-doc python-django-doc
dx-doc gnuplot-doc jython-doc autogen-doc augeas-doc geographiclib-doc libglib2.0-doc maxima-doc calculix-ccx-doc
xapian-doc angelscript-doc rsyslog-doc plplot-doc buildbot-doc lemonldap-ng-doc dblatex-doc git-doc
python-sqlalchemy-doc flex-doc gnustep-base-doc zsh-doc varnish-doc shorewall-doc vim-doc yorick-doc praw-doc
ncurses-doc exim4-doc-html postfix-doc proftpd-doc gammu-doc diffutils-doc ganeti-doc renpy-doc beets-doc
aptitude-doc-en ntpsec-doc mopidy-doc eb-doc knot-resolver-doc evolver-doc anyremote-doc borgbackup-doc debian-policy
wand-doc pikepdf-doc c++-annotations-html xmds2-doc dpuser-doc yara-doc ocrmypdf-doc bind9-doc dyssol-doc bird-doc
pyzo-doc debian-reference-en virtualenvwrapper-doc r-doc-html elastalert-doc developers-reference maint-guide bash-doc
apt-doc live-manual-html csound-doc povray-doc mutt grass-doc lilypond-doc-html debian-handbook""".split()  # noqa: SIM905
BOOKS = """jane-austen_pride-and-prejudice arthur-conan-doyle_the-adventures-of-sherlock-holmes samuel-pepys_the-diary
ambrose-bierce_the-devils-dictionary walt-whitman_leaves-of-grass charles-darwin_the-origin-of-species
herman-melville_moby-dick plato_dialogues_benjamin-jowett adam-smith_the-wealth-of-nations mary-shelley_frankenstein
charles-dickens_bleak-house""".split()  # noqa: SIM905
BASE_RATES = (0.05, 0.1, 0.2, 0.3)
MARKS = np.zeros(256, bool)
MARKS[list(b"{}()[];=<>_#$\\|&*/")] = True
LEAST_CODE, LEAST_WORDS, MOST_BYTES = 0.1, 10, 400_000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pages", type=Path, required=True)
    parser.add_argument("--fetch", action="store_true")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--per-site", type=int, default=300)
    parser.add_argument("--recall", type=float, default=0.993)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13, 14, 15])
    arguments = parser.parse_args()
    if arguments.fetch:
        fetch(arguments.pages)
        return
    corpus, facts = prepare(arguments.pages, arguments.work, arguments.per_site)
    results = [experiment(corpus, facts, arguments, seed) for seed in arguments.seeds]
    found = {name: added([result[name] for result in results]) for name in ("classify", "linear", "marks")}
    speed = {name: float(np.mean([result["speed"][name] for result in results])) for name in results[0]["speed"]}
    if arguments.out:
        arguments.out.write_text(json.dumps({"pages": len(facts), **found, "speed": speed, "seeds": results}, indent=1))
    for name, row in found.items():
        times = ", ".join(f"{value:.2f} at {float(rate):.0%}" for rate, value in row["times_base_rate"].items())
        print(f"{name}: recall {row['recall']:.2%}, keeps {row['kept_share']:.1%} of others; over base rate: {times}")
    print(f"training {speed['train']:.1f}, use {speed['apply']:.1f} MB of text per CPU-second")


def fetch(pages: Path) -> None:
    """Downloads the packages that there are, and books; each goes into a folder of its name."""
    pages.mkdir(parents=True, exist_ok=True)
    for package in (*USERS, *PROGRAMMERS):
        if (pages / package).is_dir():
            continue
        if subprocess.run(["apt-get", "download", "-q", package], cwd=pages).returncode == 0:
            (archive,) = pages.glob(f"{package}_*.deb")
            subprocess.run(["dpkg-deb", "-x", str(archive), str(pages / package)], check=True)
            archive.unlink()

    for book in BOOKS:
        if not (pages / book).is_dir():
            source = f"https://github.com/standardebooks/{book}"
            subprocess.run(["git", "clone", "-q", "--depth", "1", source, str(pages / book)], check=True)


def prepare(pages: Path, work: Path, per_site: int) -> tuple[Path, list[dict[str, Any]]]:
    """A corpus of all labelled pages, and for each document its id, site, label and a hash of its text."""
    corpus, table = work / "corpus", work / "pages.parquet"
    if not table.is_file():
        work.mkdir(parents=True, exist_ok=True)
        rows = [row for site in sorted(pages.iterdir()) for row in site_rows(site, per_site)]
        pq.write_table(pa.Table.from_pylist(rows), table)
    import_documents([SourceSpec("parquet", str(table), "pages")], corpus, ImportLimits(), 1)
    labels = {(row["repository"], row["path"]): row["label"] for row in pq.read_table(table).to_pylist()}
    columns = ["id", "repository", "path", "sha256", "size_bytes"]
    rows = [row for shard in list_shards(corpus) for row in pq.read_table(shard, columns=columns).to_pylist()]
    return corpus, [{**row, "label": labels[row["repository"], row["path"]]} for row in rows]


def site_rows(site: Path, per_site: int) -> Iterator[dict[str, str]]:
    """Labelled pages of a site, in the order of a hash of their paths."""
    is_other = site.name in USERS or site.name in BOOKS
    if not is_other and site.name not in PROGRAMMERS:
        return
    paths = [path for path in site.rglob("*") if path.suffix.lower() in (".html", ".htm", ".xhtml")]
    paths = [path for path in paths if path.is_file() and not path.is_symlink()]
    paths.sort(key=lambda path: hashlib.sha256(str(path.relative_to(site)).encode()).digest())
    for path in paths[:per_site]:
        if path.stat().st_size > MOST_BYTES:
            continue
        try:
            found = extract(path.read_bytes().decode("utf-8", "replace"), ExtractionSettings())
        except TooDeepError:
            continue
        is_code = found.code_blocks > 0 and found.code_share >= LEAST_CODE and site.name in PROGRAMMERS
        if len(found.text.split()) >= LEAST_WORDS and (is_code or (is_other and not found.has_code)):
            label, name = "code" if is_code else "other", str(path.relative_to(site))
            yield {"content": found.text, "repository": site.name, "path": name, "language": "HTML", "label": label}


def experiment(corpus: Path, facts: Sequence[Mapping[str, Any]], arguments: argparse.Namespace, seed: int) -> dict:
    """One split: what ours and its peers find on the test sites."""
    table, out = arguments.work / "labels.parquet", arguments.work / f"model-{seed}"
    pq.write_table(pa.table({name: [row[name] for row in facts] for name in ("id", "label")}), table)
    config = ClassifyConfig.model_validate(
        {"table": table, "positive": "code", "recall": arguments.recall}
        | {"split": {"train": 0.6, "validation": 0.2, "seed": seed}}
    )
    start = time.process_time()
    train_classifier(corpus, out, config)
    used = time.process_time() - start
    about, classifier = describe(out), TextClassifier.load(out)
    sides, texts = split(facts, config), read_texts(corpus)
    read = [[texts[row["id"]][: config.text.characters] for row in side] for side in sides]
    classifier.probabilities(read[2][:8])
    start = time.process_time()
    scores = classifier.probabilities(read[2])[:, classifier.labels.index("code")]
    applied = time.process_time() - start
    sizes = [sum(len(text.encode()) for text in side) for side in read]
    is_code = [np.array([row["label"] == "code" for row in side]) for side in sides]
    found = precision_recall(scores, is_code[2], about["threshold"])
    assert found.as_dict() == {key: about["measured"]["recall"]["test"][key] for key in found.as_dict()}
    result = {
        "seed": seed,
        "pages": [len(side) for side in sides],
        "sites": [len({row["repository"] for row in side}) for side in sides],
        "model_bytes": about["model"]["size_bytes"],
        "speed": {"train": sum(sizes) / 1e6 / used, "apply": sizes[2] / 1e6 / applied},
        "classify": counted(found),
        "linear": judged(linear_scores(sides, read, seed), is_code, arguments.recall),
        "marks": judged([[share(text) for text in side] for side in read], is_code, arguments.recall),
    }
    print(json.dumps(result), flush=True)
    return result


def split(facts: Sequence[Mapping[str, Any]], config: ClassifyConfig) -> list[list[Mapping[str, Any]]]:
    """Train, validation, test as `data classify` splits them, without copies of a text."""
    sides: list[list[Mapping[str, Any]]] = [[], [], []]
    bounds = (config.split.train, config.split.train + config.split.validation)
    for row in facts:
        key = hashlib.sha256(f"{config.split.seed}:{row['repository']}".encode()).hexdigest()
        sides[int(np.searchsorted(bounds, int(key[:13], 16) / 16**13, "right"))].append(row)
    labels: dict[str, set[str]] = {}
    for row in facts:
        labels.setdefault(row["sha256"], set()).add(row["label"])
    seen: set[str] = set()
    for side in sides:
        own = [row for row in side if len(labels[row["sha256"]]) == 1 and row["sha256"] not in seen]
        side[:] = {row["sha256"]: row for row in own}.values()
        seen |= {row["sha256"] for row in side}
    return sides


def read_texts(corpus: Path) -> dict[str, str]:
    tables = [pq.read_table(shard, columns=["id", "text"]) for shard in list_shards(corpus)]
    return {row["id"]: row["text"] for table in tables for row in table.to_pylist()}


def linear_scores(sides: Sequence[Sequence[Mapping[str, Any]]], read: Sequence[Sequence[str]], seed: int) -> list:
    documents = [
        [{"text": text, "language": "HTML", "repository": row["repository"]} for row, text in zip(*pair, strict=True)]
        for pair in zip(sides, read, strict=True)
    ]
    scores = np.array([10.0 * (row["label"] == "code") for row in sides[0]], np.float32)
    scorer, _ = fit(documents[0], scores, LinearSettings(ridge=(1.2,)), seed)
    return [scorer.score(side) for side in documents]


def share(text: str) -> float:
    data = np.frombuffer(text[:10_000].encode(), np.uint8)
    return float(MARKS[data].mean()) if len(data) else 0.0


def judged(scores: Sequence[Any], is_code: Sequence[np.ndarray], recall: float) -> dict[str, int]:
    """Counts on the test sites, with a threshold picked on the validation sites."""
    threshold = threshold_for_recall(scores[1], is_code[1], recall)
    return counted(precision_recall(scores[2], is_code[2], threshold))


def counted(found: PrecisionRecall) -> dict[str, int]:
    return {
        "code": found.positives,
        "found": found.found,
        "other": found.documents - found.positives,
        "kept": found.recalled - found.found,
    }


def added(rows: Sequence[Mapping[str, int]]) -> dict[str, Any]:
    """Of all seeds together: recall, share of other pages kept, and precision over the base rate for some of these."""
    total = {key: sum(row[key] for row in rows) for key in rows[0]}
    recall, kept = total["found"] / total["code"], total["kept"] / total["other"]
    times = {str(rate): recall / (recall * rate + kept * (1 - rate)) for rate in BASE_RATES}
    each = [row["found"] / row["code"] for row in rows]
    return {**total, "recall": recall, "kept_share": kept, "times_base_rate": times, "recall_of_each": each}


if __name__ == "__main__":
    main()
