"""The syntax check on real files: calibrating its table, and what it does with good files, cut-off files and time.

    python benchmarks/real_code.py fetch --into ARCHIVES
    python benchmarks/real_code.py sample --archives ARCHIVES --out files.jsonl
    python benchmarks/syntax.py measure files.jsonl --out measured.jsonl
    python benchmarks/syntax.py calibrate measured.jsonl       writes data_prep/annotators/syntax_table.json
    python benchmarks/syntax.py check --out syntax.json        standard library and Debian headers, cut files, speed

Calibration. A file is broken when its share of errors is over the language's threshold or, where that tells cut files
from good ones, when it ends in an error. The threshold is the lowest that drops at most `--drop` of one half of the
files; what the other half then loses is kept beside it. A language with
fewer than `--least` files, whose check finds fewer than `--power` of the cut files, or drops more than `--most` of
both halves, is not checked.

Cut files are good files cut at a random byte between a tenth and nine tenths. What is left is often a good file again
(Python above all), so an independent judge says which cuts are broken: CPython's parser for Python, else the brackets
that Pygments' lexer counts: as many open as closed in the whole file, more open than closed in the cut one.
"""

import argparse
import ast
import hashlib
import json
import math
import multiprocessing
import os
import random
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from pygments.lexers import find_lexer_class_by_name
from pygments.token import Operator, Punctuation
from pygments.util import ClassNotFound
from real_code import ROOTS, files

from data_prep.annotators.syntax import TABLE, Errors, LanguageRow, Syntax, errors, grammar_of, parser, table
from data_prep.languages import LANGUAGES, UNKNOWN, detect

# fmt: off
GRAMMARS = {
    "ANTLR": None, "Alloy": None, "AppleScript": None, "Assembly": "asm", "Augeas": None, "AWK": None,
    "Batchfile": None, "Bluespec": None, "C#": "csharp", "C++": "cpp", "CUDA": "cuda", "CoffeeScript": None,
    "Common Lisp": "commonlisp", "Emacs Lisp": "elisp", "F#": "fsharp", "Idris": None, "Isabelle": None,
    "Java Server Pages": None, "Lean": None, "Literate Agda": None, "Literate CoffeeScript": None,
    "Literate Haskell": None, "Makefile": "make", "Maple": None, "Mathematica": None, "Prolog": None,
    "Protocol Buffer": "proto", "SAS": None, "Shell": "bash", "Smalltalk": None, "Stan": None, "Standard ML": None,
    "Stata": None, "SystemVerilog": "verilog", "Tcsh": None, "TeX": "latex", "Visual Basic": None, "XSLT": "xml",
    "Yacc": None,
}
PROSE = ("Markdown", "RMarkdown", "reStructuredText")  # any text is valid
LEXERS = {"MATLAB": "octave", "Emacs Lisp": "emacs-lisp", "Visual Basic": "vb.net", "TeX": "latex", "XSLT": "xml"}
# fmt: on
TIMEOUT_S = 20.0
MOST_THRESHOLD = 0.5  # a larger share than half says that the parser lost its way, in good files as in broken ones
GOOD_ROOTS = (ROOTS[0], "/usr/include")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("measure")
    command.add_argument("files", type=Path, help="files.jsonl of real_code.py")
    command.add_argument("--languages", nargs="*", default=LANGUAGES)
    command.add_argument("--out", type=Path, required=True)
    command = commands.add_parser("calibrate")
    command.add_argument("measured", type=Path, help="what measure wrote")
    command.add_argument("--least", type=int, default=200, help="files to calibrate a language on")
    command.add_argument("--drop", type=float, default=0.005, help="share of good files that may be dropped")
    command.add_argument("--power", type=float, default=0.2, help="share of cut files that must be found")
    command.add_argument("--most", type=float, default=0.01, help="of both halves that may be dropped")
    command.add_argument("--out", type=Path, default=TABLE)
    command = commands.add_parser("check")
    command.add_argument("--good-roots", nargs="+", default=GOOD_ROOTS)
    command.add_argument("--files", type=Path, help="cut and timed: files.jsonl; default: those of the roots")
    command.add_argument("--per-language", type=int, default=400, help="files that are cut and timed")
    command.add_argument("--out", type=Path, default=Path("syntax.json"))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    {"measure": measure, "calibrate": calibrate, "check": check}[arguments.command](arguments)


# --- calibration


def measure(arguments: argparse.Namespace) -> None:
    """What the trees of whole and of cut files say, a line for each file; crashes and time-outs are lines too."""
    samples: dict[str, list[dict]] = {language: [] for language in LANGUAGES}
    with open(arguments.files, encoding="utf-8") as stream:
        for row in map(json.loads, stream):
            samples[row["language"]].append(row)
    with open(arguments.out, "w", encoding="utf-8") as out:
        for language in arguments.languages:
            grammar = GRAMMARS.get(language, language.lower())
            if language in PROSE or grammar is None:
                continue
            row = LanguageRow(language, grammar)
            files = [file for file in samples[language] if _is_clear(file["path"]) and grammar_of(row, file["path"])]
            for file, found in _isolated(row, files):
                line = {"language": language, "source": file["source"], "path": file["path"], **found}
                out.write(json.dumps(line) + "\n")
            print(language, len(files), flush=True)


def _is_clear(path: str) -> bool:
    """Five languages share `.inc`, and half of the files called C are Pascal's lists."""
    return not path.endswith(".inc")


def _isolated(row: LanguageRow, files: list[dict]) -> Iterator[tuple[dict, dict]]:
    """Parses in a process that may die or hang; the file that it was at is then left out, with a note."""
    context, at = multiprocessing.get_context("fork"), 0
    while at < len(files):
        ours, theirs = context.Pipe()
        process = context.Process(target=_parse_files, args=(theirs, row, files[at:]), daemon=True)
        process.start()
        theirs.close()
        try:
            while at < len(files):
                if not ours.poll(2 * TIMEOUT_S):
                    raise EOFError
                yield files[at], ours.recv()
                at += 1
        except EOFError:
            yield files[at], {"lost": "timed out" if process.is_alive() else f"exit code {process.exitcode}"}
            at += 1
        process.kill()
        process.join()


def _parse_files(connection: Connection, row: LanguageRow, files: list[dict]) -> None:
    for file in files:
        data = file["text"].encode()
        found = {"bytes": len(data), "good": _parsed(row, file["path"], data)}
        if len(data) > 100:
            draw = random.Random(file["path"])
            found["cut"] = _parsed(row, file["path"], data[: draw.randrange(len(data) // 10, len(data) * 9 // 10)])
        connection.send(found)


def _parsed(row: LanguageRow, path: str, data: bytes) -> Errors:
    grammar = grammar_of(row, path)
    return errors(parser(grammar).parse(data), data, grammar)


def calibrate(arguments: argparse.Namespace) -> None:
    found: dict[str, list[dict]] = {language: [] for language in LANGUAGES}
    with open(arguments.measured, encoding="utf-8") as stream:
        for row in map(json.loads, stream):
            found[row["language"]].append(row)
    rows = [_row(language, found[language], arguments) for language in LANGUAGES]
    how = {key: getattr(arguments, key) for key in ("least", "drop", "power")}
    lines = ",\n".join(" " + json.dumps(row, ensure_ascii=False) for row in rows)
    text = f'{{"written_by": "benchmarks/syntax.py", "how": {json.dumps(how)}, "languages": [\n{lines}\n]}}\n'
    arguments.out.write_text(text, encoding="utf-8")
    for row in rows:
        facts = row.get("calibration", {})
        print(f"{row['language']:>18} {row.get('threshold', row.get('unchecked'))!s:>40} {json.dumps(facts)[:150]}")


def _row(language: str, files: list[dict], arguments: argparse.Namespace) -> dict:
    if language in PROSE:
        return {"language": language, "unchecked": "any text is valid"}
    grammar = GRAMMARS.get(language, language.lower())
    if grammar is None:
        return {"language": language, "unchecked": "no grammar"}
    good = [(_half(file["path"]), Errors(*file["good"])) for file in files if "good" in file]
    cut = [Errors(*file["cut"]) for file in files if "cut" in file]
    sources = {str(source): count for source, count in Counter(_name(file["source"]) for file in files).most_common(8)}
    facts = {"files": len(good), "lost": len(files) - len(good), "sources": sources}
    row = {"language": language, "grammar": grammar}
    if len(good) < arguments.least:
        return {**row, "unchecked": f"fewer than {arguments.least} real files to calibrate on", "calibration": facts}
    ours, others = ([found for half, found in good if half == side] for side in (0, 1))
    endings, threshold = _rule(ours, cut, arguments.drop)
    shares = sorted(found.share for _, found in good)
    facts |= {f"share_p{p}": round(shares[min(len(shares) - 1, len(shares) * p // 100)], 5) for p in (50, 90, 95, 99)}
    facts |= {"any_error": round(sum(share > 0 for share in shares) / len(shares), 4)}
    dropped = {"dropped": ours, "dropped_of_other_half": others, "cut_files_found": cut}
    facts |= {key: round(_dropped_share(found, endings, threshold), 4) for key, found in dropped.items()}
    facts |= {"percentile": round(100 * (1 - facts["dropped"]), 2)}
    of_all = _dropped_share([found for _, found in good], endings, threshold)
    if facts["cut_files_found"] < arguments.power or of_all > arguments.most:
        return {**row, "unchecked": "the grammar is not reliable on real files", "calibration": facts}
    return {**row, "threshold": threshold, "endings": endings, "calibration": facts}


def _rule(good: list[Errors], cut: list[Errors], drop: float) -> tuple[tuple[str, ...], float]:
    """Endings and threshold that drop at most `drop` of the good files; of those the one that finds most cut files."""
    rules = []
    for endings in ((), ("open",), ("open", "error")):
        shares = sorted((found.share for found in good if found.ending not in endings), reverse=True)
        allowed = int(drop * len(good)) - (len(good) - len(shares))
        if allowed >= 0:
            threshold = math.ceil(1e6 * shares[min(allowed, len(shares) - 1)]) / 1e6
            threshold = threshold if threshold <= MOST_THRESHOLD else 1.0
            rules.append((_dropped_share(cut, endings, threshold), endings, threshold))
    return max(rules)[1:]


def _dropped_share(found: list[Errors], endings: tuple[str, ...], threshold: float) -> float:
    return sum(e.share > threshold or e.ending in endings for e in found) / max(1, len(found))


def _name(source: str) -> str:
    """A source as another machine would know it."""
    return {ROOTS[0]: "standard library", ROOTS[1]: "installed packages"}.get(source, source)


def _half(path: str) -> int:
    return hashlib.sha256(path.encode()).digest()[0] % 2


# --- figures


def check(arguments: argparse.Namespace) -> None:
    good = _good_files(arguments.good_roots)
    sample = _sample(arguments, good)
    rows = []
    print(
        f"{'language':>18} {'files':>6} {'dropped':>8} {'cut':>6} {'found':>6} {'surely':>7} {'found':>6} "
        f"{'MB':>6} {'parse MB/s':>10} {'of bare':>8}"
    )
    for language in sorted(set(good) | set(sample)):
        if not table()[language].grammar:
            continue
        row = {"language": language, "checked": table()[language].threshold is not None}
        row |= _dropped(language, good.get(language, []))
        row |= _cut(language, sample.get(language, [])) if row["checked"] else {}
        row |= _speed(language, sample.get(language, []))
        rows.append(row)
        print(
            f"{language:>18} {row['files']:>6} {row['dropped_share']:>8.2%} {row.get('cut', 0):>6} "
            f"{row.get('found_share', float('nan')):>6.1%} {row.get('surely_broken', 0):>7} "
            f"{row.get('surely_found_share', float('nan')):>6.1%} {row['megabytes']:>6.1f} {row['mb_per_s']:>10.1f} "
            f"{row['of_bare']:>8.2f}",
            flush=True,
        )
    total = {key: sum(row.get(key, 0) for row in rows) for key in ("cut", "found", "surely_broken", "surely_found")}
    total["found_share"] = total["found"] / max(1, total["cut"])
    total["surely_found_share"] = total["surely_found"] / max(1, total["surely_broken"])
    seconds = {key: sum(row[key] for row in rows) for key in ("bare_s", "ours_s", "megabytes")}
    total |= {**seconds, "of_bare": seconds["bare_s"] / seconds["ours_s"], "load": os.getloadavg()}
    print(json.dumps(total))
    arguments.out.write_text(json.dumps({"total": total, "rows": rows}, indent=1) + "\n")


def _good_files(roots: list[str]) -> dict[str, list[dict]]:
    good: dict[str, list[dict]] = {}
    seen = set()
    for _, path, data in files(roots, None, 1 << 20):
        try:
            text = data.decode()
        except UnicodeDecodeError:
            continue
        language = detect(path, text)
        if language != UNKNOWN and text.strip() and data not in seen:
            seen.add(data)
            good.setdefault(language, []).append({"language": language, "path": path, "text": text})
    return good


def _sample(arguments: argparse.Namespace, good: dict[str, list[dict]]) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    if arguments.files:
        with open(arguments.files, encoding="utf-8") as stream:
            for row in map(json.loads, stream):
                found.setdefault(row["language"], []).append(row)
    else:
        found = {language: list(rows) for language, rows in good.items()}
    for rows in found.values():
        random.Random(0).shuffle(rows)
        del rows[arguments.per_language :]
    return found


def _dropped(language: str, rows: list[dict]) -> dict:
    broken = Syntax().annotate(rows)["broken"] if rows else []
    names = [row["path"] for row, verdict in zip(rows, broken, strict=True) if verdict]
    return {"files": len(rows), "dropped": names, "dropped_share": len(names) / max(1, len(rows))}


def _cut(language: str, rows: list[dict]) -> dict:
    judge = _judge(language)
    counts: Counter[str] = Counter()
    missed = []
    for row in rows:
        draw = random.Random(row["path"])
        if len(row["text"]) < 100 or Syntax().annotate([row])["broken"][0] is not False:
            continue
        text = row["text"][: draw.randrange(len(row["text"]) // 10, len(row["text"]) * 9 // 10)]
        found = bool(Syntax().annotate([{**row, "text": text}])["broken"][0])
        surely = judge(row["text"], text)
        counts.update(cut=1, found=found, surely_broken=surely, surely_found=surely and found)
        if surely and not found and len(missed) < 5:
            missed.append([row["path"], len(text), text[-60:]])
    shares = {
        "found_share": counts["found"] / max(1, counts["cut"]),
        "surely_found_share": counts["surely_found"] / max(1, counts["surely_broken"]),
    }
    return {**counts, **shares, "missed": missed}


def _judge(language: str):
    """judge(whole, cut) -> whether the cut file is surely broken."""
    if language == "Python":
        return lambda whole, cut: _parses(whole) and not _parses(cut)
    try:
        lexer = find_lexer_class_by_name(LEXERS.get(language, language.lower()))()
    except ClassNotFound:
        return lambda whole, cut: False
    return lambda whole, cut: _open_brackets(lexer, whole) == 0 < _open_brackets(lexer, cut)


def _parses(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError):
        return False
    return True


def _open_brackets(lexer, text: str) -> int:
    count = 0
    for kind, value in lexer.get_tokens(text):
        if kind in Punctuation or kind in Operator:
            count += sum(value.count(c) for c in "([{") - sum(value.count(c) for c in ")]}")
    return count


def _speed(language: str, rows: list[dict]) -> dict:
    """CPU seconds of the annotator, and of tree-sitter parsing alone, taking turns."""
    row = table()[language]
    rows = [file for file in rows if grammar_of(row, file["path"])]
    inputs = [(grammar_of(row, file["path"]), file["text"].encode()) for file in rows]
    bare, ours = [], []
    for _ in range(3):
        start = time.process_time()
        for grammar, data in inputs:
            parser(grammar).parse(data)
        middle = time.process_time()
        for first in range(0, len(rows), 256):
            Syntax().annotate(rows[first : first + 256])
        bare.append(middle - start)
        ours.append(time.process_time() - middle)
    megabytes = sum(len(data) for _, data in inputs) / 1e6
    best = {"bare_s": min(bare), "ours_s": min(ours)}
    return {"megabytes": megabytes, **best, "mb_per_s": megabytes / max(1e-9, best["ours_s"]),
            "of_bare": best["bare_s"] / max(1e-9, best["ours_s"])}  # fmt: skip


if __name__ == "__main__":
    main()
