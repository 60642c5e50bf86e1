"""The brief as Markdown, and the reading of such Markdown."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from services.brief.message import Answer, Citation, Draft, WriteRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.brief.message import Defect, Quote

__all__ = ["NOTHING_FOUND", "NOT_READ", "CitedQuote", "Source", "compose", "parse", "revise"]

NOTHING_FOUND = "Nothing found about this in the documents."
NOT_READ = "Nobody could read the documents about this:"
SHA256_SHOWN = 12
"""Hexadecimal digits of a source's hash that the brief prints."""

_QUOTES = 3
_QUOTES_IF_ONE_ASPECT = 4
_QUOTE_LINE = re.compile(r"- (?:\*\*.*:\*\* )?“(?P<text>.*)” \[(?P<number>\d+)\]$")
_SOURCE_LINE = re.compile(
    r"- \[(?P<number>\d+)\] (?P<fence>`+)(?P<path>.+)(?P=fence), lines? (?P<first>\d+)"
    r"(?:\u2013(?P<last>\d+))?, sha256 `(?P<sha256>[0-9a-f]+)`$"
)
_ACTIVE = re.compile(r"([\\`*_\[\]<>#|])")

_Key = tuple[str, int, int, str]


@dataclass(frozen=True, slots=True)
class CitedQuote:
    """A quote as it stands in the Markdown."""

    text: str
    number: int


@dataclass(frozen=True, slots=True)
class Source:
    """A source as it stands in the Markdown; `sha256` is the beginning of the hash."""

    number: int
    path: str
    first_line: int
    last_line: int
    sha256: str


def compose(request: WriteRequest, *, round: int) -> Draft:
    """Write the brief.

    Args:
        request: Quotes to choose from, best first.
        round: How many times it was written, >= 1.

    Returns:
        A draft: the best quotes per aspect, numbered in the order in which the text cites them.
    """
    limit = _QUOTES if len(request.findings) > 1 else _QUOTES_IF_ONE_ASPECT
    answers = tuple(
        Answer(title=f.title, quotes=f.quotes[:limit], unread=f.unread) for f in request.findings
    )
    citations = _citations(answers)
    return Draft(
        request=request,
        answers=answers,
        citations=citations,
        markdown=_markdown(request.question, answers, citations),
        round=round,
    )


def revise(draft: Draft, defects: Sequence[Defect]) -> Draft:
    """Write the brief again without the quotes that are to blame; spare ones take their place.

    If a file changed, nothing from it is quoted any more.
    """
    blamed = [defect for defect in defects if defect.quote is not None]
    changed = {d.quote.path for d in blamed if d.kind == "hash" and d.quote}
    wrong = [d.quote for d in blamed]
    findings = tuple(
        f.model_copy(
            update={
                "quotes": tuple(q for q in f.quotes if q not in wrong and q.path not in changed)
            }
        )
        for f in draft.request.findings
    )
    request = draft.request.model_copy(update={"findings": findings})
    return compose(request, round=draft.round + 1)


def parse(markdown: str) -> tuple[list[CitedQuote], list[Source]]:
    """Read quotes and sources back from a brief, in the order of the text."""
    quotes: list[CitedQuote] = []
    sources: list[Source] = []
    for line in markdown.split("\n"):
        if quote := _QUOTE_LINE.match(line):
            quotes.append(CitedQuote(quote["text"], int(quote["number"])))
        elif source := _SOURCE_LINE.match(line):
            first = int(source["first"])
            last = int(source["last"] or first)
            path, number = source["path"].strip(), int(source["number"])
            sources.append(Source(number, path, first, last, source["sha256"]))
    return quotes, sources


def _citations(answers: Sequence[Answer]) -> tuple[Citation, ...]:
    cited = [answer.quotes[0] for answer in answers if answer.quotes] if _sums_up(answers) else []
    cited += [quote for answer in answers for group in _grouped(answer) for quote in group]
    keys = dict.fromkeys(_key(quote) for quote in cited)
    return tuple(
        Citation(number=n, path=path, first_line=first, last_line=last, sha256=sha256)
        for n, (path, first, last, sha256) in enumerate(keys, start=1)
    )


def _markdown(question: str, answers: Sequence[Answer], citations: Sequence[Citation]) -> str:
    numbers = {(c.path, c.first_line, c.last_line, c.sha256): c.number for c in citations}
    parts = [f"# {_plain(question)}"]
    if _sums_up(answers):
        short = [
            f"- **{_plain(answer.title)}:** {_cited(answer.quotes[0], numbers)}"
            for answer in answers
            if answer.quotes
        ]
        parts += ["## In short", "\n".join(short)]
    for answer in answers:
        parts += [f"## {_plain(answer.title)}", *_section(answer, numbers)]
    parts += [
        "## Sources",
        "Every sentence in quotation marks stands word for word in the lines given here.",
        "\n".join(_source(citation) for citation in citations),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(answer: Answer, numbers: dict[_Key, int]) -> list[str]:
    if answer.unread:
        return [f"{NOT_READ} {_plain(answer.unread)}"]
    if not answer.quotes:
        return [NOTHING_FOUND]
    parts: list[str] = []
    for group in _grouped(answer):
        about = f", {_code(group[0].about)}" if group[0].about else ""
        parts.append(f"{_code(group[0].path)}{about}:")
        parts.append("\n".join(f"- {_cited(quote, numbers)}" for quote in group))
    return parts


def _grouped(answer: Answer) -> list[list[Quote]]:
    """Quotes by the place they come from: best place first, in the order of the file."""
    places = list(dict.fromkeys((quote.path, quote.about) for quote in answer.quotes))
    ordered = sorted(
        answer.quotes, key=lambda q: (places.index((q.path, q.about)), q.first_line, q.last_line)
    )
    return [list(group) for _, group in groupby(ordered, key=lambda q: (q.path, q.about))]


def _sums_up(answers: Sequence[Answer]) -> bool:
    """One quote needs no summary of itself."""
    return sum(len(answer.quotes) for answer in answers) > 1


def _key(quote: Quote) -> _Key:
    return quote.path, quote.first_line, quote.last_line, quote.sha256


def _cited(quote: Quote, numbers: dict[_Key, int]) -> str:
    return f"“{quote.text}” [{numbers[_key(quote)]}]"


def _source(citation: Citation) -> str:
    lines = (
        f"line {citation.first_line}"
        if citation.first_line == citation.last_line
        else f"lines {citation.first_line}\u2013{citation.last_line}"
    )
    sha256 = citation.sha256[:SHA256_SHOWN]
    return f"- [{citation.number}] {_code(citation.path)}, {lines}, sha256 `{sha256}`"


def _plain(text: str) -> str:
    """A person's words, shown as they are: no character of them is Markdown."""
    return _ACTIVE.sub(r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    return f"`` {text} ``" if "`" in text else f"`{text}`"
