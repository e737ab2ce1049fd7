"""Runs whose numbers go to wandb over a network: there, never there, and lost on the way."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from megatron_seed.train import metrics

MODEL = {"preset": "seed_coder_tiny", "vocab_size": 120, "num_layers": 1, "hidden_size": 16, "ffn_hidden_size": 32}
ONLINE = {"tensorboard": False, "wandb": "auto", "wandb_timeout_s": 4}


class Service(ThreadingHTTPServer):
    """As much of wandb's as its client needs to send rows; keeps what came."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.received = b""
        self.rows: list[dict[str, Any]] = []
        """Of the run's history."""
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def vanish(self) -> None:
        self.shutdown()
        self.server_close()


class Answers(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.received += self.path.encode() + b" " + body
        asked: dict[str, Any] = {}
        with suppress(ValueError):
            asked = json.loads(body)
        if "file_stream" in self.path:
            lines = asked.get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
            self.server.rows += map(json.loads, lines)
        answer = json.dumps({"data": self.told(asked)}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_PUT = do_POST

    def told(self, asked: dict[str, Any]) -> dict[str, Any]:
        query, rows = asked.get("query", ""), self.server.rows
        name = asked.get("variables", {}).get("name")
        bucket = {"id": "b", "name": name, "displayName": name, "config": "{}", "historyLineCount": len(rows)}
        if "upsertBucket" in query:
            project = {"id": "p", "name": "megatron-seed", "entity": {"id": "e", "name": "someone"}}
            return {"upsertBucket": {"bucket": {**bucket, "project": project}, "inserted": not rows}}
        if "RunResumeStatus" in query and rows:
            tails = {"historyTail": json.dumps([json.dumps(rows[-1])]), "eventsTail": "[]", "summaryMetrics": "{}"}
            counts = {"eventsLineCount": 0, "logLineCount": 0}
            return {"model": {"bucket": {**bucket, **tails, **counts, "wandbConfig": '{"t": 1}', "tags": []}}}
        if "createRunFiles" in query:
            return {"createRunFiles": {"runID": name, "uploadHeaders": [], "files": []}}
        return {}

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Service]:
    """One that this user is logged in to."""
    found = Service()
    monkeypatch.setenv("WANDB_BASE_URL", found.url)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    yield found
    found.vanish()


def kept(run_dir: Path, kind: str) -> bytes:
    (folder,) = (run_dir / "wandb").glob(f"{kind}-*")
    (record,) = folder.glob("*.wandb")
    return record.read_bytes()


@pytest.mark.parametrize(
    "lost", [pytest.param(False, id="there", marks=pytest.mark.slow), pytest.param(True, id="lost on the way")]
)
def test_a_run_sends_its_numbers_and_does_not_wait_for_a_network_that_is_lost(
    lost: bool, service: Service, tiny_recipe: Callable[..., Path], start: Callable
) -> None:
    recipe = tiny_recipe("run", model=MODEL, logging=ONLINE)
    run_dir, began = recipe.with_suffix(""), threading.Event()

    def lose() -> None:
        while not began.wait(0.02):
            if any(row["kind"] == "train" for row in metrics.read(run_dir)):
                service.vanish()
                return

    watching = threading.Thread(target=lose)
    if lost:
        watching.start()
    ended = time.monotonic()
    start("-m", "megatron_seed.train", recipe, timeout_s=120)
    assert time.monotonic() - ended < 100
    began.set()
    if lost:
        watching.join()
    assert len([row for row in metrics.read(run_dir) if row["kind"] == "train"]) == 20
    assert kept(run_dir, "run").count(b"train/loss") >= 20
    assert b"upsertBucket" in service.received
    assert lost or b"file_stream" in service.received


@pytest.mark.slow
def test_numbers_are_kept_where_wandb_cannot_be_reached(
    service: Service, tiny_recipe: Callable[..., Path], start: Callable
) -> None:
    service.vanish()
    recipe = tiny_recipe("run", model=MODEL, logging=ONLINE)
    said = start("-m", "megatron_seed.train", recipe, "phases.0.tokens=512", timeout_s=120).stderr
    (line,) = (line for line in said.splitlines() if "its files are kept for `wandb sync`" in line)
    assert f"wandb: {service.url} cannot be reached" in line
    assert kept(recipe.with_suffix(""), "offline-run").count(b"train/loss") >= 2


TWICE = """\
import sys
from megatron_seed.config.load import load_recipe
from megatron_seed.train.record import Recorder

for begin, end in ((0, 5), (2, 6)):
    recorder = Recorder(load_recipe(sys.argv[1]), begin, active=True)
    for step in range(begin + 1, end + 1):
        recorder.write({"kind": "train", "step": step, "loss": 10.0 * begin + step})
    recorder.close()
"""


def test_a_run_that_is_resumed_from_an_older_step_sends_what_is_done_again(
    service: Service, tiny_recipe: Callable[..., Path], start: Callable, tmp_path: Path
) -> None:
    recipe = tiny_recipe("run", model=MODEL, logging=ONLINE)
    recipe.with_suffix("").mkdir()
    (tmp_path / "twice.py").write_text(TWICE)
    start(tmp_path / "twice.py", recipe, timeout_s=120)
    first, again = [1, 2, 3, 4, 5], [3, 4, 5, 6]
    assert [row["step"] for row in service.rows] == [*first, *again]
    assert [row["train/loss"] for row in service.rows] == [*first, *(20 + step for step in again)]
    numbers = [row["_step"] for row in service.rows]
    assert numbers[:5] == first and numbers == sorted(set(numbers))


def test_without_a_login_numbers_stay_here(
    service: Service, tiny_recipe: Callable[..., Path], start: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", str(tmp_path / "nothing"))
    recipe = tiny_recipe("run", model=MODEL, logging=ONLINE)
    start("-m", "megatron_seed.train", recipe, "phases.0.tokens=512", timeout_s=120)
    assert kept(recipe.with_suffix(""), "offline-run").count(b"train/loss") >= 2
    assert not service.received, "nothing at all is sent"
