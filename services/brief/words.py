"""Words of a text, folded so that a question and a document meet: case, endings, compounds."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from services.brief.vocabulary import COMMON, FORMS, GROUPS, PARTICLES, VERBS

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "COMMON",
    "PARTICLES",
    "RELATED",
    "RELATED_WEIGHT",
    "VERB_STEMS",
    "coverage",
    "raw_words",
    "stem",
    "terms",
]

RELATED_WEIGHT = 0.4
"""What a related word counts for; below `rank.MIN_COVERAGE`, so it never answers alone."""

# Also splits snake_case and CamelCase, so that `wait_for` and `TaskGroup` meet plain words.
_WORD = re.compile(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+(?![^\W\d_A-Z])|\d+")
_ENDINGS = (  # longest first: ending, letters that must be left before it
    ("ations", 4),
    ("ation", 4),
    ("ating", 4),
    ("ated", 4),
    ("ates", 4),
    ("ate", 4),
    ("ions", 4),
    ("ings", 3),
    ("ion", 4),
    ("ing", 3),
    ("ed", 3),
    ("es", 3),
    ("ly", 3),
    ("s", 3),
    ("e", 3),
)
_FORMS = {form: forms.split()[0] for forms in FORMS for form in forms.split()}


def raw_words(text: str) -> list[str]:
    """Words of a text in order, lower case, compound identifiers split."""
    return [word.lower() for word in _WORD.findall(text)]


@lru_cache(maxsize=100_000)
def stem(word: str) -> str:
    """Fold the endings of one lower-case word: `cancelled`, `cancelling`, `cancel` are one term.

    Light on purpose: it need not give a word of the language, only the same one for its forms.
    A particle is folded as if written apart, so `timeouts` meets `times out`.
    """
    word = _FORMS.get(word, word)
    for particle in PARTICLES:
        bare = word.removesuffix("s")
        if bare.endswith(particle) and len(bare) - len(particle) >= 3:
            return stem(bare.removesuffix(particle)) + particle
    if word.endswith(("ss", "us", "is")) or len(word) <= 3:
        return word
    for ending, least in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= least:
            word = word.removesuffix(ending)
            break
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "aeious":
        return word[:-1]
    return word[:-1] + "i" if len(word) > 3 and word.endswith("y") else word


def terms(words: Iterable[str]) -> list[str]:
    """Search terms of a text's words, in order, repeats kept.

    A word followed by a particle also gives their compound: `time out` gives `tim`, `timout`.
    """
    found: list[str] = []
    before = ""
    for word in words:
        if word in PARTICLES and before and before not in COMMON:
            found.append(stem(before) + word)
        elif word not in COMMON and len(word) > 1:
            found.append(stem(word))
        before = word
    return found


def _related() -> dict[str, frozenset[str]]:
    groups = [frozenset(stem(word) for word in group.split()) for group in GROUPS]
    near: dict[str, frozenset[str]] = {}
    for group in groups:
        for term in sorted(group):
            near[term] = near.get(term, frozenset()) | group - {term}
    return near


VERB_STEMS = frozenset(stem(verb) for verb in VERBS)
"""Terms of the verbs that documentation uses most."""

RELATED = _related()
"""Term to the terms that documentation may use in its place."""


def coverage(found: frozenset[str], weights: dict[str, float], asked: Iterable[str]) -> float:
    """How much of what is asked a text speaks about.

    Args:
        found: Terms of the text.
        weights: Weight of each asked term, >= 0.
        asked: The terms to look for.

    Returns:
        Share of the asked weight, 0.0 to 1.0; a related term counts `RELATED_WEIGHT`.
    """
    said = total = 0.0
    for term in asked:
        total += weights[term]
        if term in found:
            said += weights[term]
        elif not found.isdisjoint(RELATED.get(term, frozenset())):
            said += RELATED_WEIGHT * weights[term]
    return said / total if total else 0.0
