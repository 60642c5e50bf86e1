"""A question and the aspects it asks about."""

from __future__ import annotations

import re
from dataclasses import dataclass

from services.brief.vocabulary import COMMON, PARTICLES, VERBS
from services.brief.words import raw_words, terms

__all__ = ["DEFAULT_QUESTION", "MAX_ASPECTS", "Aspect", "aspects"]

DEFAULT_QUESTION = "How does asyncio run blocking code, cancel tasks and time out?"
MAX_ASPECTS = 5

_CUT = re.compile(
    r"\s*(?:[,;?!]+|\.(?:\s|$)|\band\b|\bor\b|\bas well as\b|\bversus\b|\bvs\b)\s*", re.I
)
_SUBJECT_COLON = re.compile(r"\s*([^:?]{2,60}):\s+(.+)", re.DOTALL)
_OPENING = re.compile(
    r"(?:(?:please|tell me|explain|describe|compare|show|and|but)\s+)*"
    r"(?:(?:how|what|why|when|where|which|who|in which way)(?:'s)?\s+)?(?:exactly\s+)?"
    r"(?:(?P<aux>do|does|did|can|could|should|would|will|must|may|might)\s+|"
    r"(?:is|are|was|were)\s+)?",
    re.I,
)
_ASKING = re.compile(r"(?:how|what|why|when|where|which|who)\b", re.IGNORECASE)
_PRONOUN = re.compile(r"\b(?:it|its|they|them|their)\b", re.I)
_ARTICLE = re.compile(r"(?:the|an?|my|your|our|one's|python's)\s+", re.I)


@dataclass(frozen=True, slots=True)
class Aspect:
    """One part of a question.

    Attributes:
        title: Its own words, first letter upper case.
        own: Search terms only this aspect asks about, in order, no repeats; never empty.
        subject: Search terms all aspects share; disjoint from `own`.
    """

    title: str
    own: tuple[str, ...]
    subject: tuple[str, ...]


def aspects(question: str) -> tuple[Aspect, ...]:
    """Split a question at commas, semicolons, question marks, `and`, `or`.

    The subject before the first verb is shared by the clauses after it, until one asks anew: `How
    does a loop run and stop?` asks about `loop run` and `loop stop`. A clause without a word to
    search for is left out.

    Args:
        question: Any text.

    Returns:
        1 to 5 aspects in the order of the question; the last takes what is over. Empty only if the
        question has no word to search for.
    """
    found: list[Aspect] = []
    shared: tuple[str, ...] = ()
    for clause in _clauses(" ".join(question.split())):
        title, said = clause, clause
        if not found or _ASKING.match(clause):
            subject, said = _subject(clause)
            pronoun = bool(found) and _PRONOUN.search(clause) is not None
            shared = found[0].own if pronoun else _unique(terms(raw_words(subject)))
            title = said if subject else clause
        own = tuple(term for term in _specific(_PRONOUN.sub("", said)) if term not in shared)
        if not own and shared and not found:  # `how does it work` asks about the subject itself
            title, own, shared = clause, shared, ()
        if own and all(set(own) != set(aspect.own) for aspect in found):
            found.append(Aspect(_title(title), own, shared))
    if len(found) > MAX_ASPECTS:
        found[MAX_ASPECTS - 1 :] = [_joined(found[MAX_ASPECTS - 1 :])]
    return tuple(found)


def _subject(question: str) -> tuple[str, str]:
    """Words before the first verb of `how does …`, or before a colon; and the rest."""
    if colon := _SUBJECT_COLON.match(question):
        return colon[1], colon[2]
    opening = _OPENING.match(question)
    rest = question[opening.end() :] if opening else question
    if opening is None or not opening["aux"]:
        return "", rest
    words = rest.split(" ")
    for i, word in enumerate(words[:6]):
        if i and word.strip(",;?").lower() in VERBS:
            return " ".join(words[:i]), " ".join(words[i:])
        if word.endswith((",", ";", "?")):
            break
    lead = 1 + (words[0].lower() in COMMON)  # an article and its noun
    return " ".join(words[:lead]), " ".join(words[lead:])


def _clauses(question: str) -> list[str]:
    """Cut a question, but not inside a list of subjects: `do threads and processes share ...`."""
    clauses: list[str] = []
    for clause in _CUT.split(question):
        if clauses and _awaits_verb(clauses[-1]):
            clauses[-1] += f" and {clause}"
        else:
            clauses.append(clause)
    return clauses


def _awaits_verb(clause: str) -> bool:
    opening = _OPENING.match(clause)
    if opening is None or not opening["aux"]:
        return False
    rest = clause[opening.end() :].lower().split()
    return bool(rest) and VERBS.isdisjoint(rest)


def _specific(clause: str) -> tuple[str, ...]:
    """Terms of a clause; of a compound such as `time out` only the whole, its parts mislead."""
    found = terms(raw_words(clause))
    parts = {term for term in found if any(term + particle in found for particle in PARTICLES)}
    return _unique([term for term in found if term not in parts])


def _title(clause: str) -> str:
    words = clause.strip(" .?!:")
    article = _ARTICLE.match(words)
    words = words[article.end() :] if article else words
    return words[:1].upper() + words[1:]


def _joined(rest: list[Aspect]) -> Aspect:
    own = _unique([term for aspect in rest for term in aspect.own])
    title = rest[0].title + "".join(f", {a.title[:1].lower()}{a.title[1:]}" for a in rest[1:])
    return Aspect(title, own, rest[0].subject)


def _unique(found: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(found))
