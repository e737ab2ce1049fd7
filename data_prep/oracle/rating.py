"""What an answer says: a rating, or why there is none."""

import re
from dataclasses import dataclass

from data_prep.oracle.scores import MAXIMUM_SCORE, MINIMUM_SCORE

# The form that the prompt asks for, with the emphasis that some models put around it.
_RATING = re.compile(r"\brating[*_`]*\s*:\s*[*_`]*\s*\[\[\s*([+-]?\d+(?:\.\d+)?)\s*\]\]", re.IGNORECASE)
_THOUGHTS = re.compile(r"\A.*</think(?:ing)?>", re.DOTALL)
_REFUSAL = re.compile(
    r"\bI(?:['’]m| am) (?:sorry|unable|not able)\b|\bI (?:can(?:no|['’])t|cannot|won['’]t|must decline)\b"
    r"|\bsorry, but\b|\bas an ai\b",
    re.IGNORECASE,
)
_REFUSAL_CHARACTERS = 400


@dataclass(frozen=True)
class Outcome:
    """A score, or a problem of `data_prep.oracle.scores.PROBLEMS`; one of the two is None."""

    score: float | None = None
    problem: str | None = None


def judge(answer: str | None, text: str, finish_reason: str | None = None, refusal: str | None = None) -> Outcome:
    """The rating in the answer on a document whose text is `text`.

    It is the rating on the answer's last line. Where there is none, an answer with a single rating counts all the same.
    Ratings that differ from it make the answer ambiguous, unless they also stand in the document: then they are
    quotations of it. A rating that the document holds counts only on the last line, so quoting it gives no score.
    """
    if refusal or finish_reason == "content_filter":
        return Outcome(problem="refused")
    said = _THOUGHTS.sub("", answer or "").strip()
    if finish_reason == "length":
        return Outcome(problem="truncated")
    if not said:
        return Outcome(problem="empty")
    last = [float(value) for value in _RATING.findall(said.splitlines()[-1])]
    quotable = {float(value) for value in _RATING.findall(text)} if holds_rating(text) else set()
    own = {float(value) for value in _RATING.findall(said)} - (quotable - set(last))
    if len(own) > 1:
        return Outcome(problem="ambiguous")
    if not own:
        quoted = _RATING.search(said)
        refused = _REFUSAL.search(said[:_REFUSAL_CHARACTERS])
        return Outcome(problem="ambiguous" if quoted else "refused" if refused else "unparsable")
    (score,) = own
    if not MINIMUM_SCORE <= score <= MAXIMUM_SCORE:
        return Outcome(problem="out_of_range")
    return Outcome(score=score)


def holds_rating(text: str) -> bool:
    """Whether a document holds a rating in the form that is asked for: an attempt to be rated well, or a prompt."""
    return "[[" in text and _RATING.search(text) is not None
