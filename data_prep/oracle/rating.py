"""What an answer says: a rating or a label, or why there is none."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from data_prep.oracle.scores import MAXIMUM_SCORE, MINIMUM_SCORE

# The forms that prompts ask for, with the emphasis that some models put around them.
_RATING = re.compile(r"\brating[*_`]*\s*:\s*[*_`]*\s*\[\[\s*([+-]?\d+(?:\.\d+)?)\s*\]\]", re.IGNORECASE)
_LABEL = re.compile(r"\blabel[*_`]*\s*:\s*[*_`]*\s*\[\[\s*([^\[\]\n]{1,64}?)\s*\]\]", re.IGNORECASE)
_THOUGHTS = re.compile(r"\A.*</think(?:ing)?>", re.DOTALL)
_REFUSAL = re.compile(
    r"\bI(?:['’]m| am) (?:sorry|unable|not able)\b|\bI (?:can(?:no|['’])t|cannot|won['’]t|must decline)\b"
    r"|\bsorry, but\b|\bas an ai\b",
    re.IGNORECASE,
)
_REFUSAL_CHARACTERS = 400


@dataclass(frozen=True)
class Outcome:
    """A score, a label, or a problem of `data_prep.oracle.scores.PROBLEMS`; the others are None."""

    score: float | None = None
    problem: str | None = None
    label: str | None = None


def judge(
    answer: str | None,
    text: str,
    finish_reason: str | None = None,
    refusal: str | None = None,
    answers: Sequence[str] = (),
) -> Outcome:
    """The rating in the answer on a document whose text is `text`; with `answers`, which of these labels it gives.

    It is the rating on the answer's last line. Where there is none, an answer with a single rating counts all the same.
    Ratings that differ from it make the answer ambiguous, unless they also stand in the document: then they are
    quotations of it. A rating that the document holds counts only on the last line, so quoting it gives no score.
    Labels likewise.
    """
    if refusal or finish_reason == "content_filter":
        return Outcome(problem="refused")
    said = _THOUGHTS.sub("", answer or "").strip()
    if finish_reason == "length":
        return Outcome(problem="truncated")
    if not said:
        return Outcome(problem="empty")
    last, every = _said(said.splitlines()[-1], answers), _said(said, answers)
    own = every - (_said(text, answers) - last)
    if len(own) > 1:
        return Outcome(problem="ambiguous")
    if not own:
        refused = _REFUSAL.search(said[:_REFUSAL_CHARACTERS])
        return Outcome(problem="ambiguous" if every else "refused" if refused else "unparsable")
    (value,) = own
    if answers:
        return Outcome(label=value) if value in answers else Outcome(problem="unknown_label")
    if not MINIMUM_SCORE <= value <= MAXIMUM_SCORE:
        return Outcome(problem="out_of_range")
    return Outcome(score=value)


def holds_rating(text: str, answers: Sequence[str] = ()) -> bool:
    """Whether a document holds a rating, or a label, in the form that is asked for: an attempt to be rated well, or a
    prompt."""
    found = _said(text, answers)
    return bool(found & set(answers) if answers else found)


def _said(text: str, answers: Sequence[str]) -> set[float] | set[str]:
    """The ratings in a text, or the labels, written as `answers` are."""
    if "[[" not in text:
        return set()
    if answers:
        return {re.sub(r"[\W_]+", "_", value).strip("_").lower() for value in _LABEL.findall(text)}
    return {float(value) for value in _RATING.findall(text)}
