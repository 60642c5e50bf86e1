"""Passages of a folder ranked per aspect with BM25."""

# rank-bm25 has no type hints, and its scores are a numpy array.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from rank_bm25 import BM25Plus

from services.brief.folder import Listing, Unread, open_document
from services.brief.message import FolderStats, Passage, RankedAspect
from services.brief.prose import paragraphs
from services.brief.words import (
    RELATED,
    RELATED_WEIGHT,
    VERB_STEMS,
    coverage,
    raw_words,
    terms,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from services.brief.folder import Document
    from services.brief.question import Aspect

__all__ = ["MIN_COVERAGE", "Index", "index_folder", "place_terms", "rank"]

MIN_COVERAGE = 0.45
"""Share of an aspect's weight that a passage must speak about; a lone common word is no answer."""

_PASSAGES = 24  # per aspect
_PASSAGES_PER_FILE = 6
_MIN_WORDS = 5  # of a remark in code; in a text even `Launch: May` answers
_LEADS = 1.25  # what opens a docstring or a section says what it is about
_OTHER = ""  # stands for every word that is not asked about: BM25 only counts those


@dataclass(frozen=True, slots=True)
class _Entry:
    path: str
    sha256: str
    first_line: int
    last_line: int
    weight: float
    terms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Index:
    """Every passage of a folder, reduced to the terms asked about, in path and line order."""

    entries: tuple[_Entry, ...]
    folder: FolderStats


def place_terms(path: str, about: str) -> list[str]:
    """Terms that say where a passage stands: folders, file name, definition or heading."""
    return terms(raw_words(f"{PurePosixPath(path).with_suffix('')} {about}"))


def index_folder(root: str, listing: Listing, aspects: Sequence[Aspect]) -> Index:
    """Read every document of a folder.

    Args:
        root: Absolute path.
        listing: What to read, from `list_documents`.
        aspects: What is asked; other words are only counted.

    Returns:
        The passages; files that cannot be read are counted, not raised.
    """
    named = frozenset(term for aspect in aspects for term in (*aspect.own, *aspect.subject))
    asked = named.union(*(RELATED.get(term, frozenset()) for term in sorted(named)))
    entries: list[_Entry] = []
    skipped = listing.skipped
    for path in listing.paths:
        document = open_document(root, path)
        if isinstance(document, Unread):
            skipped += 1
        else:
            entries.extend(_entries(document, asked))
    read = len(listing.paths) + listing.skipped - skipped
    stats = FolderStats(files_read=read, files_skipped=skipped, passages=len(entries))
    return Index(tuple(entries), stats)


def rank(index: Index, aspects: Sequence[Aspect]) -> tuple[RankedAspect, ...]:
    """Choose the passages that speak about each aspect.

    Returns:
        One per aspect, in order; its passages best first (ties by path and line), at most 24 and 6
        a file, each with a score > 0. A term that no passage has keeps its full weight: an aspect
        that is mostly about unknown words finds nothing. Only if all find nothing, a verb
        that nobody says (`decide about storage`) is let go, and the thing alone looked for.
    """
    if not index.entries:
        return tuple(_ranked(aspect, dict.fromkeys(aspect.own, 0.0), ()) for aspect in aspects)
    bm25 = BM25Plus([entry.terms for entry in index.entries])
    counts = Counter(term for entry in index.entries for term in set(entry.terms))
    ranked = tuple(_rank_one(index, bm25, counts, aspect) for aspect in aspects)
    if any(aspect.passages for aspect in ranked):
        return ranked
    return tuple(_rank_one(index, bm25, counts, _thing(aspect, counts)) for aspect in aspects)


def _entries(document: Document, asked: frozenset[str]) -> Iterator[_Entry]:
    for paragraph in paragraphs(document):
        words = raw_words(" ".join(paragraph.lines))
        if len(words) < (_MIN_WORDS if document.suffix == ".py" else 1):
            continue
        place = place_terms(document.path, paragraph.about)
        found = [*place, *(place if paragraph.leads else ()), *terms(words)]
        if not found:  # only common words; of passages without any term BM25 has no average
            continue
        yield _Entry(
            path=document.path,
            sha256=document.sha256,
            first_line=paragraph.first_line,
            last_line=paragraph.last_line,
            weight=paragraph.weight * (_LEADS if paragraph.leads else 1.0),
            terms=tuple(term if term in asked else _OTHER for term in found),
        )


def _rank_one(index: Index, bm25: BM25Plus, counts: Counter[str], aspect: Aspect) -> RankedAspect:
    size = len(index.entries)
    weights = {
        term: math.log((size + 1) / max(1, counts[term])) for term in (*aspect.own, *aspect.subject)
    }
    subject = frozenset(term for term in aspect.subject if counts[term])
    scores = _scores(bm25, aspect)
    passing = _passing(index, aspect, weights, scores)
    about = [(score, i) for score, i in passing if not subject.isdisjoint(index.entries[i].terms)]
    rarest = max(weights[term] for term in aspect.own)
    if not about and any(weights[term] > rarest for term in subject):
        # Nobody says both: who says the rarer word is closer.
        aspect = replace(aspect, own=(*aspect.subject, *aspect.own), subject=())
        about = _passing(index, aspect, weights, scores)
    # Without the subject only if nobody names it: a small folder need not say what all of it is on.
    best = sorted(about or passing, key=lambda item: (-item[0], item[1]))
    return _ranked(aspect, weights, _spread(index, best))


def _thing(aspect: Aspect, counts: Counter[str]) -> Aspect:
    """An aspect without the verbs that nobody says, unless it has nothing else."""
    own = tuple(term for term in aspect.own if counts[term] or term not in VERB_STEMS)
    return replace(aspect, own=own) if own else aspect


def _scores(bm25: BM25Plus, aspect: Aspect) -> list[float]:
    """BM25 score of every passage, 0.0 for one without any term."""
    related = sorted({near for term in aspect.own for near in RELATED.get(term, frozenset())})
    scores = _surplus(bm25, [*aspect.own, *aspect.subject])
    near = _surplus(bm25, related)
    return [score + RELATED_WEIGHT * other for score, other in zip(scores, near, strict=True)]


def _surplus(bm25: BM25Plus, query: Sequence[str]) -> list[float]:
    """Scores above the constant that BM25+ gives even a passage without any term of the query."""
    constant = bm25.delta * sum(bm25.idf.get(term) or 0.0 for term in query)
    return [round(float(score) - constant, 9) for score in bm25.get_scores(query)]


def _passing(
    index: Index, aspect: Aspect, weights: dict[str, float], scores: Sequence[float]
) -> list[tuple[float, int]]:
    """Score and place of the passages that speak about enough of an aspect."""
    return [
        (round(score * entry.weight, 4), i)
        for i, (score, entry) in enumerate(zip(scores, index.entries, strict=True))
        if score and coverage(frozenset(entry.terms), weights, aspect.own) >= MIN_COVERAGE
    ]


def _spread(index: Index, best: Sequence[tuple[float, int]]) -> tuple[Passage, ...]:
    """Take the best passages, but not all from one file."""
    chosen: list[Passage] = []
    per_file: Counter[str] = Counter()
    for score, i in best:
        entry = index.entries[i]
        if per_file[entry.path] < _PASSAGES_PER_FILE:
            per_file[entry.path] += 1
            chosen.append(
                Passage(
                    path=entry.path,
                    first_line=entry.first_line,
                    last_line=entry.last_line,
                    sha256=entry.sha256,
                    score=score,
                )
            )
        if len(chosen) == _PASSAGES:
            break
    return tuple(chosen)


def _ranked(
    aspect: Aspect, weights: dict[str, float], passages: tuple[Passage, ...]
) -> RankedAspect:
    return RankedAspect(
        title=aspect.title,
        weights={term: round(weight, 4) for term, weight in weights.items()},
        own=aspect.own,
        passages=passages,
    )
