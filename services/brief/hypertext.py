"""Visible text of an HTML file, by line."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING

from services.brief.span import Span

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["html_canonical", "html_paragraphs"]

_HIDDEN = frozenset(
    {"footer", "nav", "noscript", "pre", "script", "style", "svg", "template", "textarea", "title"}
)
_INLINE = frozenset(
    {
        "a", "abbr", "b", "bdi", "bdo", "cite", "code", "data", "del", "dfn", "em", "font", "i",
        "ins", "kbd", "label", "mark", "q", "s", "samp", "small", "span", "strike", "strong",
        "sub", "sup", "time", "tt", "u", "var", "wbr",
    }
)  # fmt: skip
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_HEADINGS = frozenset({"h1", "h2", "h3", "h4", "h5", "h6", "dt"})


def html_canonical(lines: Sequence[str]) -> list[str]:
    """Visible text of each line: tags gone, entities resolved, white space collapsed.

    Blocks that share a line are kept apart by a line feed, so that no sentence runs across them.
    """
    return _read(lines).canonical()


def html_paragraphs(lines: Sequence[str]) -> list[Span]:
    """Paragraphs between block tags, with the heading they stand under; no code, no navigation.

    Blocks that share all their lines are one span.
    """
    spans = {(span.first_line, span.last_line): span for span in reversed(_read(lines).spans)}
    return [spans[key] for key in sorted(spans)]


def _read(lines: Sequence[str]) -> _Visible:
    visible = _Visible(len(lines))
    try:
        visible.feed(_closed("\n".join(lines)))
        visible.close()
    except AssertionError:
        # The parser of the standard library raises this on a malformed `<![…`: what was read
        # until there stands.
        visible.rawdata = ""
    visible.end_block()
    return visible


def _collapsed(line: str) -> str:
    return "\n".join(text for part in line.split("\n") if (text := " ".join(part.split())))


def _closed(text: str) -> str:
    """Take out comments and tags that never end: the parser's time on them grows quadratically."""
    text = _COMMENT.sub(lambda comment: "\n" * comment[0].count("\n"), text)
    tail = text.rfind(">") + 1
    return text[:tail] + text[tail:].replace("<", "&lt;")


class _Visible(HTMLParser):
    def __init__(self, line_count: int) -> None:
        super().__init__(convert_charrefs=False)  # so that a piece of text knows its own line
        self.spans: list[Span] = []
        self._text: list[list[str]] = [[] for _ in range(line_count)]
        self._hidden: list[str] = []
        self._heading: list[str] | None = None
        self._about = ""
        self._block: list[int] = []

    def canonical(self) -> list[str]:
        return [_collapsed("".join(pieces)) for pieces in self._text]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _HIDDEN:
            self._hidden.append(tag)
        if tag not in _INLINE:
            self.end_block()
        if tag in _HEADINGS:
            self._heading = []

    def handle_endtag(self, tag: str) -> None:
        if tag in self._hidden:
            while self._hidden.pop() != tag:  # a tag left open inside ends with it
                pass
        if tag not in _INLINE:
            self.end_block()
        if tag in _HEADINGS and self._heading is not None:
            self._about = " ".join("".join(self._heading).replace("¶", "").split())
            self._heading = None

    def handle_data(self, data: str) -> None:
        if self._hidden:
            return
        first = self.getpos()[0]
        for number, piece in enumerate(data.split("\n"), start=first):
            self._write(number, piece)

    def handle_entityref(self, name: str) -> None:
        self._reference(f"&{name};")

    def handle_charref(self, name: str) -> None:
        self._reference(f"&#{name};")

    def end_block(self) -> None:
        """End the open paragraph and keep its words apart from the next one's."""
        if self._block:
            if self._heading is None:
                self.spans.append(Span(self._block[0], self._block[-1], self._about))
            self._text[self._block[-1] - 1].append("\n")
        self._block = []

    def _reference(self, reference: str) -> None:
        if not self._hidden:
            self._write(self.getpos()[0], html.unescape(reference))

    def _write(self, number: int, piece: str) -> None:
        self._text[number - 1].append(piece)
        if self._heading is not None:
            self._heading.append(piece)
        if piece.strip():
            self._block.append(number)
