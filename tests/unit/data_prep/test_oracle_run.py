"""Runs of an oracle against a real server that answers, fails, stalls, lies and is left in the middle."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
import yaml
from oracle_server import OracleServer, Reset, Says, Status, honest, rate
from tokenizers import Tokenizer, models
from tokenizers.pre_tokenizers import ByteLevel

from data_prep.errors import DataError
from data_prep.importing import ImportLimits, SourceSpec, import_documents
from data_prep.oracle.client import retry_after_s
from data_prep.oracle.run import estimate_run, run_oracle
from data_prep.oracle.scores import oracle_names, read_scores, scores_manifest
from data_prep.oracle.settings import load_settings

FILES = 24


def text_number(index):
    return f"# file {index}\n" + "x = 1\n" * (index % 10)


@pytest.fixture
def corpus(tmp_path):
    """24 files of distinct text, with 2 to 11 lines, and a copy of the first."""
    records = [{"repo": f"r{i % 5}", "path": f"{i:02d}.py", "content": text_number(i)} for i in range(FILES - 1)]
    records.append({"repo": "copy", "path": "copy.py", "content": text_number(0)})
    (tmp_path / "src.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    spec = SourceSpec("jsonl", str(tmp_path / "src.jsonl"), "src")
    import_documents([spec], tmp_path / "corpus", ImportLimits(shard_bytes=300), 1)
    return tmp_path / "corpus"


def settings_for(server, **changes):
    base = {
        "sample": {"max_share": 1.0},
        "request": {"model": "judge"},
        "endpoint": {"url": server.url, "backoff_s": 0.01, "timeout_s": 5.0, "concurrency": 4},
    }
    return load_settings(None, {key: {**base.get(key, {}), **changes.get(key, {})} for key in {**base, **changes}})


def run(corpus, server, name="a", again=False, **changes):
    return run_oracle(corpus, name, settings_for(server, **changes), again=again)


def rows_of(corpus, name="a"):
    return {row["path"]: row for row in read_scores(corpus, name).to_pylist()}


def test_every_file_has_the_score_of_its_content(corpus):
    with OracleServer() as server:
        manifest = run(corpus, server)
    rows = rows_of(corpus)
    assert len(rows) == FILES
    for index in range(FILES - 1):
        row = rows[f"{index:02d}.py"]
        assert row["score"] == rate(text_number(index)) and row["problem"] is None
        assert (row["repository"], row["language"], row["cut"]) == (f"r{index % 5}", "Python", False)
        assert row["model"] == "judge" and row["prompt_version"].startswith("code_quality@1+")
    assert rows["copy.py"]["score"] == rows["00.py"]["score"]
    assert len(server.bodies) == FILES - 1 == manifest["asked_now"], "equal texts are asked about once"
    assert manifest["histogram"] == [sum(row["score"] == score for row in rows.values()) for score in range(11)]
    assert "Zero-score policy" in manifest["prompt"]["template"] and manifest["prompt"]["digest"]
    assert manifest["models_answering"] == {"served": FILES - 1}
    assert manifest["sample"]["languages"]["Python"]["files"] == FILES
    assert oracle_names(corpus) == ["a"] and scores_manifest(corpus, "a") == manifest
    body = server.bodies[0]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("judge", 0.0, 1024)


def test_nothing_is_asked_twice_unless_what_is_asked_changes(corpus):
    with OracleServer() as server:
        first = run(corpus, server)
        asked = len(server.bodies)
        again = run(corpus, server)
        assert len(server.bodies) == asked and again["asked_now"] == 0
        assert (again["sha256"], again["cost"]) == (first["sha256"], first["cost"])
        run(corpus, server, name="b")  # another name, the same question
        assert len(server.bodies) == asked
        run(corpus, server, sample={"max_share": 0.5})
        assert len(server.bodies) == asked
        for change in ({"model": "other"}, {"temperature": 0.5}, {"revision": "2"}, {"extra": {"top_k": 1}}):
            run(corpus, server, request={"model": "judge", **change})
            asked += FILES - 1
            assert len(server.bodies) == asked
        assert server.bodies[-1]["top_k"] == 1 and "revision" not in server.bodies[-1]
        run(corpus, server, request={"model": "judge", "max_tokens": 99})  # they ended below the other limit
        assert len(server.bodies) == asked


def test_a_new_file_costs_one_request(corpus, tmp_path):
    with OracleServer() as server:
        run(corpus, server)
        more = {"repo": "new", "path": "new.py", "content": "y = 2\n"}
        (tmp_path / "more.jsonl").write_text(json.dumps(more) + "\n")
        import_documents([SourceSpec("jsonl", str(tmp_path / "more.jsonl"), "more")], corpus, ImportLimits(), 1)
        assert run(corpus, server)["asked_now"] == 1
    assert rows_of(corpus)["new.py"]["score"] == 1


def test_long_files_are_sent_in_parts_and_marked(corpus, tmp_path):
    prompt = tmp_path / "short.yaml"
    template = "The mark is $boundary.\n$boundary\n$text\n$boundary\n"
    prompt.write_text(yaml.safe_dump({"name": "short", "version": "7", "template": template, "max_text_bytes": 256}))
    long = {"repo": "long", "path": "long.py", "content": "y = 2\n" * 500 + "# the end\n"}
    (tmp_path / "long.jsonl").write_text(json.dumps(long) + "\n")
    import_documents([SourceSpec("jsonl", str(tmp_path / "long.jsonl"), "long")], corpus, ImportLimits(), 1)
    with OracleServer(lambda text, nth: Says("Rating: [[5]]")) as server:
        settings = settings_for(server).model_copy(update={"prompt": str(prompt)})
        manifest = run_oracle(corpus, "a", settings)
    rows = rows_of(corpus)
    assert {path for path, row in rows.items() if row["cut"]} == {"long.py"}
    assert rows["long.py"]["prompt_version"].startswith("short@7+") and rows["long.py"]["size_bytes"] == 3010
    (sent,) = [text for text in server.asked if "y = 2" in text]
    assert sent.endswith("# the end\n") and len(sent) <= 256 and "bytes are left out here" in sent
    assert manifest["prompt"]["template"] == template


def test_passing_failures_are_retried(corpus):
    failures = [Status(500), Status(429, headers={"Retry-After": "0"}), Reset(), Status(503), Says(0, usage=None)]

    def script(text, nth):
        return failures[nth] if nth < 4 else honest(text, nth)

    with OracleServer(script) as server:
        manifest = run(corpus, server)
    assert manifest["scored"] == FILES and manifest["retries_now"] == 4 * (FILES - 1)
    assert set(server.asked.values()) == {5}


def test_a_pause_that_is_asked_for_is_kept_by_all(corpus):
    told_at = []

    def script(text, nth):
        if not told_at:
            told_at.append(time.monotonic())
            return Status(429, headers={"Retry-After": "2"})
        return Says("Rating: [[4]]", pause_s=max(0.0, told_at[0] + 1.0 - time.monotonic()))

    with OracleServer(script) as server:
        assert run(corpus, server)["scored"] == FILES
    with_the_first, later = server.times[:4], server.times[4:]
    assert len(with_the_first) + len(later) == FILES and min(later) >= told_at[0] + 1.9


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [("7", 7, 7), ("1.5", 1.5, 1.5), ("-3", 0, 0), ("soon", 0, 0), ("", 0, 0), ("nan", 0, 0), ("later", 0, 0)],
)
def test_how_long_to_wait(value, least, most):
    assert least <= retry_after_s({"retry-after": value}) <= most


def test_how_long_to_wait_until_a_date():
    until = datetime.now(UTC) + timedelta(seconds=1000)
    assert 900 < retry_after_s({"retry-after": format_datetime(until, usegmt=True)}) <= 1000
    assert retry_after_s({"retry-after": format_datetime(until - timedelta(days=1), usegmt=True)}) == 0
    assert retry_after_s({}) == 0


def test_a_pause_of_an_hour_is_not_waited_for(corpus):
    def script(text, nth):
        return Status(429, headers={"Retry-After": "3600"}) if nth == 0 else honest(text, nth)

    with OracleServer(script) as server:
        endpoint = {"url": server.url, "backoff_s": 0.0, "max_retry_after_s": 0.05, "concurrency": 4}
        assert run(corpus, server, endpoint=endpoint)["scored"] == FILES


def test_lies_are_counted_with_examples(corpus):
    lies = {
        "unparsable": Says("A fine file."),
        "out_of_range": Says("Rating: [[11]]"),
        "ambiguous": Says("Rating: [[3]]\nRating: [[4]]"),
        "truncated": Says("And so on and", finish_reason="length"),
        "empty": Says(""),
        "refused": Says("I'm sorry, I can't rate this."),
    }
    lies_of = {text_number(index): problem for index, problem in enumerate(lies, 1)}
    broken = {
        text_number(10): Status(200, b"<html>busy</html>"),
        text_number(11): Status(200, b'{"choices": []}'),
        text_number(12): Status(200, b'{"choices": [{"message": {"content": 5}}]}'),
        text_number(13): Says("Rating: [[1]]", usage=(-1, 1)),
        text_number(14): Status(400, b'{"error": "context length exceeded"}'),
        text_number(15): Status(500),
    }
    healthy = threading.Event()

    def script(text, nth):
        if text in lies_of:
            return lies[lies_of[text]]
        return broken[text] if text in broken and not healthy.is_set() else honest(text, nth)

    attempts = {"attempts": 2, "backoff_s": 0.0, "concurrency": 4}
    with OracleServer(script) as server:
        manifest = run(corpus, server, endpoint={"url": server.url, **attempts})
        rows = rows_of(corpus)
        for index, problem in enumerate(lies, 1):
            assert rows[f"{index:02d}.py"]["problem"] == problem and rows[f"{index:02d}.py"]["score"] is None
        assert [rows[f"{index}.py"]["problem"] for index in range(10, 16)] == ["malformed"] * 4 + ["rejected", "failed"]
        assert manifest["problems"] == {**dict.fromkeys(sorted(lies), 1), "malformed": 4, "rejected": 1, "failed": 1}
        assert manifest["examples"]["unparsable"] == [{"path": "01.py", "said": "A fine file."}]
        assert "context length" in manifest["examples"]["rejected"][0]["said"]
        assert manifest["examples"]["malformed"][0]["path"] in ("10.py", "11.py", "12.py", "13.py")
        assert server.asked[text_number(14)] == 1 and server.asked[text_number(15)] == 2

        healthy.set()
        asked = len(server.bodies)
        manifest = run(corpus, server, endpoint={"url": server.url, **attempts})
        assert len(server.bodies) == asked + len(broken), "only what has no answer is asked again"
        assert set(manifest["problems"]) == set(lies)
        lies.update(dict.fromkeys(lies, Says("Rating: [[9]]")))
        manifest = run(corpus, server, again=True)
        assert manifest["scored"] == FILES and manifest["asked_now"] == len(lies)
        assert run(corpus, server, again=True)["asked_now"] == 0


def test_stalls_end_in_time_and_slow_answers_are_taken(corpus):
    def script(text, nth):
        if text == text_number(1) and nth == 0:
            return Says("Rating: [[1]]", pause_s=30)
        if text == text_number(2):
            return Says("Rating: [[2]]", pause_s=0.15, pieces=100)  # never silent for long, and never done
        if text == text_number(3):
            return Says("Rating: [[3]]", pause_s=0.02, pieces=10)
        return honest(text, nth)

    with OracleServer(script) as server:
        endpoint = {"url": server.url, "timeout_s": 1.5, "attempts": 3, "backoff_s": 0.0, "concurrency": 8}
        manifest = run(corpus, server, endpoint=endpoint)
    rows = rows_of(corpus)
    assert rows["01.py"]["score"] == rate(text_number(1)) and rows["03.py"]["score"] == 3
    assert rows["02.py"]["problem"] == "failed" and "within 1.5 s" in manifest["examples"]["failed"][0]["said"]
    assert manifest["broken_off_now"] >= 4


def test_no_more_requests_are_under_way_than_allowed(corpus):
    with OracleServer(lambda text, nth: Says("Rating: [[1]]", pause_s=0.03)) as server:
        run(corpus, server, endpoint={"url": server.url, "concurrency": 3})
    assert server.most_under_way == 3


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Status(401, b"bad key"), "HTTP 401: bad key"),
        (Status(404, b"no model"), "HTTP 404: no model"),
        (Status(302, headers={"Location": "http://127.0.0.1:1/"}), "HTTP 302"),
    ],
)
def test_what_is_wrong_for_all_stops_at_once(corpus, reply, said):
    with OracleServer(lambda text, nth: reply) as server:
        with pytest.raises(DataError, match=said):
            run(corpus, server)
        assert len(server.bodies) <= 4
    assert oracle_names(corpus) == []


def test_an_endpoint_that_is_not_there_or_never_answers_is_given_up(corpus):
    with OracleServer(lambda text, nth: Status(500, b"out of memory")) as server:
        endpoint = {"url": server.url, "attempts": 2, "backoff_s": 0.0, "concurrency": 1}
        with pytest.raises(DataError, match=r"no answer to 21 requests in a row.*out of memory"):
            run(corpus, server, endpoint=endpoint)
        assert len(server.bodies) == 42
    with pytest.raises(DataError, match=r"^http://127\.0\.0\.1:\d+/v1 cannot be reached: no connection .*; start the"):
        run(corpus, server, endpoint=endpoint)
    with pytest.raises(DataError, match=r"^http://127\.0\.0\.1:\d+/v1 cannot be reached: no connection .*; start the"):
        run(corpus, server, endpoint=endpoint, sample={"files": 3})
    with OracleServer(lambda text, nth: Says("Nice.")) as server, pytest.raises(DataError, match="none of 24 files"):
        run(corpus, server)


def test_the_key_is_sent_and_never_written(corpus, tmp_path, monkeypatch, caplog):
    key = "sk-abc123DEF456"
    replies = [Status(400, f"the key {key} is odd".encode()), Says(f"No rating, but {key}"), Says("Rating: [[5]]")]
    caplog.set_level(0)
    with OracleServer(lambda text, nth: replies[len(text.splitlines()) % 3]) as server:
        endpoint = {"url": server.url, "api_key_env": "ORACLE_KEY", "concurrency": 2}
        with pytest.raises(DataError, match="ORACLE_KEY holds no key"):
            run(corpus, server, endpoint=endpoint)
        monkeypatch.setenv("ORACLE_KEY", key)
        manifest = run(corpus, server, endpoint=endpoint)
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {key}"}
    assert {"rejected", "unparsable"} <= set(manifest["problems"])
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert key.encode() not in written and b"***" in written
    assert key not in caplog.text and key not in json.dumps(manifest)
    refuse = Status(401, f"wrong key {key}".encode())
    with OracleServer(lambda text, nth: refuse) as server, pytest.raises(DataError) as error:
        run(corpus, server, name="b", endpoint={**endpoint, "url": server.url}, request={"model": "other"})
    assert key not in str(error.value) and "wrong key ***" in str(error.value)


@pytest.mark.parametrize("url", ["http://user:pass@host/v1", "http://host/v1?key=abc", "ftp://host", "host:80"])
def test_addresses_that_hold_keys_or_are_none_are_refused(url):
    with pytest.raises(DataError, match=r"endpoint\.url") as error:
        load_settings(None, {"request": {"model": "m"}, "endpoint": {"url": url}})
    assert "pass" not in str(error.value) and "abc" not in str(error.value)


def answers_in(corpus):
    return b"".join(path.read_bytes() for path in sorted((corpus / "oracle/_answers").glob("*.jsonl")))


def test_explanations_are_kept_only_when_asked_for(corpus):
    with OracleServer() as server:
        run(corpus, server)
        assert b"It has lines" not in answers_in(corpus)
        settings = settings_for(server, request={"model": "other"}).model_copy(update={"keep_explanations": True})
        run_oracle(corpus, "b", settings)
        assert answers_in(corpus).count(b"It has lines") == FILES - 1


def test_torn_lines_are_counted_and_asked_about_again(corpus):
    with OracleServer() as server:
        run(corpus, server)
        (path,) = (corpus / "oracle/_answers").glob("*.jsonl")
        path.write_bytes(path.read_bytes()[:-20] + b"\n\xff\n[1]\n{}\n")
        manifest = run(corpus, server)
        assert (manifest["asked_now"], manifest["damaged_answers"]) == (1, 4)


def test_the_estimate_asks_nothing_and_says_what_is_left(corpus):
    cost = {"price_in": 2.0, "price_out": 10.0, "tokens_per_byte": 0.25, "answer_tokens": 100}
    with OracleServer() as server:
        settings = settings_for(server, cost=cost)
        found = estimate_run(corpus, "a", settings)
        assert not server.bodies
        assert (found["files"], found["requests"], found["to_ask"], found["stored"]) == (FILES, FILES - 1, FILES - 1, 0)
        assert found["output_tokens"] == 100 * (FILES - 1)
        run_oracle(corpus, "a", settings)
        sent = sum(len(body["messages"][0]["content"].encode()) for body in server.bodies)
        assert found["input_bytes"] == sent and found["input_tokens"] == round(sent / 4)
        assert found["cost"] == pytest.approx((2.0 * round(sent / 4) + 10.0 * found["output_tokens"]) / 1e6)
        after = estimate_run(corpus, "a", settings)
        assert after["to_ask"] == 0 and after["stored"] == FILES - 1
        assert after["spent"] == pytest.approx((FILES - 1) * (2.0 * 100 + 10.0 * 10) / 1e6)


def test_a_tokenizer_measures_tokens_per_byte(corpus, tmp_path):
    tokenizer = Tokenizer(models.BPE(dict(zip(sorted(ByteLevel.alphabet()), range(256), strict=True)), []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with OracleServer() as server:
        cost = {"tokenizer": tmp_path / "tokenizer.json"}
        found = estimate_run(corpus, "a", settings_for(server, cost=cost))
    assert found["tokens_per_byte"] == 1.0 and found["tokens_per_byte_from"] == f"measured on {FILES} files"
    assert found["input_tokens"] == found["input_bytes"] and found["cost"] is None


@pytest.mark.parametrize("concurrency", [1, 8])
def test_max_cost_is_never_exceeded_and_the_rest_waits(corpus, concurrency):
    """Each answer costs 1,000 + 1,000 x 16 in millionths; before it is known, up to 16 more and a token per byte."""
    cost = {"price_in": 1.0, "price_out": 1000.0}
    changes = {"request": {"model": "judge", "max_tokens": 32}}
    with OracleServer(lambda text, nth: Says("Rating: [[4]]", usage=(1000, 16))) as server:
        changes["endpoint"] = {"url": server.url, "concurrency": concurrency}
        manifest = run(corpus, server, cost={**cost, "max_cost": 0.2}, **changes)
        assert manifest["stopped_by_max_cost"] and manifest["cost"] == pytest.approx(0.017 * len(server.bodies))
        assert 0.2 - 0.036 < manifest["cost"] <= 0.2, "it stops when the next one could exceed the limit, not before"
        left = FILES - manifest["scored"]
        assert manifest["problems"] == {"not_asked": left}
        manifest = run(corpus, server, cost={**cost, "max_cost": 0.2}, **changes)
        assert manifest["asked_now"] == 0 and manifest["stopped_by_max_cost"]
        manifest = run(corpus, server, cost={**cost, "max_cost": 5.0}, **changes)
        assert manifest["scored"] == FILES and not manifest["stopped_by_max_cost"]
        assert manifest["cost"] == pytest.approx(0.017 * (FILES - 1)) and len(server.bodies) == FILES - 1


def test_what_may_be_billed_counts_against_max_cost(corpus):
    cost = {"price_in": 0.0, "price_out": 1000.0, "max_cost": 0.5}
    endpoint_of = {"attempts": 3, "backoff_s": 0.0, "timeout_s": 0.2, "concurrency": 2}

    first = []

    def script(text, nth):
        first.append(text)
        return Says("Rating: [[1]]", usage=None) if text == first[0] else Reset()

    with OracleServer(script) as server:
        request = {"model": "judge", "max_tokens": 50}  # 0.05 each at most
        manifest = run(corpus, server, request=request, cost=cost, endpoint={"url": server.url, **endpoint_of})
        assert len(server.bodies) == 10 and manifest["cost"] == pytest.approx(0.5)
        assert manifest["broken_off_now"] == 9


def test_a_second_run_of_the_same_oracle_is_refused_meanwhile(corpus):
    asked, go = threading.Event(), threading.Event()

    def script(text, nth):
        asked.set()
        go.wait(20)
        return honest(text, nth)

    with OracleServer(script) as server:
        other = threading.Thread(target=run, args=(corpus, server))
        other.start()
        assert asked.wait(20)
        with pytest.raises(DataError, match="in use by"):
            run(corpus, server)
        go.set()
        other.join(30)
        assert rows_of(corpus)["00.py"]["score"] == 1


def test_killed_in_the_middle_it_asks_only_what_is_left(corpus):
    """kill -9 while requests are under way, several times; every answer that was stored is kept."""
    command = [sys.executable, "-c", "from data_prep.cli import app; app()", "oracle", "run", str(corpus), "a"]
    config = corpus.parent / "oracle.yaml"
    config.write_text("sample: {max_share: 1.0}\n")
    allowed = threading.Semaphore(0)

    def script(text, nth):
        allowed.acquire()
        return honest(text, nth)

    with OracleServer(script) as server:
        command += ["--config", str(config), "--url", server.url, "--model", "judge", "--concurrency", "2"]
        for goal in (5, 12):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while answers_in(corpus).count(b"\n") < goal:
                allowed.release()
                time.sleep(0.05)
                assert process.poll() is None
            stored = answers_in(corpus).count(b"\n")
            os.kill(process.pid, signal.SIGKILL)
            process.wait(20)
            assert answers_in(corpus).count(b"\n") >= stored
            for _ in range(50):
                allowed.release()  # what nobody waits for any more
            time.sleep(0.2)
            while allowed.acquire(blocking=False):
                pass
        before, stored = len(server.bodies), answers_in(corpus).count(b"\n")
        for _ in range(100):
            allowed.release()
        subprocess.run(command, check=True, timeout=120, stdout=subprocess.DEVNULL)
        assert len(server.bodies) - before == FILES - 1 - stored
    lines = [json.loads(line) for line in answers_in(corpus).splitlines()]
    assert len({line["key"] for line in lines}) == len(lines) == FILES - 1
    assert {row["problem"] for row in rows_of(corpus).values()} == {None}
