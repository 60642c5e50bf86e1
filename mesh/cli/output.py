"""Data to stdout, talk to stderr."""

import json
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from google.protobuf.message import Message
    from rich.console import Console, RenderableType

__all__ = ["busy", "emit", "emit_line", "say", "show", "stdout_console", "whole"]

_EXACT = 1e21
_PIPED_WIDTH, _LEAST_WIDTH = 200, 90


def emit(message: "Message") -> None:
    """Print a reply as ProtoJSON; numbers, texts and flags stand there even when they are 0."""
    print(_proto_json(message, indent=2))


def emit_line(message: "Message") -> None:
    """Print one reply of a stream as one line of ProtoJSON, at once."""
    print(_proto_json(message, indent=None), flush=True)


def show(*renderables: "RenderableType") -> None:
    """Print for people on stdout."""
    from rich.text import Text

    console = stdout_console()
    for renderable in renderables:
        # Texts are not cut into lines: what is copied from a terminal is what was printed.
        console.print(renderable, soft_wrap=isinstance(renderable, str | Text))


def say(text: str) -> None:
    """Say something on stderr."""
    print(text, file=sys.stderr, flush=True)


def whole(text: str) -> float:
    """A number as canonical ProtoJSON has it: `5`, not `5.0`, which is how Python spells it.

    A `google.protobuf.Value` has only floating-point numbers.
    """
    number = float(text)
    # Beyond it an exponent is shorter, and what follows the first 17 digits says nothing.
    return int(number) if number.is_integer() and abs(number) < _EXACT else number


def stdout_console() -> "Console":
    """Where `show` prints: wide enough for an id beside what it is about."""
    from rich.console import Console

    console = Console(highlight=False, emoji=False)
    least = _LEAST_WIDTH if sys.stdout.isatty() else _PIPED_WIDTH
    console.width = max(console.width, least)
    return console


@contextmanager
def busy(text: str) -> "Generator[Callable[[str], None]]":
    """Show on a terminal that something goes on; call what it gives to change the text."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console

    with Console(stderr=True).status(text) as status:
        yield status.update


def _proto_json(message: "Message", *, indent: int | None) -> str:
    from google.protobuf.json_format import MessageToJson

    text = MessageToJson(message, always_print_fields_with_no_presence=True)
    return json.dumps(json.loads(text, parse_float=whole), indent=indent, ensure_ascii=False)
