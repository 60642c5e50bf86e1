"""Does a brief keep what it promises: quotes that stand word for word where it says they stand."""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from services.brief.compose import compose, parse
from services.brief.extract import same_saying
from services.brief.folder import Unread, open_document
from services.brief.message import Defect, Draft
from services.brief.prose import canonical_lines, canonical_text, paragraphs
from services.brief.sentence import ends_whole

__all__ = ["Shelf", "check_markdown", "review", "stands_at"]


@dataclass(frozen=True, slots=True)
class _Opened:
    sha256: str
    lines: list[str]
    ends: frozenset[int]  # numbers of the lines that end a paragraph

    def has(self, text: str, first_line: int, last_line: int) -> bool:
        return stands_at(self.lines, text, first_line, last_line, ends=self.ends)


class Shelf:
    """Files of one folder, each opened once and kept in canonical form."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._opened: dict[str, _Opened | Unread] = {}

    def open(self, path: str) -> _Opened | Unread:
        """Canonical lines and hash of a file, or why it cannot be read."""
        if path not in self._opened:
            document = open_document(self._root, path)
            self._opened[path] = (
                document
                if isinstance(document, Unread)
                else _Opened(
                    document.sha256,
                    canonical_lines(document),
                    frozenset(paragraph.last_line for paragraph in paragraphs(document)),
                )
            )
        return self._opened[path]


def stands_at(
    lines: list[str], text: str, first_line: int, last_line: int, *, ends: Collection[int] = ()
) -> bool:
    """Whether whole sentences stand word for word at these lines, and at no fewer of them.

    A text without a full stop, such as an item of a list, is whole if its paragraph ends with it.

    Args:
        lines: Canonical lines of a file.
        text: A quote in canonical form.
        first_line: 1-based; the text must begin in it.
        last_line: 1-based, inclusive; the text must end in it.
        ends: Numbers of the lines that end a paragraph.
    """
    if not 1 <= first_line <= last_line <= len(lines) or not text or text != text.strip():
        return False
    stopped = ends_whole(text)
    if not stopped and last_line not in ends:
        return False
    whole = canonical_text(lines, first_line, last_line)
    opening, closing = lines[first_line - 1], lines[last_line - 1]
    last_start = len(opening) - 1
    least_end = len(whole) - len(closing) + 1 if stopped else len(whole)
    at = whole.find(text)
    while at != -1:
        end = at + len(text)
        if at <= last_start and end >= least_end and _is_whole(whole, at, end):
            return True
        at = whole.find(text, at + 1)
    return False


def review(draft: Draft) -> tuple[Defect, ...]:
    """Check a draft against its sources.

    Returns:
        What is wrong, in the order of the brief; empty if it may be handed out.
    """
    shelf = Shelf(draft.request.docs)
    return (
        *_wrong_quotes(draft, shelf),
        *_repeats(draft),
        *_uncovered(draft),
        *_wrong_text(draft),
    )


def check_markdown(root: str, markdown: str) -> list[str]:
    """Check a finished brief from its text alone.

    Args:
        root: Absolute path of the folder it quotes from.
        markdown: The brief.

    Returns:
        One sentence per quote that does not stand where it is cited; empty if all do.
    """
    quotes, found = parse(markdown)
    sources = {source.number: source for source in found}
    shelf = Shelf(root)
    wrong: list[str] = []
    for quote in quotes:
        source = sources.get(quote.number)
        if source is None:
            wrong.append(f"[{quote.number}] is not among the sources")
            continue
        file = shelf.open(source.path)
        if isinstance(file, Unread):
            wrong.append(f"[{quote.number}] `{source.path}` cannot be read: {file.reason}")
        elif not file.sha256.startswith(source.sha256):
            wrong.append(f"[{quote.number}] `{source.path}` has changed")
        elif not file.has(quote.text, source.first_line, source.last_line):
            wrong.append(f"[{quote.number}] is not at the cited lines of `{source.path}`")
    return wrong


def _is_whole(text: str, start: int, end: int) -> bool:
    """Nothing clings to either end, not even a quotation mark."""
    return not text[max(0, start - 1) : start].strip() and not text[end : end + 1].strip()


def _wrong_quotes(draft: Draft, shelf: Shelf) -> Iterable[Defect]:
    for answer in draft.answers:
        for quote in answer.quotes:
            file = shelf.open(quote.path)
            where = f"`{quote.path}`, lines {quote.first_line} to {quote.last_line}"
            if isinstance(file, Unread):
                detail = f"{where}: cannot be read any more: {file.reason}"
                yield Defect(kind="hash", aspect=answer.title, quote=quote, detail=detail)
            elif file.sha256 != quote.sha256:
                detail = f"{where}: the file has changed since it was quoted"
                yield Defect(kind="hash", aspect=answer.title, quote=quote, detail=detail)
            elif not file.has(quote.text, quote.first_line, quote.last_line):
                detail = f"{where}: the quote does not stand there word for word"
                yield Defect(kind="words", aspect=answer.title, quote=quote, detail=detail)


def _repeats(draft: Draft) -> Iterable[Defect]:
    said: list[str] = []
    for answer in draft.answers:
        for quote in answer.quotes:
            if any(same_saying(quote.text, other) for other in said):
                detail = f"says again what the brief already says: {quote.text!r}"
                yield Defect(kind="repeat", aspect=answer.title, quote=quote, detail=detail)
            said.append(quote.text)


def _uncovered(draft: Draft) -> Iterable[Defect]:
    """Every aspect has a section; an empty one is honest only if there was nothing to quote."""
    titles = Counter(answer.title for answer in draft.answers)
    for found in draft.request.findings:
        if not titles[found.title]:
            detail = f"the aspect {found.title!r} has no section"
            yield Defect(kind="uncovered", aspect=found.title, detail=detail)
    for answer, found in zip(draft.answers, draft.request.findings, strict=False):
        if found.quotes and not answer.quotes:
            detail = f"the aspect {answer.title!r} has no answer although one was found"
            yield Defect(kind="uncovered", aspect=answer.title, detail=detail)


def _wrong_text(draft: Draft) -> Iterable[Defect]:
    written = compose(draft.request, round=draft.round)
    if written.markdown != draft.markdown or written.citations != draft.citations:
        yield Defect(kind="text", detail="the text does not show the quotes it was made from")
