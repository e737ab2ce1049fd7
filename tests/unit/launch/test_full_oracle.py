"""The stand-in for the oracle: served over HTTP, asked by our own client, and different for different texts."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from data_prep.oracle.prompt import load_prompt
from launch.full import stand_in

GOOD = '''"""Temperatures and their scales."""


def celsius(fahrenheit: float) -> float:
    """Degrees Celsius of a temperature in Fahrenheit."""
    return (fahrenheit - 32) * 5 / 9


def fahrenheit(celsius_degrees: float) -> float:
    """Degrees Fahrenheit of a temperature in Celsius."""
    return celsius_degrees * 9 / 5 + 32
'''
POOR = "def f(a, b):\n" + "".join(f"    if a == {n}:\n        b = b + {n}\n" for n in range(60)) + "    return b\n"
DATA = "VALUES = [\n" + "".join(f'    "value number {n}", {n},\n' for n in range(200)) + "]\n"
MANUAL = """Reading a file

The function open() returns a file object. It is used with a path and a mode, as in the example below.

    with open("notes.txt") as file:
        for line in file:
            print(line.strip())

Close it when you are done; a with statement does that for you. The method read() returns all of the text.
"""
LESSON = r"""The geometric series

For a number \(q\) with \(|q| < 1\) the sums \(s_n = \sum_{k=0}^{n} q^k\) have a limit. To see it, multiply by
\(1 - q\): all terms but two cancel, so that

\[ (1 - q) s_n = 1 - q^{n+1}. \]

Since \(q^{n+1}\) tends to 0, the limit is \(\frac{1}{1 - q}\). The same proof gives the sum of a matrix series.
"""
LICENCE = """Permission is hereby granted, free of charge, to any person obtaining a copy of this software, to deal in
it without restriction. The software is provided as is, without warranty of any kind. All rights reserved. In no event
shall the copyright holders be liable for any claim, damages or other liability. Redistributions must retain this."""


@pytest.fixture(scope="module")
def url():
    with stand_in.serve() as address:
        yield address


def ask(url: str, prompt: str, text: str, language: str = "Python") -> str:
    request = load_prompt(prompt).request(language, text)
    body = {"model": "m", "messages": list(request.messages)}
    answer = httpx.post(f"{url}/chat/completions", json=body).json()
    return answer["choices"][0]["message"]["content"].rpartition("[[")[2].removesuffix("]]")


def test_ratings_depend_on_what_a_file_holds(url: str) -> None:
    good, poor, data = (int(ask(url, "code_quality", text)) for text in (GOOD, POOR, DATA))
    assert data == 0 < poor < good <= 10


def test_ratings_of_pages_depend_on_what_they_say(url: str) -> None:
    assert int(ask(url, "web", LICENCE)) < int(ask(url, "web", MANUAL))
    assert ask(url, "web", "Home | Next | Up") == "0"


def test_of_pages_about_mathematics_formulas_count(url: str) -> None:
    bare = re.sub(r"\\\(.*?\\\)|\\\[.*?\\\]", "it", LESSON, flags=re.S)
    assert int(ask(url, "math", bare)) < int(ask(url, "math", LESSON))
    assert int(ask(url, "web", LESSON)) < int(ask(url, "math", LESSON))


def test_pages_are_told_apart(url: str) -> None:
    assert [ask(url, "web_recall", text) for text in (MANUAL, LICENCE, LESSON)] == ["code", "other", "other"]
    assert [ask(url, "math_recall", text) for text in (MANUAL, LICENCE, LESSON)] == ["other", "other", "math"]


def test_kinds_of_sites_are_those_of_the_prompt(url: str) -> None:
    prompt = load_prompt("site_category")
    said = {ask(url, "site_category", text) for text in (GOOD, MANUAL, LICENCE, "Home\nNext\nUp\n", POOR)}
    assert said <= set(prompt.answers) and len(said) > 1


def test_a_request_that_is_none_is_refused(url: str) -> None:
    for body in ({}, {"model": "m", "messages": []}, {"model": "m", "messages": [{"content": "no material"}]}):
        assert httpx.post(f"{url}/chat/completions", json=body).status_code == 400


def test_the_noise_is_the_models_own() -> None:
    ratings = {draw: [stand_in.rate("Python", f"{GOOD}\n# {n}\n", draw) for n in range(40)] for draw in "ab"}
    assert ratings["a"] == [stand_in.rate("Python", f"{GOOD}\n# {n}\n", "a") for n in range(40)]
    assert ratings["a"] != ratings["b"] and len(set(ratings["a"])) > 1


def test_the_port_is_given_back() -> None:
    with stand_in.serve() as address:
        pass
    with pytest.raises(httpx.ConnectError):
        httpx.get(address, timeout=2)


def test_the_benchmark_of_scorers_uses_it() -> None:
    source = (Path(__file__).parents[3] / "benchmarks" / "scorer.py").read_text()
    assert "launch.full.stand_in" in source
