"""Paragraphs of Markdown, reStructuredText and plain text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.brief.span import Span

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["markdown_paragraphs", "markup_canonical", "rst_paragraphs", "text_paragraphs"]

_BULLET = re.compile(r"\s*(?:[-*+•]|\d{1,3}[.)]|#\.)\s+(?=\S)")
_MARKS = re.compile(r"^\s*(?:>\s?)*\s*(?:(?:[-*+•]|\d{1,3}[.)]|#\.|#{1,6})\s+(?=\S))?")
_RULE = re.compile(r"\s*([=\-~^\"'`#*+.:_])\1{2,}\s*$")
_TABLE = re.compile(r"\s*(?:\||\+[-=+]{3,}|={2,} +=|:?-{3,}:?\s*\|)")
_FIELD = re.compile(r"\s*(?::[^:`]+:(?!`)|@\w+\b)")
_DIRECTIVE = re.compile(r"\s*\.\. (?:([\w:-]+)::\s*(.*)|.*)$")
_FENCE = re.compile(r"\s*(```+|~~~+)")
_HEADING = re.compile(r" {0,3}#{1,6}\s+(.*?)\s*#*\s*$")
_NOT_PROSE_MD = re.compile(r"\s*(?:<[/!a-zA-Z]|\[[^\]]+\]:\s|!\[|\[!\[|\||:?-{3,}:?\s*\|)")
_SPOKEN = frozenset({"note", "warning", "tip", "important", "hint", "caution", "attention"})
_DEFINING = frozenset(
    {
        "attribute", "class", "classmethod", "currentmodule", "data", "decorator", "envvar",
        "exception", "function", "method", "module", "option", "opcode", "property",
        "staticmethod", "type",
    }
)  # fmt: skip


def markup_canonical(line: str) -> str:
    """Canonical form of one line: without quote marks, bullet or heading marks."""
    return " ".join(line[_match_end(_MARKS, line) :].split())


def rst_paragraphs(lines: Sequence[str]) -> list[Span]:
    """Paragraphs of reStructuredText or plain text, with the section they stand under."""
    return text_paragraphs(lines, first_line=1, about="")


def text_paragraphs(lines: Sequence[str], *, first_line: int, about: str) -> list[Span]:
    """Paragraphs of lines that follow the habits of reStructuredText.

    Args:
        lines: Text, with its indentation.
        first_line: Number of `lines[0]` in its file, 1-based.
        about: What stands above the first heading.

    Returns:
        Top to bottom, without literal blocks, directives, tables, fields and headings.
    """
    return _Reader(about, first_line).read(lines)


def markdown_paragraphs(lines: Sequence[str]) -> list[Span]:
    """Paragraphs of Markdown, with the heading they stand under; no code, table, HTML or link."""
    reader = _Reader("", 1)
    fence = ""
    for i, line in enumerate(lines):
        opened = _FENCE.match(line)
        if fence:
            if opened and opened[1].startswith(fence):
                fence = ""
            continue
        if opened:
            fence = opened[1]
            reader.close()
        elif heading := _HEADING.match(line):
            reader.close()
            reader.about = heading[1]
        elif _RULE.match(line) and i and lines[i - 1].strip():
            reader.underline(lines[i - 1])
        elif (not reader.is_open and line.startswith(("    ", "\t"))) or _NOT_PROSE_MD.match(line):
            reader.close()
        else:
            reader.feed(i, line)
    reader.close()
    return reader.spans


def _match_end(pattern: re.Pattern[str], line: str) -> int:
    match = pattern.match(line)
    return match.end() if match else 0


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


@dataclass(frozen=True, slots=True)
class _Skip:
    """Lines indented deeper than this belong to something that is not prose."""

    indent: int


class _Reader:
    """Collects lines into paragraphs; a blank line, a bullet or a new indentation opens one."""

    def __init__(self, about: str, first_line: int) -> None:
        self.about = about
        self.spans: list[Span] = []
        self._number = first_line
        self._open: list[int] = []  # indices of the open paragraph's lines
        self._indents: list[int] = []
        self._skip: _Skip | None = None

    @property
    def is_open(self) -> bool:
        return bool(self._open)

    def read(self, lines: Sequence[str]) -> list[Span]:
        for i, line in enumerate(lines):
            if self._skipped(line):
                continue
            if _RULE.match(line) and i and lines[i - 1].strip() and len(self._open) == 1:
                self.underline(lines[i - 1])
            elif directive := _DIRECTIVE.match(line):
                self._direct(directive, line)
            elif _RULE.match(line) or _TABLE.match(line) or _FIELD.match(line):
                self.close()
            else:
                self.feed(i, line)
                self._literal(line)
        self.close()
        return self.spans

    def feed(self, index: int, line: str) -> None:
        """Add one line; a blank one ends the paragraph."""
        if not line.strip():
            self.close()
            return
        bullet = _match_end(_BULLET, line)
        if self._open and (bullet or self._breaks(_indent(line))):
            self.close()
        self._open.append(index)
        self._indents.append(bullet or _indent(line))
        if line.rstrip().endswith(":"):  # what follows is listed, not said
            self.close()

    def underline(self, title: str) -> None:
        """Take the line before as a heading: it is no paragraph."""
        self._open, self._indents = [], []
        self.about = " ".join(title.split())

    def close(self) -> None:
        """End the open paragraph."""
        if self._open:
            first, last = self._open[0] + self._number, self._open[-1] + self._number
            self.spans.append(Span(first, last, self.about))
        self._open, self._indents = [], []

    def _breaks(self, indent: int) -> bool:
        if len(self._indents) == 1:  # a paragraph's first line may be indented, or not at all
            return indent > self._indents[0] + 1
        return abs(indent - self._indents[1]) > 1

    def _skipped(self, line: str) -> bool:
        if self._skip is None:
            return False
        if not line.strip() or _indent(line) > self._skip.indent:
            return True
        self._skip = None
        return False

    def _literal(self, line: str) -> None:
        """Two colons at the end of a line announce code."""
        if line.rstrip().endswith("::"):
            self.close()
            self._skip = _Skip(_indent(line))

    def _direct(self, directive: re.Match[str], line: str) -> None:
        self.close()
        name = (directive[1] or "").removeprefix("py:").removeprefix("c:")
        if name in _DEFINING:
            self.about = directive[2].split("(")[0].strip()
        elif name not in _SPOKEN:
            self._skip = _Skip(_indent(line))
