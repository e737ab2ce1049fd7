"""A run of an oracle: sample, plan, ask, write the scores."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.progress import Progress

from data_prep.errors import DataError
from data_prep.oracle.answers import FOLDER, Answer, AnswerStore, answer_key
from data_prep.oracle.budget import Budget, BudgetSpent
from data_prep.oracle.client import NoAnswer, OracleClient, Unreachable
from data_prep.oracle.plan import Plan, estimate, make_plan, requests_of, spent_on
from data_prep.oracle.prompt import Prompt, Request, load_prompt
from data_prep.oracle.rating import judge
from data_prep.oracle.sample import ABOUT, Sample, draw_sample
from data_prep.oracle.scores import histogram, oracle_directory, write_scores
from data_prep.oracle.settings import OracleSettings
from data_prep.shards import fingerprint, lock_directory

EXAMPLES = 5
EXAMPLE_CHARACTERS = 300
HOPELESS_AFTER = 20  # requests in a row without an answer, beyond those that are under way together


def estimate_run(corpus: Path, name: str, settings: OracleSettings, workers: int = 1) -> dict[str, Any]:
    """Draws the sample and says what asking would take; asks nothing. Raises `DataError`."""
    prompt = load_prompt(settings.prompt)
    directory = oracle_directory(corpus, name)
    with lock_directory(directory), AnswerStore(directory.with_name(FOLDER)) as store:
        sample = draw_sample(Path(corpus), directory, settings.sample, workers)
        return estimate(make_plan(sample, prompt, settings, store, again=False), sample, prompt, settings)


def run_oracle(
    corpus: Path,
    name: str,
    settings: OracleSettings,
    progress: Progress | None = None,
    workers: int = 1,
    again: bool = False,
    tell: Callable[[dict[str, Any]], None] = lambda estimate: None,
) -> dict[str, Any]:
    """Has the oracle rate or label the sample and writes `oracle/<name>/scores.parquet`; returns its manifest.

    What was answered before is not asked again, with `again` unless that answer gave no score (or label). `tell` is
    given the estimate before anything is asked. Raises `DataError` when the endpoint answers nothing, or no file has a
    score in the end; answers are stored all the same.
    """
    corpus, prompt = Path(corpus), load_prompt(settings.prompt)
    directory = oracle_directory(corpus, name)
    with lock_directory(directory), AnswerStore(directory.with_name(FOLDER)) as store:
        sample = draw_sample(corpus, directory, settings.sample, workers)
        plan = make_plan(sample, prompt, settings, store, again)
        tell(estimate(plan, sample, prompt, settings))
        state = _State(plan, store, Budget(settings.cost, settings.request.max_tokens))
        state.budget.spent = spent_on(plan, state.budget)
        if plan.to_ask:
            asyncio.run(_ask_all(state, sample, prompt, settings, progress))
        return _write(corpus, name, sample, prompt, settings, state)


@dataclass
class _State:
    """What a run knows of the answers so far."""

    plan: Plan
    store: AnswerStore
    budget: Budget
    asked: int = 0
    stopped: bool = False
    retries: int = 0
    without_answer: dict[str, NoAnswer] = field(default_factory=dict)
    failed_in_a_row: int = 0


async def _ask_all(
    state: _State, sample: Sample, prompt: Prompt, settings: OracleSettings, progress: Progress | None
) -> None:
    to_ask = state.plan.to_ask
    bar = progress.add_task("asking", total=len(to_ask)) if progress else None
    jobs = _jobs(sample, prompt, settings, set(to_ask))
    async with OracleClient(settings.endpoint, settings.request, state.budget) as client:

        async def work() -> None:
            for key, request, text in jobs:
                await _ask(state, client, settings, key, request, text)
                if progress:
                    progress.advance(bar)
                if state.stopped:
                    return

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(settings.endpoint.concurrency, len(to_ask))):
                    group.create_task(work())
        except* DataError as errors:
            raise errors.exceptions[0] from None
        finally:
            state.retries = client.retries


def _jobs(
    sample: Sample, prompt: Prompt, settings: OracleSettings, to_ask: set[str]
) -> Iterator[tuple[str, Request, str]]:
    for request, text, _ in requests_of(sample, prompt):
        key = answer_key(request, settings.request)
        if key in to_ask:
            to_ask.remove(key)  # files with the same text are asked about once
            yield key, request, text


async def _ask(
    state: _State, client: OracleClient, settings: OracleSettings, key: str, request: Request, text: str
) -> None:
    try:
        completion = await client.ask(request)
    except BudgetSpent:
        state.stopped = True
        return
    except NoAnswer as error:
        state.without_answer[key] = error
        state.failed_in_a_row += 1
        if state.failed_in_a_row >= HOPELESS_AFTER + settings.endpoint.concurrency:
            if isinstance(error, Unreachable):
                raise _unreachable(settings.endpoint.url, error) from None
            raise DataError(
                f"{settings.endpoint.url}: no answer to {state.failed_in_a_row} requests in a row, the last: {error}"
            ) from None
        return
    outcome = judge(completion.text, text, completion.finish_reason, completion.refusal, request.answers)
    said = completion.text or completion.refusal
    answer = Answer(
        outcome.score,
        outcome.problem,
        completion.input_tokens,
        completion.output_tokens,
        completion.model,
        said if settings.keep_explanations or outcome.problem else None,
        outcome.label,
    )
    state.store.put(key, answer)
    state.plan.stored[key] = answer
    state.asked += 1
    state.failed_in_a_row = 0


def _unreachable(url: str, error: Unreachable) -> DataError:
    return DataError(
        f"{url} cannot be reached: {error}; start the server, or give the address of one that runs, such as "
        "--url http://127.0.0.1:8000/v1 (endpoint.url)"
    )


def _write(
    corpus: Path, name: str, sample: Sample, prompt: Prompt, settings: OracleSettings, state: _State
) -> dict[str, Any]:
    table = pq.read_table(sample.path, columns=list(ABOUT))
    keys, stored = state.plan.keys, state.plan.stored
    asked_for, kind = ("label", pa.string()) if prompt.answers else ("score", pa.float32())
    said = [getattr(stored[key], asked_for) if key in stored else None for key in keys]
    if not any(value is not None for value in said):
        errors = list(state.without_answer.values())
        if errors and not stored and all(isinstance(error, Unreachable) for error in errors):
            raise _unreachable(settings.endpoint.url, errors[0])
        counts = ", ".join(f"{problem} {count}" for problem, count in _problems(state).most_common())
        why = next((f", such as: {error}" for error in state.without_answer.values()), "")
        raise DataError(f"oracle {name}: none of {len(keys)} files has a {asked_for}: {counts}{why}")
    columns = {
        "cut": pa.array(state.plan.cut, pa.bool_()),
        asked_for: pa.array(said, kind),
        "problem": pa.array([_problem(state, key) for key in keys], pa.string()),
        "model": pa.array([settings.request.model] * len(keys), pa.string()),
        "prompt_version": pa.array([prompt.label] * len(keys), pa.string()),
    }
    for column, values in columns.items():
        table = table.append_column(column, values)
    about = {
        "model": settings.request.model,
        "models_answering": dict(Counter(str(stored[key].model) for key in set(keys) if key in stored)),
        "request": settings.request.model_dump(mode="json"),
        "prompt": prompt.describe(),
        "sample": {"settings": settings.sample.model_dump(mode="json"), **_sample_facts(sample)},
        **({"labels": _labels(prompt, said)} if prompt.answers else {"histogram": histogram(table["score"])}),
        "examples": _examples(state, table["path"].to_pylist()),
        "files_with_ratings": {
            "files": len(state.plan.texts_with_ratings),
            "examples": state.plan.texts_with_ratings[:EXAMPLES],
        },
        **_spending(state, settings),
    }
    inputs = fingerprint(sample.manifest["inputs"], prompt.digest, settings.request.model_dump(mode="json"))
    with lock_directory(corpus):
        return write_scores(corpus, name, table, inputs, about)


def _labels(prompt: Prompt, said: list[str | None]) -> dict[str, int]:
    """How many files have each label, in the prompt's order."""
    counts = Counter(said)
    return {label: counts[label] for label in prompt.answers}


def _problem(state: _State, key: str) -> str | None:
    if key in state.plan.stored:
        return state.plan.stored[key].problem
    return state.without_answer[key].problem if key in state.without_answer else "not_asked"


def _problems(state: _State) -> Counter[str]:
    return Counter(filter(None, (_problem(state, key) for key in state.plan.keys)))


def _examples(state: _State, paths: list[str]) -> dict[str, list[dict[str, str]]]:
    """The first few files of each problem, and what was said of them."""
    found: dict[str, list[dict[str, str]]] = {}
    for key, path in zip(state.plan.keys, paths, strict=True):
        problem = _problem(state, key)
        if problem in (None, "not_asked") or len(found.setdefault(problem, [])) >= EXAMPLES:
            continue
        answer = state.plan.stored.get(key)
        said = (answer.text or "") if answer else str(state.without_answer[key])
        found[problem].append({"path": path, "said": said[-EXAMPLE_CHARACTERS:]})
    return found


def _sample_facts(sample: Sample) -> dict[str, Any]:
    return {key: sample.manifest[key] for key in ("left_by", "languages", "text_bytes")}


def _spending(state: _State, settings: OracleSettings) -> dict[str, Any]:
    answers = state.plan.stored.values()
    return {
        "stopped_by_max_cost": state.stopped,
        "asked_now": state.asked,
        "retries_now": state.retries,
        "broken_off_now": state.budget.lost_requests,
        "damaged_answers": state.store.damaged_lines,
        "input_tokens": sum(answer.input_tokens or 0 for answer in answers),
        "output_tokens": sum(answer.output_tokens or 0 for answer in answers),
        "cost": state.budget.spent if settings.cost.price_in is not None else None,
        "prices": [settings.cost.price_in, settings.cost.price_out],
    }
