"""A question and the aspects it asks about."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, replace

from services.brief.vocabulary import COMMON, PARTICLES, VERBS
from services.brief.words import VERB_STEMS, raw_words, stem, terms

__all__ = ["DEFAULT_QUESTION", "MAX_ASPECTS", "Aspect", "aspects"]

DEFAULT_QUESTION = "How does asyncio run blocking code, cancel tasks and time out?"
MAX_ASPECTS = 5

_BE = r"is|are|was|were"
_DO = r"do|does|did|can|could|should|would|will|must|may|might"
_QUANTITY = r"long|much|many|often|far|old|fast|soon|big|large|deep|high|quickly|well"
_STOP = re.compile(r"[;?!]+|(?<!\bvs)\.(?:\s|$)", re.I)
_JOINT = re.compile(
    r"(\s*,\s*(?:(?:and|or|but)\b\s*)?|\s*\b(?:and|or|but|as well as|versus|vs\b\.?)(?:\s+|$))",
    re.I,
)
_SUBJECT_COLON = re.compile(r"\s*([^:?]{2,60}):\s+(.+)", re.DOTALL)
_ORDER = re.compile(
    r"\s*(?:(?:please|tell me|explain|describe|compare|show|me|us|about|to me)\s+)*", re.I
)
_OPENING = re.compile(
    rf"(?:(?P<word>how (?:{_QUANTITY})|how|what|why|when|where|which|whose|who|in which way)(?:'s)?"
    rf"(?:\s+|$))?(?:exactly\s+)?(?:(?P<aux>{_DO}|to|{_BE})\b)?\s*",
    re.I,
)
_ASKING = re.compile(rf"(?:how|what|why|when|where|which|whose|who|{_BE}|{_DO})\b", re.I)
# After a bare comma these only ask if an auxiliary follows: `..., when the loop is closed`.
_TRAILING = re.compile(rf"(?:when|where|which|whose|who)\b(?!\s+(?:{_BE}|{_DO})\b)", re.I)
_PREPOSITION = re.compile(
    r"\b(?:after|at|because|before|between|by|for|from|if|in|into|of|on|since|than|to|unless|until"
    r"|using|via|while|with|without)\b",
    re.I,
)
_POINTING = re.compile(r"\b(?:it|its|they|them|their|each)\b|^which (?:is|are)\b", re.I)
_LOOSE = re.compile(r"^(?:(?:and|or|but|as well as|versus|vs)\b|[\s.,?!:])+", re.I)
_ARTICLE = re.compile(r"(?:the|an?|my|your|our|one's|python's)\s+", re.I)


@dataclass(frozen=True, slots=True)
class Aspect:
    """One part of a question.

    Attributes:
        title: Its own words, first letter upper case.
        own: Search terms only this aspect asks about, in order, no repeats; never empty.
        subject: Search terms it shares with others; disjoint from `own`.
    """

    title: str
    own: tuple[str, ...]
    subject: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A clause taken apart: `how | does | a loop | run tasks`; all but `predicate` may be empty."""

    word: str
    auxiliary: str
    subject: str
    predicate: str

    @property
    def is_state(self) -> bool:
        """Whether it asks what something is or how it stands, not what it does."""
        return re.fullmatch(_BE, self.auxiliary) is not None

    @property
    def lists_topics(self) -> bool:
        """Whether it names things and says nothing about them: `what are locks`, `locks`."""
        return not (self.word or self.auxiliary) or (self.word == "what" and self.is_state)


def aspects(question: str) -> tuple[Aspect, ...]:
    """Split a question where it asks anew, goes on with another verb, or lists topics.

    Verbs of one subject share it: `How does a loop run tasks and close files?` asks about `loop run
    tasks` and `loop close files`. What one verb has two of stays together (`handle timeouts and
    signals`), and so do two words before one noun (`read and write locks`). A clause without a
    word to search for is left out.

    Args:
        question: Any text.

    Returns:
        1 to 5 aspects in the order of the question; the last takes what is over. Empty only if the
        question has no word to search for.
    """
    found: list[Aspect] = []
    for sentence in _STOP.split(" ".join(question.split())):
        colon = _SUBJECT_COLON.match(sentence)
        about = _terms(colon[1]) if colon else ()
        for head, *others in _groups(colon[2] if colon else sentence):
            for aspect in _group(head, others, about, found[0] if found else None):
                if all(_asked_for(aspect) != _asked_for(other) for other in found):
                    found.append(aspect)
    if len(found) > MAX_ASPECTS:
        found[MAX_ASPECTS - 1 :] = [_joined(found[MAX_ASPECTS - 1 :])]
    return tuple(found)


def _asked_for(aspect: Aspect) -> tuple[frozenset[str], frozenset[str]]:
    return frozenset(aspect.own), frozenset(aspect.subject)


def _group(
    head: str, others: list[str], about: tuple[str, ...], first: Aspect | None
) -> list[Aspect]:
    """Aspects of a clause and of those that go on with its subject."""
    asked = _asked(head)
    if not others and not asked.auxiliary:
        asked = replace(asked, subject="", predicate=f"{asked.subject} {asked.predicate}")
    shared = _unique([*about, *_terms(asked.subject)])
    shown = asked.predicate if others and asked.word in ("", "how") else head
    topics = [(head if asked.lists_topics else shown, asked.predicate)]
    found: list[Aspect] = []
    for heading, words in [*topics, *((other, other) for other in others)]:
        before = first or (found[0] if found else None)
        own, subject = _specific(words), shared
        if before and not subject and _POINTING.search(heading):
            subject = tuple(term for term in before.subject or before.own if term not in own)
        own = tuple(term for term in own if term not in subject)
        if own:
            found.append(Aspect(_title(heading), own, subject))
        elif subject and not found:  # `how does it work` asks about the subject itself
            found.append(Aspect(_title(head), subject, ()))
    return found


def _groups(sentence: str) -> list[list[str]]:
    """Clauses of a sentence, each with the clauses after it that share its subject."""
    pieces = _JOINT.split(sentence)
    groups: list[list[str]] = []
    for i, piece in enumerate(pieces):
        if i % 2 or _is_empty(piece):
            continue
        joint = pieces[i - 1] if i else ""
        if not groups or _asks_anew(joint, piece):
            groups.append([piece])
        elif _belongs(_asked(groups[-1][0]), groups[-1][-1], pieces[i - 1 :]):
            groups[-1][-1] += joint + piece
        else:
            groups[-1].append(piece)
    return groups


def _is_empty(piece: str) -> bool:
    """Whether it only opens a clause: `how`, `and when`, `explain the`."""
    opening = _opening(f"{piece} ")
    return not raw_words(_bare(f"{piece} "[opening.end() :]))


def _asks_anew(joint: str, piece: str) -> bool:
    trailing = joint.strip() == "," and _TRAILING.match(piece)
    return _ASKING.match(piece) is not None and not trailing


def _belongs(head: _Asked, clause: str, after: list[str]) -> bool:
    """Whether a piece only completes the clause before it, so that neither stands alone.

    Args:
        head: The clause that asks.
        clause: The clause so far, `head` itself or one that goes on with it.
        after: Joint, piece, joint, piece and so on, to the end of the sentence.
    """
    joint, piece = after[:2]
    if _PREPOSITION.match(piece) or _ASKING.match(piece):
        return True
    said = _asked(clause).predicate
    if head.lists_topics:
        return _PREPOSITION.search(said) is not None or (
            joint.strip() != "," and _modifies(said, piece)
        )
    # In a list `run a, drain b and stop c` the last verb tells that the others are verbs too.
    parallel = after[1::2] if joint.strip() == "," else [piece]
    if head.is_state or _awaits_verb(clause, piece) or not _any_goes_on(head, parallel):
        return True
    verbs = re.sub(r",|\b(?:and|or)\b", " ", said.lower()).split()
    return len(verbs) == 1 or VERBS.issuperset(verbs)  # they have the object that follows


def _any_goes_on(head: _Asked, pieces: list[str]) -> bool:
    said = itertools.takewhile(lambda piece: not _ASKING.match(piece), pieces)
    return any(_goes_on(head, piece) for piece in said if piece.strip())


def _goes_on(head: _Asked, piece: str) -> bool:
    """Whether a piece says another thing about the subject: `cancel tasks`, `cancels tasks`."""
    verb, *more = piece.lower().split()
    if more and more[0] in ("it", "them"):
        return True
    if head.auxiliary or head.predicate.partition(" ")[0].lower() in VERBS:
        return verb in VERBS
    return bool(more) and verb.endswith("s") and stem(verb) in VERB_STEMS


def _awaits_verb(clause: str, piece: str) -> bool:
    """Whether a clause is still at its subject: `do threads` before `processes share memory`."""
    opening = _opening(clause)
    if re.fullmatch(_DO, opening["aux"] or "", re.I) is None:
        return False
    words = _bare(clause[opening.end() :]).lower().split()[1:]
    verb_follows = not VERBS.isdisjoint(piece.lower().split()[1:])
    return not words or (verb_follows and VERBS.isdisjoint(words))


def _modifies(said: str, piece: str) -> bool:
    """Whether the noun of a piece is meant twice: `read` before `write locks`."""
    last, *more = _bare(said).lower().split() or [""]
    first, *nouns = piece.lower().split()
    if more or not nouns or last in COMMON or _ARTICLE.match(piece) or _PREPOSITION.match(nouns[0]):
        return False
    return not last.endswith("s") and (not last.endswith("ing") or first.endswith("ing"))


def _opening(clause: str) -> re.Match[str]:
    order = _ORDER.match(clause)
    opening = _OPENING.match(clause, order.end() if order else 0)
    if opening is None:
        raise AssertionError("every part of an opening is optional")
    return opening


def _asked(clause: str) -> _Asked:
    """Take a clause apart; the subject ends before a known verb, or with the first noun."""
    opening = _opening(clause)
    word, auxiliary = ((opening[name] or "").lower() for name in ("word", "aux"))
    rest = clause[opening.end() :]
    if auxiliary == "to" or not (word or auxiliary) or re.fullmatch(_BE, auxiliary):
        return _Asked(word, auxiliary, "", rest)
    words = rest.split(" ")
    for i, (before, said) in enumerate(itertools.pairwise(words[:7]), start=1):
        verb = said.strip(",").lower()
        known = verb in VERBS if auxiliary else stem(verb) in VERB_STEMS
        if known and before not in ("and", "or"):  # `do read and write locks`: no verb yet
            return _Asked(word, auxiliary, " ".join(words[:i]), " ".join(words[i:]))
    if not auxiliary:
        return _Asked(word, "", "", rest)
    lead = 2 if _ARTICLE.match(rest) else 1
    return _Asked(word, auxiliary, " ".join(words[:lead]), " ".join(words[lead:]))


def _specific(clause: str) -> tuple[str, ...]:
    """Terms of a clause; of a compound such as `time out` only the whole, its parts mislead."""
    found = terms(raw_words(clause))
    parts = {term for term in found if any(term + particle in found for particle in PARTICLES)}
    return _unique([term for term in found if term not in parts])


def _bare(words: str) -> str:
    """Without the article in front."""
    return _ARTICLE.sub("", words, count=1) if _ARTICLE.match(words) else words


def _title(clause: str) -> str:
    order = _ORDER.match(clause)
    words = _bare(_LOOSE.sub("", clause[order.end() if order else 0 :]).strip(" .,?!:"))
    words = _LOOSE.sub("", words) or clause.strip()
    return words[:1].upper() + words[1:]


def _joined(rest: list[Aspect]) -> Aspect:
    own = _unique([term for aspect in rest for term in aspect.own])
    title = rest[0].title + "".join(f", {a.title[:1].lower()}{a.title[1:]}" for a in rest[1:])
    return Aspect(title, own, rest[0].subject)


def _terms(text: str) -> tuple[str, ...]:
    return _unique(terms(raw_words(text)))


def _unique(found: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(found))
