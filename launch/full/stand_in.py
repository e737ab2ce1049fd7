"""A stand-in for the oracle: an OpenAI-compatible endpoint that rates by rules, where no large model is at hand.

It is no language model, and the report of a run says so. What it says depends on what a text holds, and nothing tells a
scorer or classifier how, so that everything around it works as with a real one. Python is judged by its syntax tree
(docstrings, length and branches of functions, short names), other languages by comments, length of blocks and depth;
both by repeated lines, literals and notes of unfinished work; generated files and those of literals get 0. Pages are
judged by sentences, code or formulas, short and repeated lines, and phrases of licences and menus. A noise that follows
from the model's name and the text, with a standard deviation of 0.7, stands for what a model says once so and once
otherwise.
"""

import ast
import hashlib
import json
import re
import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODEL = "stand-in"
NOISE = 0.7
_MARK = re.compile(r"=====\[[0-9a-f]{16}\]=====")
_FILE = re.compile(r"You will be shown one (.+?) file\.")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_BRANCHES = (ast.If, ast.For, ast.While, ast.Try)
_LEGAL = re.compile(
    r"without warranty|all rights reserved|redistribut|hereby granted|liab(?:le|ility)|copyright|trademark", re.I
)
_CODE = re.compile(
    r"\w+\(|\w\.\w+\b(?=[(.\[])|::|->|[{};]\s*$|^\s*(?:>>> |\$ )|\b(?:def|class|fn|struct|impl|import|return|param"
    r"|module|function|method|compiler?|API|XML|HTML|JSON|stdin|argv|async|const|void|int|str|bool)\b",
    re.M,
)
_MATHEMATICS = re.compile(
    r"\\[A-Za-z]+|\^|\b(?:theorem|lemma|proof|equations?|integrals?|matri(?:x|ces)|polynomials?|derivatives?"
    r"|coefficients?|probability|eigenvalues?)\b",
    re.I,
)
_MENU = re.compile(r"\b(?:next|previous|home|index|search|up|contents|login|sign in|cookies?)\b", re.I)


@contextmanager
def serve() -> Iterator[str]:
    """The endpoint, for as long as the context lasts; gives its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        try:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            content, model = body["messages"][-1]["content"], body["model"]
            answer = _answer(content, model)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            return self._send(400, {"error": {"message": f"no request for a rating: {error!r}"}})
        usage = {"prompt_tokens": len(content) // 4, "completion_tokens": len(answer) // 4}
        message = {"role": "assistant", "content": answer}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return self._send(200, {"model": model, "choices": [choice], "usage": usage})

    def _send(self, status: int, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def _answer(content: str, model: str) -> str:
    """To the shipped prompts: quality of files and of pages, whether a page is about code or mathematics, what its site
    is."""
    mark = _MARK.search(content)
    _, text, _ = content.split(f"\n{mark[0]}\n")
    question = content[: content.index(mark[0])]
    if found := _FILE.search(question):
        return f"Judged as {found[1]} by what is in it.\n\nRating: [[{rate(found[1], text, model)}]]"
    if "have to do with code?" in question:
        return f"Judged by its words.\n\nLabel: [[{'code' if is_about_code(text) else 'other'}]]"
    if "have to do with mathematics?" in question:
        return f"Judged by its words.\n\nLabel: [[{'math' if is_about_mathematics(text) else 'other'}]]"
    if "kind of site" in question:
        return f"Judged by its words.\n\nLabel: [[{site_category(text)}]]"
    mathematics = "reasons in mathematics" in question
    return f"Judged as a page by what is in it.\n\nRating: [[{rate_page(text, model, mathematics)}]]"


def rate(language: str, text: str, draw: str) -> int:
    """A file's, from 0 to 10; `draw` names the draw of the noise."""
    dense = max(1, len(re.sub(r"\s", "", text)))
    literals = sum(map(len, re.findall(r'"[^"\n]*"|\'[^\'\n]*\'|\b\d[\d.xa-fA-F]*\b', text))) / dense
    head = text[:3000].lower()
    if "do not edit" in head or "generated by" in head or literals > 0.6:
        return 0
    score = _python(text) if language == "Python" else None
    score = _blocks(text) if score is None else score
    lines = [line.strip() for line in text.split("\n") if len(line.strip()) > 8]
    repeated = 1 - len(set(lines)) / max(1, len(lines))
    score -= 5 * max(0.0, repeated - 0.08) + 4 * max(0.0, literals - 0.2)
    score -= 0.3 * len(re.findall(r"\b(?:TODO|FIXME|XXX|HACK)\b", text)) + (2 if len(lines) < 8 else 0)
    return _rating(score, draw, text)


def rate_page(text: str, draw: str, mathematics: bool = False) -> int:
    """A page's, from 0 to 10; of one about mathematics its formulas count, of others their code."""
    words = re.findall(r"[A-Za-z]{2,}", text)
    if len(words) < 20:
        return 0
    lines = [line for line in text.split("\n") if line.strip()]
    sentences = len(re.findall(r"[a-z)\]`'\"][.!?:](?:\s|$)", text))
    code = sum(bool(re.match(r"\s{2,}\S|\s*(?:>>> |\$ |import |def |fn |#include)", line)) for line in lines)
    carried = len(_MATHEMATICS.findall(text)) / len(words) if mathematics else code / len(lines)
    short = sum(len(line.split()) < 4 for line in lines) / len(lines)
    repeated = 1 - len(set(lines)) / len(lines)
    score = 3 + 2.5 * min(1.0, 25 * sentences / len(words)) + 3 * min(1.0, 4 * carried)
    score += min(1.5, len(words) / 800) - 3 * max(0.0, short - 0.3) - 4 * max(0.0, repeated - 0.1)
    score -= min(4.0, 150 * len(_LEGAL.findall(text)) / len(words))
    score -= min(2.0, 20 * len(_MENU.findall(text)) / len(words))
    return _rating(score, draw, text)


def is_about_code(text: str) -> bool:
    """Whether signs of code are more frequent than words of licences and of mathematics."""
    words = max(1, len(re.findall(r"\w+", text)))
    others = max(2 * len(_LEGAL.findall(text)), len(_MATHEMATICS.findall(text)))
    return len(_CODE.findall(text)) / words > max(0.02, others / words)


def is_about_mathematics(text: str) -> bool:
    """Whether formulas and words of mathematics are frequent."""
    return len(_MATHEMATICS.findall(text)) / max(1, len(re.findall(r"\w+", text))) > 0.03


def site_category(text: str) -> str:
    """One of the categories of the shipped prompt `site_category` that what is installed on a machine can be of."""
    lines = [line for line in text.split("\n") if line.strip()] or [""]
    words = max(1, len(re.findall(r"\w+", text)))
    if len(_LEGAL.findall(text)) / words > 0.01:
        return "other"
    if sum(len(line.split()) < 4 for line in lines) / len(lines) > 0.75 and words < 1500:
        return "listing"
    if re.search(r"\b(?:pip|npm|cargo|apt) install\b|\bbadges?\b|\bpull requests?\b", text, re.I):
        return "repository"
    if len(_CODE.findall(text)) / words > 0.08:
        return "reference"
    return "tutorial" if re.search(r"\bstep \d|\bfirst,|\blet us\b|\blet's\b", text, re.I) else "documentation"


def _rating(score: float, draw: str, text: str) -> int:
    return int(min(10, max(1, round(score + NOISE * _noise(draw, text)))))


def _python(text: str) -> float | None:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return None
    functions = [node for node in ast.walk(tree) if isinstance(node, _FUNCTIONS)]
    named = functions + [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    if not functions:
        return 4.0
    documented = sum(ast.get_docstring(node) is not None for node in named) / len(named)
    length = statistics.mean(node.end_lineno - node.lineno + 1 for node in functions)
    branches = statistics.mean(sum(isinstance(n, _BRANCHES) for n in ast.walk(f)) for f in functions)
    names = [node.name for node in named] + [argument.arg for f in functions for argument in f.args.args]
    short = sum(len(name) < 3 for name in names) / len(names)
    return 5 + 3 * documented - max(0.0, (length - 15) / 15) - 2 * short - 0.4 * max(0.0, branches - 2)


def _blocks(text: str) -> float:
    lines = text.split("\n")
    comments = sum(bool(re.match(r"\s*(//|/\*|\* |# |--|%|<!--)", line)) for line in lines) / len(lines)
    depth = deepest = begin = 0
    lengths = []
    for number, line in enumerate(lines):
        change = line.count("{") - line.count("}")
        if depth == 0 and change > 0:
            begin = number
        if depth > 0 and depth + change <= 0:
            lengths.append(number - begin)
        depth = max(0, depth + change)
        deepest = max(deepest, depth)
    words = re.findall(r"[A-Za-z_]\w*", text)[:5000]
    short = sum(len(word) < 3 for word in words) / max(1, len(words))
    length = statistics.mean(lengths) if lengths else 10
    return 5 + 8 * min(comments, 0.35) - max(0.0, (length - 25) / 25) - 4 * short - 0.3 * max(0, deepest - 4)


def _noise(draw: str, text: str) -> float:
    """Nearly normal, mean 0, standard deviation 1."""
    digest = hashlib.sha256(f"{draw}:{text}".encode("utf-8", "surrogatepass")).digest()
    uniform = [int.from_bytes(digest[4 * place : 4 * place + 4], "big") / 2**32 for place in range(8)]
    return (sum(uniform) - 4) * (12 / 8) ** 0.5
