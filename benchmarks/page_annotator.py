"""What is said of web pages, on texts of this machine: speed, what the example's junk rules take, the natural language.

Pages are HTML files of installed documentation, extracted as `data web` does. Texts of known language are messages of
installed programs' translations (`/usr/share/locale`), several of a program together. Times are CPU times.

    python benchmarks/page_annotator.py --out page_annotator.json
    python benchmarks/page_annotator.py --entries 5000000 --detectors lingua langid pycld2     # those installed

`--detectors` measures others on the same texts: each must be importable.
"""

import argparse
import gettext
import importlib.metadata
import json
import os
import random
import re
import resource
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from data_prep.annotators.base import schema_of
from data_prep.annotators.blocklist import Blocklist
from data_prep.annotators.page import Page
from data_prep.selection.config import load_config
from data_prep.web.html import extract
from data_prep.web.settings import ExtractionSettings

CONFIG = Path(__file__).parents[1] / "examples" / "web_selection.yaml"
SIZES = (60, 150, 300, 600, 1500)
LANGUAGES = (
    "ar be bg bn ca cs da de el en es et eu fa fi fr ga gl he hr hu hy id is it ja ka kk ko lt lv mk nb nl nn pl pt ro "
    "ru sk sl sq sr sv th tr uk vi zh"
)
SAME = {"nb": "no", "nn": "no"}
MARGIN = 20
# Placeholders, options, addresses and paths in messages: no language's.
_NOISE = re.compile(
    r"%[-#0 +*.\dl$]*\(?\w*\)?[a-zA-Z]?|\\[ntr]|\{[^}]*\}|<[^>]+>|--?[\w-]+|https?://\S+|\S+@\S+|/[\w/.-]+"
)
Detector = Callable[[str], tuple[str | None, int | None]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=Path, nargs="*", default=[Path("/usr/share/doc"), Path("/usr/lib/node_modules")])
    parser.add_argument("--pages", type=int, default=800)
    parser.add_argument("--texts", type=int, default=60, help="of each language and size")
    parser.add_argument("--detectors", nargs="*", default=[], choices=sorted(OTHERS))
    parser.add_argument("--entries", type=int, default=5_000_000, help="of a blocklist")
    parser.add_argument("--out", type=Path, default=Path("page_annotator.json"))
    arguments = parser.parse_args()
    pages = list(read_pages(arguments.docs, arguments.pages))
    result: dict[str, Any] = {"load": os.getloadavg(), "pages": measure_pages(pages)}
    texts = list(read_texts(arguments.texts))
    result["language"] = {"page": measure_language(texts, page_language)}
    for name in arguments.detectors:
        result["language"][name] = measure_language(texts, OTHERS[name]())
    result["blocklist"] = measure_blocklist(arguments.entries)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


def read_pages(folders: list[Path], most: int) -> Iterator[str]:
    files = sorted(path for folder in folders for path in folder.rglob("*.html") if path.is_file())
    random.Random(1).shuffle(files)
    for path in files[:most]:
        if text := extract(path.read_text(encoding="utf-8", errors="replace"), ExtractionSettings()).text:
            yield text


def measure_pages(texts: list[str]) -> dict[str, Any]:
    page, columns = Page(), defaultdict(list)
    page.annotate([{"text": texts[0]}])
    began = time.process_time()
    for batch in batches(texts):
        for name, values in page.annotate([{"text": text} for text in batch]).items():
            columns[name] += values
    seconds = time.process_time() - began
    size = sum(len(text.encode()) for text in texts)
    schema = schema_of(page)
    arrays = [pa.array(columns[field.name], field.type) for field in schema]
    table = pa.table({"page": pa.StructArray.from_arrays(arrays, fields=list(schema))})
    database = duckdb.connect()
    database.register("pages", table)
    conditions = {rule.name: rule.drop or "" for rule in load_config(CONFIG).rules}
    rules = {name: drop for name, drop in conditions.items() if re.search(r"\bpage\.", drop)}
    dropped = {
        name: database.execute(f"SELECT count(*) FROM pages WHERE {drop}").fetchone()[0] for name, drop in rules.items()
    }
    return {"pages": len(texts), "size_bytes": size, "mb_per_cpu_s": size / 1e6 / seconds, "dropped": dropped}


def batches(texts: list[str], most: int = 1 << 20) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if sum(map(len, batch)) > most or len(batch) == 256:
            yield batch
            batch = []
    if batch:
        yield batch


def read_texts(most: int) -> Iterator[tuple[str, int, str]]:
    """(language, characters, text), the same for the same machine."""
    messages: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(Path("/usr/share/locale").glob("*/LC_MESSAGES/*.mo")):
        language = re.split(r"[_@.]", path.parts[-3])[0]
        try:
            with open(path, "rb") as stream:
                catalogue = gettext.GNUTranslations(stream)._catalog
        except (UnicodeDecodeError, IndexError):
            continue  # a catalogue that Python cannot read: a wrong encoding, plurals without a rule
        for key, value in catalogue.items():
            source = key[0] if isinstance(key, tuple) else key
            if language in LANGUAGES.split() and "latin" not in path.parts[-3] and is_told(source, value):
                messages[language][path.stem].append(plain(value))
            if language == "de" and is_prose(plain(source)):
                messages["en"][path.stem].append(plain(source))
    draw = random.Random(1)
    for language, programs in sorted(messages.items()):
        for size in SIZES:
            found = [piece for texts in programs.values() for piece in pieces(draw.sample(texts, len(texts)), size)]
            yield from ((language, size, text) for text in draw.sample(found, min(most, len(found))))


def plain(message: str) -> str:
    return " ".join(_NOISE.sub(" ", message).split())


def is_prose(text: str) -> bool:
    return len(text) >= 30 and sum(map(str.isalpha, text)) > 0.7 * len(text.replace(" ", ""))


def is_told(source: str, value: str) -> bool:
    """A translation that is prose and shares few words with what it translates."""
    english, words = set(plain(source).lower().split()), plain(value).lower().split()
    return bool(source) and is_prose(plain(value)) and sum(word in english for word in words) <= 0.3 * len(words)


def pieces(texts: list[str], size: int) -> Iterator[str]:
    together = ""
    for text in texts:
        together = f"{together}\n{text}".strip()
        if len(together) >= size:
            yield together[: size * 3 // 2]
            together = ""


def page_language(text: str) -> tuple[str | None, int | None]:
    found = Page(language_bytes=1, most_rank=1 << 20).annotate([{"text": text}])
    return found["natural_language"][0], found["language_margin"][0]


def measure_language(texts: list[tuple[str, int, str]], detect: Detector) -> dict[str, Any]:
    detect(texts[0][2])
    right, sure, sure_right, total = Counter(), Counter(), Counter(), Counter()
    began = time.process_time()
    for language, size, text in texts:
        found, margin = detect(text)
        is_right = SAME.get(found, found) == SAME.get(language, language)
        total[size] += 1
        right[size] += is_right
        sure[size] += margin is not None and margin >= MARGIN
        sure_right[size] += is_right and margin is not None and margin >= MARGIN
    seconds = time.process_time() - began
    size_bytes = sum(len(text.encode()) for _, _, text in texts)
    return {
        "texts": len(texts),
        "languages": len({language for language, _, _ in texts}),
        "accuracy": {size: right[size] / total[size] for size in SIZES},
        "sure": {size: sure[size] / total[size] for size in SIZES},
        "accuracy_where_sure": {size: sure_right[size] / max(1, sure[size]) for size in SIZES},
        "mb_per_cpu_s": size_bytes / 1e6 / seconds,
    }


def lingua() -> Detector:
    from lingua import LanguageDetectorBuilder

    detector = LanguageDetectorBuilder.from_all_languages().with_preloaded_language_models().build()

    def detect(text: str) -> tuple[str | None, None]:
        found = detector.detect_language_of(text)
        return found and found.iso_code_639_1.name.lower(), None

    return detect


def langid() -> Detector:
    import langid

    return lambda text: (langid.classify(text)[0], None)


def pycld2() -> Detector:
    import pycld2

    def detect(text: str) -> tuple[str, None]:
        printable = "".join(character for character in text if character.isprintable() or character == "\n")
        return pycld2.detect(printable, bestEffort=True)[2][0][1].split("-")[0].replace("iw", "he"), None

    return detect


OTHERS = {"lingua": lingua, "langid": langid, "pycld2": pycld2}


def measure_blocklist(entries: int) -> dict[str, Any]:
    draw = random.Random(1)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as stream:
        for number in range(entries):
            ending = draw.choice(["com", "org", "net", "ru", "co.uk", "info"])
            stream.write(f"{draw.getrandbits(48):x}-site{number % 977}.{ending}\n")
        stream.flush()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        blocklist = Blocklist(lists=(stream.name,))
        began = time.process_time()
        blocklist.prepare()
        loaded = time.process_time() - began
        size = os.path.getsize(stream.name)
    pages = [{"path": f"https://www.host{i % 5000}.example{i % 77}.org/docs/a{i}/x.html?y={i}"} for i in range(20_000)]
    began = time.process_time()
    blocklist.annotate(pages)
    return {
        "entries": entries,
        "size_bytes": size,
        "load_cpu_s": loaded,
        "most_memory_mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
        "kept_mb": blocklist.entries.hashes.nbytes / 1e6,
        "pages_per_cpu_s": len(pages) / (time.process_time() - began),
        "tldextract": importlib.metadata.version("tldextract"),
    }


if __name__ == "__main__":
    main()
