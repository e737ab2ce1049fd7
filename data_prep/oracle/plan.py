"""What a run would ask, what of it is answered already, and what the rest costs."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from data_prep.oracle.answers import Answer, AnswerStore, answer_key
from data_prep.oracle.budget import Budget
from data_prep.oracle.prompt import Prompt, Request
from data_prep.oracle.rating import holds_rating
from data_prep.oracle.sample import Sample
from data_prep.oracle.settings import CostSettings, OracleSettings

MEASURED_FILES = 256


@dataclass
class Plan:
    """For every file of the sample its key; for every key that is not answered yet, the bytes that are to be sent."""

    keys: list[str] = field(default_factory=list)
    cut: list[bool] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    """Bytes of the request for each key."""
    stored: dict[str, Answer] = field(default_factory=dict)
    paid: list[tuple[str, Answer]] = field(default_factory=list)
    """Every answer to this sample that was paid for before, also those that are to be asked for again."""
    texts_with_ratings: list[str] = field(default_factory=list)
    """Paths of files that hold a rating, or a label, in the very form that is asked for."""

    @property
    def to_ask(self) -> dict[str, int]:
        return {key: size for key, size in self.sizes.items() if key not in self.stored}


def requests_of(sample: Sample, prompt: Prompt) -> Iterator[tuple[Request, str, str]]:
    """For every file of the sample, in order: the request, its text, its path."""
    for batch in sample.batches(["language", "text", "path"]):
        columns = (batch[name].to_pylist() for name in ("language", "text", "path"))
        for language, text, path in zip(*columns, strict=True):
            yield prompt.request(language, text), text, path


def make_plan(sample: Sample, prompt: Prompt, settings: OracleSettings, store: AnswerStore, again: bool) -> Plan:
    """Compares what is to be asked with what is stored; with `again`, stored answers with a problem do not count."""
    plan = Plan()
    for request, text, path in requests_of(sample, prompt):
        key = answer_key(request, settings.request)
        plan.keys.append(key)
        plan.cut.append(request.cut)
        plan.sizes[key] = request.size_bytes
        if holds_rating(text, prompt.answers):
            plan.texts_with_ratings.append(path)
    stored, plan.paid = store.load(set(plan.sizes))
    plan.stored = {key: answer for key, answer in stored.items() if answer.counts or not again}
    return plan


def estimate(plan: Plan, sample: Sample, prompt: Prompt, settings: OracleSettings) -> dict[str, Any]:
    """Requests, tokens and cost of what is still to be asked, and what the assumptions are."""
    to_ask = plan.to_ask
    per_byte, how = _tokens_per_byte(sample, prompt, settings.cost)
    input_bytes = sum(to_ask.values())
    input_tokens = round(input_bytes * per_byte)
    answer_tokens = min(settings.cost.answer_tokens, settings.request.max_tokens)
    budget = Budget(settings.cost, settings.request.max_tokens)
    priced = settings.cost.price_in is not None
    return {
        "files": len(plan.keys),
        "cut_files": sum(plan.cut),
        "requests": len(plan.sizes),
        "stored": len(plan.stored),
        "to_ask": len(to_ask),
        "input_bytes": input_bytes,
        "tokens_per_byte": per_byte,
        "tokens_per_byte_from": how,
        "input_tokens": input_tokens,
        "answer_tokens": answer_tokens,
        "output_tokens": answer_tokens * len(to_ask),
        "cost": settings.cost.of(input_tokens, answer_tokens * len(to_ask)) if priced else None,
        "cost_at_most": sum(map(budget.most, to_ask.values())) if priced else None,
        "spent": spent_on(plan, budget) if priced else None,
        "max_cost": settings.cost.max_cost,
    }


def spent_on(plan: Plan, budget: Budget) -> float:
    """What the answers to this sample have cost before."""
    sizes = plan.sizes
    return sum(budget.actual(sizes[key], answer.input_tokens, answer.output_tokens) for key, answer in plan.paid)


def _tokens_per_byte(sample: Sample, prompt: Prompt, cost: CostSettings) -> tuple[float, str]:
    if cost.tokenizer is None:
        return cost.tokens_per_byte, "assumed"
    from tokenizer.encode import Encoder

    encoder = Encoder.load(cost.tokenizer)
    requests = [request for request, _, _ in islice(requests_of(sample, prompt), MEASURED_FILES)]
    contents = [message["content"] for request in requests for message in request.messages]
    ids, _ = encoder.encode_batch(contents)
    return len(ids) / sum(request.size_bytes for request in requests), f"measured on {len(requests)} files"


def describe(found: dict[str, Any]) -> list[str]:
    """The estimate as lines."""
    lines = [
        f"{found['files']:,} files ({found['cut_files']:,} of them cut), {found['requests']:,} different requests, "
        f"{found['stored']:,} answered already, {found['to_ask']:,} to ask",
        f"{found['input_tokens']:,} tokens to send ({found['input_bytes'] / 1e6:,.2f} MB, "
        f"{found['tokens_per_byte']:.3f} tokens per byte, {found['tokens_per_byte_from']}), "
        f"{found['output_tokens']:,} to be answered (assumed {found['answer_tokens']} an answer)",
    ]
    if found["cost"] is not None:
        limit = f", stops before {money(found['max_cost'])} in all" if found["max_cost"] else ""
        spent = f"; {money(found['spent'])} spent on it so far" if found["spent"] else ""
        lines.append(f"cost about {money(found['cost'])}, at most {money(found['cost_at_most'])}{spent}{limit}")
    return lines


def money(amount: float) -> str:
    """Two digits after the point, four where the amount is small."""
    return f"{amount:,.2f}" if amount >= 10 else f"{amount:.4f}"
