"""An OpenAI-compatible endpoint on this machine that answers from what it is asked, and misbehaves when told to."""

import json
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Says:
    """A chat completion. `usage` is (tokens sent, tokens answered), or None where the endpoint counts none."""

    content: Any
    finish_reason: str | None = "stop"
    usage: tuple[int, int] | None = (100, 10)
    refusal: str | None = None
    pause_s: float = 0.0
    pieces: int = 1  # the body is sent in so many, with the pause between them

    def body(self) -> bytes:
        message = {"role": "assistant", "content": self.content, "refusal": self.refusal}
        found = {"model": "served", "choices": [{"index": 0, "message": message, "finish_reason": self.finish_reason}]}
        if self.usage:
            found["usage"] = dict(zip(("prompt_tokens", "completion_tokens"), self.usage, strict=True))
        return json.dumps(found).encode()


@dataclass
class Status:
    """Another status, or a body that is no completion."""

    code: int
    content: bytes = b'{"error": {"message": "no"}}'
    headers: dict[str, str] = field(default_factory=dict)


class Reset:
    """The connection is reset in the middle."""


Reply = Says | Status | Reset
Script = Callable[[str, int], Reply]
"""What to reply to a file's text, asked for the n-th time (from 0)."""


def text_of(content: str) -> str:
    """The file in a prompt: what stands between the two lines of the mark that the prompt names first."""
    mark = re.search(r"=====\[[0-9a-f]{16}\]=====", content)[0]
    _, text, _ = content.split(f"\n{mark}\n")
    return text


def rate(text: str) -> int:
    """A rating that depends on the content alone."""
    return min(10, len(text.splitlines()))


def honest(text: str, _: int) -> Reply:
    return Says(f"It has lines.\n\nRating: [[{rate(text)}]]")


class OracleServer:
    """Runs from `with` to the end of it, on a port of its own."""

    def __init__(self, script: Script = honest):
        self.script = script
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.asked: Counter[str] = Counter()
        self.times: list[float] = []
        self.under_way = self.most_under_way = 0
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                server.handle(self)

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._http.block_on_close = False
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def __enter__(self) -> "OracleServer":
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        text = text_of(body["messages"][-1]["content"])
        with self._lock:
            nth = self.asked[text]
            self.asked[text] += 1
            self.bodies.append(body)
            self.headers.append(dict(request.headers))
            self.times.append(time.monotonic())
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            self._reply(request, self.script(text, nth))
        except OSError:
            pass  # whoever asked has gone
        finally:
            with self._lock:
                self.under_way -= 1

    def _reply(self, request: BaseHTTPRequestHandler, reply: Reply) -> None:
        if request.path != "/v1/chat/completions":
            reply = Status(404, b"no such path")
        if isinstance(reply, Reset):
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            request.connection.close()
            request.close_connection = True
            return
        content = reply.body() if isinstance(reply, Says) else reply.content
        request.send_response(200 if isinstance(reply, Says) else reply.code)
        for name, value in ({} if isinstance(reply, Says) else reply.headers).items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        pieces = reply.pieces if isinstance(reply, Says) else 1
        step = -(-len(content) // pieces)
        if isinstance(reply, Says) and pieces == 1:
            time.sleep(reply.pause_s)
        request.end_headers()
        for start in range(0, len(content), step or 1):
            request.wfile.write(content[start : start + step])
            request.wfile.flush()
            if isinstance(reply, Says) and pieces > 1:
                time.sleep(reply.pause_s)
