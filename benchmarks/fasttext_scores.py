"""fastText as a scorer: a class for each rounded score; what it says is the mean of the classes by their probabilities.

Run by `scorer.py --fasttext PYTHON` with the Python of an environment of its own that has fastText and numpy. Reads
lines of JSON (text, and score where it is known) to train on and to score; prints JSON: scores, CPU-seconds.
"""

import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator

import fasttext
import numpy as np

_READ = 1 << 16  # characters of a file, as the linear scorer reads bytes
_TOKEN = re.compile(r"\w+|[^\w\s]|\n")
SETTINGS = {"lr": 0.5, "epoch": 15, "wordNgrams": 2, "dim": 64, "bucket": 1 << 18, "minCount": 2, "thread": 1}


def main(train: str, held_out: str) -> None:
    began = time.process_time()
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as lines:
        for row in rows(train):
            lines.write(f"__label__{int(row['score'] + 0.5)} {tokens(row['text'])}\n")
        lines.flush()
        model = fasttext.train_supervised(lines.name, verbose=0, **SETTINGS)
    trained = time.process_time()
    texts = [row["text"] for row in rows(held_out)]
    begin_scoring = time.process_time()
    scores = [expected(*model.predict(tokens(text), k=-1)) for text in texts]
    took = time.process_time() - begin_scoring
    size = sum(len(text.encode()) for text in texts) / 1e6
    print(json.dumps({"scores": scores, "training_cpu_s": trained - began, "mb_per_cpu_s": size / took}))


def rows(path: str) -> Iterator[dict]:
    with open(path, encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def tokens(text: str) -> str:
    return " ".join("<line>" if token == "\n" else token for token in _TOKEN.findall(text[:_READ]))


def expected(labels: tuple[str, ...], shares: np.ndarray) -> float:
    classes = np.array([float(label.removeprefix("__label__")) for label in labels])
    return float((classes * shares).sum() / shares.sum())


if __name__ == "__main__":
    main(*sys.argv[1:])
