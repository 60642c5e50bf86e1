"""Prose of a Python file: docstrings and whole-line comments, never code."""

from __future__ import annotations

import ast
import io
import re
import threading
import tokenize
import warnings
from typing import TYPE_CHECKING

from services.brief.markup import text_paragraphs
from services.brief.span import Span

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["python_canonical", "python_paragraphs"]

_OPENING = re.compile(r"^\s*(?:[rRuU]?(?:\"\"\"|''')\s*|#+[:!]?)?\s*(?:[-*+]\s+(?=\S))?")
_CLOSING = re.compile(r"\s*(?:\"\"\"|''')\s*(?:#.*)?$")
_ONE_LINE = re.compile(r"^\s*[rRuU]?([\"'])([^\"']*)\1\s*$")
_COMMENT = re.compile(r"^(\s*)#+[:!]?")
_COMMENT_WEIGHT = 0.6  # a remark beside code explains the code, seldom the subject
# `warnings.catch_warnings` changes the whole process; two threads inside it would restore it wrong.
_PARSING = threading.Lock()

_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def python_canonical(line: str) -> str:
    """Canonical form of one line: without comment marks, docstring quotes or bullet."""
    if one_line := _ONE_LINE.match(line):
        return " ".join(one_line[2].split())
    line = _OPENING.sub("", line, count=1)
    return " ".join(_CLOSING.sub("", line).split())


def python_paragraphs(lines: Sequence[str]) -> list[Span]:
    """Paragraphs of docstrings and of whole-line comments, top to bottom.

    Private definitions are read too, with the name of what encloses them. A file that is not
    Python has none.
    """
    source = "\n".join(lines)
    try:
        with _PARSING, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the style of code that is not ours
            tree = ast.parse(source)
        spans = [*_docstrings(tree, lines), *_comments(source, lines)]
    except (SyntaxError, ValueError, RecursionError, MemoryError, tokenize.TokenError):
        return []
    return sorted(spans, key=lambda span: span.first_line)


def _docstrings(tree: ast.Module, lines: Sequence[str]) -> Iterator[Span]:
    for name, node in _definitions(tree, ""):
        match node.body:
            case [ast.Expr(value=ast.Constant(value=str()) as text), *_] if text.end_lineno:
                if text.col_offset == _indent(lines[text.lineno - 1]):
                    yield from _docstring(lines[text.lineno - 1 : text.end_lineno], text, name)
            case _:
                pass


def _docstring(lines: Sequence[str], text: ast.Constant, name: str) -> list[Span]:
    # The opening line is indented by its quotes; align it with the lines that follow.
    rest = [line for line in lines[1:] if line.strip()]
    margin = min((_indent(line) for line in rest), default=0)
    opening = " " * margin + python_canonical(lines[0])
    body = [opening, *(_CLOSING.sub("", line) for line in lines[1:])]
    return text_paragraphs(body, first_line=text.lineno, about=name)


def _definitions(node: _Documented, inside: str) -> Iterator[tuple[str, _Documented]]:
    yield inside, node
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _definitions(child, f"{inside}.{child.name}" if inside else child.name)


def _comments(source: str, lines: Sequence[str]) -> Iterator[Span]:
    if "#" not in source:
        return
    block: list[int] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        number, column = token.start
        if token.type != tokenize.COMMENT or lines[number - 1][:column].strip():
            continue
        if block and (
            number != block[-1] + 1 or _margin(lines, number) != _margin(lines, block[0])
        ):
            yield from _comment(block, lines)
            block = []
        block.append(number)
    yield from _comment(block, lines)


def _comment(block: Sequence[int], lines: Sequence[str]) -> Iterator[Span]:
    body = [_COMMENT.sub(r"\1", lines[number - 1]) for number in block]
    if block:
        for span in text_paragraphs(body, first_line=block[0], about=""):
            yield Span(span.first_line, span.last_line, span.about, _COMMENT_WEIGHT)


def _margin(lines: Sequence[str], number: int) -> int:
    return _indent(lines[number - 1])


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
