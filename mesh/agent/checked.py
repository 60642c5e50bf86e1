"""What authors pass to `ctx`, checked there: each error names what to write instead."""

import inspect
from collections.abc import Mapping
from typing import Any

from mesh.agent.payload import decode_plain, decode_value, encode_value
from mesh.errors import HandlerInvalid, PayloadInvalid

__all__ = ["a_default", "a_function", "a_text", "amounts", "an_amount", "parts_of"]

# Any: they may pass anything; that is the point.


def a_text(value: Any, what: str) -> str:
    """A string that is not empty.

    Raises:
        HandlerInvalid: It is something else.
    """
    if isinstance(value, str) and value:
        return value
    name = getattr(value, "name", "")
    hint = f'; write "{name}"' if isinstance(name, str) and name else ""
    raise HandlerInvalid(f"{what} takes a str, not `{value!r}`{hint}")


def a_function(fn: Any, what: str) -> Any:
    """Something that can be called.

    Raises:
        HandlerInvalid: It is something else, such as a call that was made already.
    """
    if callable(fn):
        return fn
    if inspect.iscoroutine(fn):
        fn.close()
    raise HandlerInvalid(
        f"{what} takes a function and its arguments, as in (name, fn, 1), not `{fn!r}`"
    )


def an_amount(value: Any, what: str) -> int:
    """A whole number, >= 0.

    Raises:
        HandlerInvalid: It is something else.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise HandlerInvalid(f"{what} takes whole numbers >= 0, not `{value!r}`")


def amounts(budget: Mapping[str, int] | None) -> dict[str, int]:
    """A budget."""
    return {name: an_amount(value, "`budget`") for name, value in (budget or {}).items()}


def a_default(default: Any, kind: Any) -> Any:
    """A default that is an answer.

    Raises:
        HandlerInvalid: It is not of the type that was asked for.
    """
    try:
        payload = encode_value(default)
        decode_plain(payload) if kind is Any else decode_value(payload, kind)
    except PayloadInvalid as error:
        raise HandlerInvalid(f"`default` is no answer to `ask`: {error}") from error
    return default


def parts_of(parts: tuple[Any, ...], what: str) -> tuple[Any, ...]:
    """At least one part.

    Raises:
        HandlerInvalid: There is none.
    """
    if not parts:
        raise HandlerInvalid(f"{what} of nothing: it would never end")
    return parts
