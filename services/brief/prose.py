"""Prose of a document: its paragraphs by line, in the form in which quotes are compared.

The *canonical form* of a line is its text without comment marks, docstring quotes, list bullets,
tags, and with every run of white space as one space. Extractor and critic both take it from
`canonical_lines`, so "word for word" has one meaning.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from services.brief.hypertext import html_canonical, html_paragraphs
from services.brief.markup import markdown_paragraphs, markup_canonical, rst_paragraphs
from services.brief.python_source import python_canonical, python_paragraphs

if TYPE_CHECKING:
    from services.brief.folder import Document
    from services.brief.span import Span

__all__ = ["Paragraph", "canonical_lines", "canonical_text", "paragraphs"]

_BESIDE = re.compile(
    r"(?:news|what.?s.?new|change|history|todo|licen[sc]e|copying|credits|authors|acks|install)",
    re.IGNORECASE,
)
_BESIDE_WEIGHT = 0.4  # files about a project's past or terms, not about its subject


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Consecutive lines of prose.

    Attributes:
        first_line: 1-based.
        lines: Canonical text of each line from `first_line` on, none empty at either end.
        about: Qualified name or heading it stands under; may be empty.
        weight: 1.0 for documentation, less for remarks beside code.
        leads: Whether it opens what is said about its definition or heading.
    """

    first_line: int
    lines: tuple[str, ...]
    about: str
    weight: float
    leads: bool

    @property
    def last_line(self) -> int:
        """1-based, inclusive."""
        return self.first_line + len(self.lines) - 1


def canonical_lines(document: Document) -> list[str]:
    """Canonical form of every line of a document, same length as `document.lines`."""
    if document.suffix == ".html":
        return html_canonical(document.lines)
    if document.suffix == ".py":
        return [python_canonical(line) for line in document.lines]
    return [markup_canonical(line) for line in document.lines]


def canonical_text(lines: list[str], first_line: int, last_line: int) -> str:
    """Join canonical lines, 1-based and inclusive, with one space; empty ones vanish."""
    text = " ".join(line for line in lines[first_line - 1 : last_line] if line)
    return text.replace("\n", " ")  # blocks that share a line


def paragraphs(document: Document) -> list[Paragraph]:
    """Find the prose of a document, top to bottom: no code, tables, directives or markup.

    A Python file that does not parse has none.
    """
    canonical = canonical_lines(document)
    weight = _BESIDE_WEIGHT if _BESIDE.match(PurePosixPath(document.path).name) else 1.0
    found: list[Paragraph] = []
    opened: set[str] = set()
    for span in _spans(document):
        lines = tuple(canonical[span.first_line - 1 : span.last_line])
        if lines[0] and lines[-1]:
            leads = span.weight == 1.0 and span.about not in opened
            if leads:
                opened.add(span.about)
            worth = span.weight * weight
            found.append(Paragraph(span.first_line, lines, span.about, worth, leads))
    return found


def _spans(document: Document) -> list[Span]:
    if document.suffix == ".html":
        return html_paragraphs(document.lines)
    if document.suffix == ".py":
        return python_paragraphs(document.lines)
    if document.suffix == ".md":
        return markdown_paragraphs(document.lines)
    return rst_paragraphs(document.lines)
