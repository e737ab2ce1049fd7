"""Recall of pages about code: precision at 99 % recall on sites that neither training nor the threshold has seen.

    python benchmarks/recall.py --fetch --pages FOLDER          # Debian packages of documentation
    python benchmarks/recall.py --pages FOLDER --work FOLDER --out recall.json

Every folder in `--pages` is a site: an unpacked package with HTML files. Text is taken out of all pages alike
(`data_prep.web`), and nothing of the markup is left in it. To be found ("code") are pages of which a tenth is blocks of
code, by their tags, in documentation for programmers and administrators. To be left ("other") are pages without any
code element in manuals for the users of a program (`USERS`), and prose. Pages in between (documentation for programmers
without code elements, manuals with some) have no label: tags do not tell what they are about. A crawl holds far less
code than this; of the pages to validate and to test on, `--base-rate` are code, drawn by a hash of their text.

Shares and thresholds are those of `data classify`. Beside it, with the same split and way to pick a threshold: the
scorer's linear model of hashed n-grams, and the share of characters such as {}();=<> in a text. Each split seed is a
whole experiment.
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
from data_prep.classify.thresholds import precision_recall, threshold_for_recall
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
    parser.add_argument("--base-rate", type=float, default=0.2)
    parser.add_argument("--recall", type=float, default=0.99)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13, 14, 15])
    arguments = parser.parse_args()
    if arguments.fetch:
        fetch(arguments.pages)
        return
    corpus, facts = prepare(arguments.pages, arguments.work, arguments.per_site)
    results = [experiment(corpus, facts, arguments, seed) for seed in arguments.seeds]
    means = {name: mean([result[name] for result in results]) for name in ("classify", "linear", "marks")}
    speed = {name: float(np.mean([result["speed"][name] for result in results])) for name in results[0]["speed"]}
    found = {"facts": {"pages": len(facts)}, "mean": means, "speed": speed, "seeds": results}
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1))
    for name, row in means.items():
        print(
            f"{name}: recall {row['recall']:.2%}, precision {row['precision']:.1%}, base rate {row['base_rate']:.1%}: "
            f"{row['times']:.2f} times (worst recall {row['worst_recall']:.2%}, worst {row['worst_times']:.2f} times)"
        )
    print(f"training {speed['train']:.1f}, use {speed['apply']:.1f} MB of text per CPU-second")


def fetch(pages: Path) -> None:
    """Downloads the packages that there are and unpacks each into a folder of its name."""
    pages.mkdir(parents=True, exist_ok=True)
    for package in (*USERS, *PROGRAMMERS):
        if (pages / package).is_dir():
            continue
        if subprocess.run(["apt-get", "download", "-q", package], cwd=pages).returncode == 0:
            (archive,) = pages.glob(f"{package}_*.deb")
            subprocess.run(["dpkg-deb", "-x", str(archive), str(pages / package)], check=True)
            archive.unlink()


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
    if site.name not in USERS and site.name not in PROGRAMMERS:
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
        if len(found.text.split()) >= LEAST_WORDS and (is_code or (not found.has_code and site.name in USERS)):
            label, name = "code" if is_code else "other", str(path.relative_to(site))
            yield {"content": found.text, "repository": site.name, "path": name, "language": "HTML", "label": label}


def experiment(corpus: Path, facts: Sequence[Mapping[str, Any]], arguments: argparse.Namespace, seed: int) -> dict:
    """One split: what ours and its peers find on the test sites."""
    config = ClassifyConfig.model_validate(
        {"table": arguments.work / f"labels-{seed}.parquet", "positive": "code", "recall": arguments.recall}
        | {"split": {"seed": seed}}
    )
    sides = split(facts, config, arguments.base_rate)
    labelled = [row for side in sides for row in side]
    pq.write_table(pa.table({name: [row[name] for row in labelled] for name in ("id", "label")}), config.table)
    out = arguments.work / f"model-{seed}"
    start = time.process_time()
    train_classifier(corpus, out, config)
    used = time.process_time() - start
    about = describe(out)
    texts = read_texts(corpus)
    read = [texts[row["id"]][: config.text.characters] for row in sides[2]]
    classifier = TextClassifier.load(out)
    classifier.probabilities(read[:8])
    start = time.process_time()
    classifier.probabilities(read)
    applied = time.process_time() - start
    size = sum(len(texts[row["id"]][: config.text.characters].encode()) for row in labelled)
    speed = {"train": size / 1e6 / used, "apply": sum(len(text.encode()) for text in read) / 1e6 / applied}
    test = about["measured"]["recall"]["test"]
    ours = {key: test[key] for key in ("recall", "precision", "base_rate", "documents", "sites", "intervals")}
    evaluated = [[{**row, "text": texts[row["id"]], "language": "HTML"} for row in side] for side in sides]
    result = {"seed": seed, "classify": ours, "model_bytes": about["model"]["size_bytes"], "speed": speed}
    result["linear"] = judged(evaluated, linear_scores(evaluated, seed), arguments.recall)
    result["marks"] = judged(evaluated, [[share(row["text"]) for row in side] for side in evaluated], arguments.recall)
    print(json.dumps(result), flush=True)
    return result


def split(
    facts: Sequence[Mapping[str, Any]], config: ClassifyConfig, base_rate: float
) -> list[list[Mapping[str, Any]]]:
    """Train, validation, test as `data classify` splits them; of the last two's code pages as many as make the rate."""
    sides: list[list[Mapping[str, Any]]] = [[], [], []]
    bounds = (config.split.train, config.split.train + config.split.validation)
    for row in sorted(facts, key=lambda row: row["sha256"]):
        key = hashlib.sha256(f"{config.split.seed}:{row['repository']}".encode()).hexdigest()
        sides[int(np.searchsorted(bounds, int(key[:13], 16) / 16**13, "right"))].append(row)
    for place in (1, 2):
        other = [row for row in sides[place] if row["label"] == "other"]
        code = [row for row in sides[place] if row["label"] == "code"]
        sides[place] = other + code[: round(len(other) * base_rate / (1 - base_rate))]
    return sides


def read_texts(corpus: Path) -> dict[str, str]:
    tables = [pq.read_table(shard, columns=["id", "text"]) for shard in list_shards(corpus)]
    return {row["id"]: row["text"] for table in tables for row in table.to_pylist()}


def linear_scores(sides: Sequence[Sequence[Mapping[str, Any]]], seed: int) -> list[np.ndarray]:
    scores = np.array([10.0 * (row["label"] == "code") for row in sides[0]], np.float32)
    scorer, _ = fit(sides[0], scores, LinearSettings(), seed)
    return [scorer.score(side) for side in sides]


def share(text: str) -> float:
    data = np.frombuffer(text[:10_000].encode(), np.uint8)
    return float(MARKS[data].mean()) if len(data) else 0.0


def judged(sides: Sequence[Sequence[Mapping[str, Any]]], scores: Sequence[Any], recall: float) -> dict[str, float]:
    """Precision and recall on the test sites with a threshold picked on the validation sites."""
    code = [[row["label"] == "code" for row in side] for side in sides]
    found = precision_recall(scores[2], code[2], threshold_for_recall(scores[1], code[1], recall)).as_dict()
    return {key: found[key] for key in ("recall", "precision", "base_rate")}


def mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    times = [row["precision"] / row["base_rate"] for row in rows]
    means = {key: float(np.mean([row[key] for row in rows])) for key in ("recall", "precision", "base_rate")}
    worst = {"worst_recall": min(row["recall"] for row in rows), "worst_times": min(times)}
    return {**means, "times": float(np.mean(times)), **worst}


if __name__ == "__main__":
    main()
