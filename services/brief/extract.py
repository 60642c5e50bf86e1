"""The best sentences of ranked passages."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from services.brief.folder import Unread, open_document
from services.brief.message import Findings, Notes, Passage, Quote, RankedAspect
from services.brief.prose import Paragraph, canonical_text, paragraphs
from services.brief.rank import MIN_COVERAGE, place_terms
from services.brief.sentence import Form, Sentence, continues, ends_whole, form_of, sentences
from services.brief.words import coverage, raw_words, terms

__all__ = ["MAX_CANDIDATES", "extract", "join", "same_saying"]

MAX_CANDIDATES = 8
"""Most quotes per aspect; a brief shows fewer, the rest replaces what the critic refuses."""

_SAME = 0.7  # share of common terms from which two sentences say the same
_LEAST_OF_BEST = 0.6  # a quote scored below this share of the aspect's best is padding
_ANSWERS_MORE = 0.1  # relevance by which a note must surpass a well-formed sentence
_FIRST_SENTENCE = 0.15
_LEADING = 0.8
_MAX_JOINED_CHARS = 400
_PASSAGE = 0.35
_SHORT_WORDS = 8
_SHORT = 0.85
_PRIVATE = 0.7  # what a leading underscore hides is seldom what a reader asks for


# Asks for a name, a date, a figure: in notes these stand in items more than in sentences.
_FACT = re.compile(r"(?:who|whom|whose|when|where|which|how (?:long|many|much|often|old))\b", re.I)
_Prose = tuple[str, dict[int, Paragraph]]
"""A file's hash, and its paragraphs by first line."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    quote: Quote
    form: Form
    relevance: float
    notes: bool


@dataclass(frozen=True, slots=True)
class _Scored:
    quote: Quote
    aspect: int


def extract(root: str, aspect: RankedAspect) -> Notes:
    """Find the sentences that answer one aspect.

    A file that changed since it was ranked, or cannot be read any more, is passed over and counted.

    Args:
        root: Absolute path of the folder.
        aspect: From `rank.rank`.
    """
    ranked = {passage.path: passage.sha256 for passage in aspect.passages}
    prose = {path: _prose(root, path) for path in sorted(ranked)}
    candidates = _candidates(aspect, prose)
    usable = [candidate for candidate in candidates if _is_usable(candidate)]
    return Notes(
        title=aspect.title,
        quotes=tuple(_chosen(aspect, usable or candidates)),
        loose=not usable,
        files_changed=sum(prose[path][0] != sha256 for path, sha256 in ranked.items()),
    )


def join(notes: Sequence[Notes]) -> tuple[Findings, ...]:
    """Put together what several readers noted, each about one aspect.

    A sentence goes to the one aspect it answers best; of sentences that say the same, the best
    scored stays. Loose remarks count only if nobody has anything better.

    Returns:
        One per aspect, in order; its quotes best first, at most `MAX_CANDIDATES`.
    """
    only_loose = all(note.loose for note in notes)
    scored = [
        _Scored(quote, i)
        for i, note in enumerate(notes)
        if only_loose or not note.loose
        for quote in note.quotes
    ]
    scored.sort(key=lambda s: (-s.quote.score, s.quote.path, s.quote.first_line, s.aspect))
    kept = _without_repeats(scored)
    return tuple(
        Findings(title=note.title, quotes=_best([s.quote for s in kept if s.aspect == i]))
        for i, note in enumerate(notes)
    )


def same_saying(one: str, other: str) -> bool:
    """Whether two sentences say nearly the same: equal, one within the other, or by their words."""
    if one in other or other in one:
        return True
    a, b = frozenset(terms(raw_words(one))), frozenset(terms(raw_words(other)))
    return bool(a or b) and len(a & b) >= _SAME * len(a | b)


def _prose(root: str, path: str) -> _Prose:
    document = open_document(root, path)
    if isinstance(document, Unread):
        return "", {}
    return document.sha256, {p.first_line: p for p in paragraphs(document)}


def _is_usable(candidate: _Candidate) -> bool:
    """Loose remarks in code are the last resort; loose notes are how people write them."""
    return candidate.notes or candidate.form < Form.ITEM


def _chosen(aspect: RankedAspect, candidates: Sequence[_Candidate]) -> list[Quote]:
    """The sentences of the best form there is, and notes that answer more than any of them."""
    best = min((c.form for c in candidates), default=Form.LOOSE)
    most = max((c.relevance for c in candidates if c.form == best), default=0.0)
    fact = _FACT.match(aspect.title) is not None
    return [
        c.quote
        for c in candidates
        if c.form == best
        or (c.notes and c.relevance >= most + _ANSWERS_MORE)
        or (c.notes and fact and c.form <= Form.ITEM and c.relevance >= most)
    ]


def _candidates(aspect: RankedAspect, prose: dict[str, _Prose]) -> list[_Candidate]:
    """Every sentence of an aspect's passages that is relevant and can be quoted at all."""
    return [
        candidate
        for passage in aspect.passages
        for candidate in _candidates_of(aspect, passage, prose[passage.path])
    ]


def _candidates_of(aspect: RankedAspect, passage: Passage, found: _Prose) -> list[_Candidate]:
    sha256, prose = found
    paragraph = prose.get(passage.first_line)
    if sha256 != passage.sha256 or paragraph is None:
        return []
    notes = not passage.path.lower().endswith(".py")
    place = frozenset(place_terms(passage.path, paragraph.about))
    strength = passage.score / max(p.score for p in aspect.passages)
    said = sentences(paragraph)
    candidates: list[_Candidate] = []
    for sentence, after in zip(said, [*said[1:], _next(paragraph, prose)], strict=True):
        leads = sentence.place == 0 and paragraph.leads
        relevance = _relevance(sentence.text, place, aspect, leads=leads)
        closes = sentence is said[-1]
        announced = _with_items(sentence, paragraph, prose) if closes else sentence
        form = form_of(announced.text, notes=notes, closes=closes)
        if not relevance or form is None or announced.text.endswith(":"):
            continue
        score = relevance + _PASSAGE * strength + (_FIRST_SENTENCE if leads else 0.0)
        whole = announced if announced is not sentence else _with_next(sentence, after)
        quote = Quote(
            text=whole.text,
            path=passage.path,
            first_line=whole.first_line,
            last_line=whole.last_line,
            sha256=passage.sha256,
            about=paragraph.about,
            score=round(score * _standing(whole.text, paragraph, notes=notes), 4),
        )
        candidates.append(_Candidate(quote, form, relevance, notes))
    return candidates


def _next(paragraph: Paragraph, prose: dict[int, Paragraph]) -> Sentence | None:
    """First sentence of the paragraph that follows after one blank line, in the same text."""
    after = prose.get(paragraph.last_line + 2)
    if after is None or after.about != paragraph.about or after.weight != paragraph.weight:
        return None
    return sentences(after)[0]


def _with_items(sentence: Sentence, paragraph: Paragraph, prose: dict[int, Paragraph]) -> Sentence:
    """Join to a paragraph's last sentence what its colon announces: `Decided:` and the items."""
    if not sentence.text.endswith(":"):
        return sentence
    item = prose.get(paragraph.last_line + 1) or prose.get(paragraph.last_line + 2)
    while item is not None and item.about == paragraph.about:
        said = canonical_text(list(item.lines), 1, len(item.lines))
        text = f"{sentence.text} {said}"
        if len(text) > _MAX_JOINED_CHARS:
            break
        sentence = replace(sentence, text=text, last_line=item.last_line)
        item = prose.get(item.last_line + 1)
    return sentence


def _with_next(sentence: Sentence, after: Sentence | None) -> Sentence:
    """Join what belongs together: `Request that ... . This arranges ...`."""
    if after is None or not ends_whole(sentence.text) or not continues(after.text):
        return sentence
    text = f"{sentence.text} {after.text}"
    if len(text) > _MAX_JOINED_CHARS:
        return sentence
    return replace(sentence, text=text, last_line=after.last_line)


def _standing(text: str, paragraph: Paragraph, *, notes: bool) -> float:
    """What a sentence is worth whatever is asked, 0.0 to 1.0."""
    private = any(re.match(r"_(?!_)", name) for name in paragraph.about.split("."))
    short = not notes and len(text.split()) < _SHORT_WORDS
    pointing = re.search(r"\bthis (?:class|function|method|module)\b", text) is not None
    return (
        paragraph.weight
        * (_SHORT if short else 1.0)
        * (_SHORT if pointing else 1.0)
        * (_PRIVATE if private else 1.0)
    )


def _relevance(text: str, place: frozenset[str], aspect: RankedAspect, *, leads: bool) -> float:
    """0.0 to 1.0; what the place says counts, but less than what the sentence says itself.

    A sentence that opens a docstring or a section speaks about the place without naming it.
    """
    said = frozenset(terms(raw_words(text)))
    alone = coverage(said, aspect.weights, aspect.own)
    placed = coverage(said | place, aspect.weights, aspect.own)
    if leads:
        alone = max(alone, _LEADING * coverage(place, aspect.weights, aspect.own))
    if not alone or placed < MIN_COVERAGE:
        return 0.0
    return 0.7 * alone + 0.3 * placed


def _without_repeats(scored: Sequence[_Scored]) -> list[_Scored]:
    """Keep each saying once; quadratic in the few hundred sentences that are left here."""
    kept: list[_Scored] = []
    for candidate in scored:
        if not any(same_saying(candidate.quote.text, other.quote.text) for other in kept):
            kept.append(candidate)
    return kept


def _best(quotes: Sequence[Quote]) -> tuple[Quote, ...]:
    return tuple(
        quote
        for quote in quotes[:MAX_CANDIDATES]
        if quote.score >= _LEAST_OF_BEST * quotes[0].score
    )
