"""Copy values between frozen dataclasses and the protobuf messages that mirror them.

A dataclass field and the message field of the same name are the same thing, so one function each
way serves every kind of event. Instants are Timestamps, nested dataclasses nested messages, tuples
repeated fields, mappings maps, string enums strings; None is an unset message. How each field is
copied is worked out once per dataclass.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

__all__ = ["fill", "read"]

T = TypeVar("T")

# Any throughout: the fields of a message and of a dataclass meet by name only.


class _Copy(NamedTuple):
    """How one field goes into a message and comes out of it."""

    name: str
    put: Callable[[Any, str, Any], None]
    take: Callable[[Any, str], Any]


def fill(message: Any, value: Any, *, leave: frozenset[str] = frozenset()) -> None:
    """Set the fields of an empty message from the dataclass it mirrors, all but those to leave."""
    for copy in _copies(type(value)):
        field = getattr(value, copy.name)
        # What is empty is the default of its field, or an unset message.
        if field and copy.name not in leave:
            copy.put(message, copy.name, field)


def read(message: Any, kind: type[T], **given: Any) -> T:
    """Build a dataclass from the message that mirrors it; fields that are given are not read."""
    values = {c.name: c.take(message, c.name) for c in _copies(kind) if c.name not in given}
    return kind(**values, **given)


def _work_out(kind: Any) -> tuple[_Copy, ...]:
    hints = get_type_hints(kind)
    return tuple(_copy_of(f.name, _bare(hints[f.name])) for f in fields(kind))


_copies: Callable[[Any], tuple[_Copy, ...]] = cache(_work_out)


def _bare(hint: Any) -> Any:
    """`X` of `X | None`."""
    if get_origin(hint) is UnionType:
        return next(part for part in get_args(hint) if part is not NoneType)
    return hint


def _copy_of(name: str, hint: Any) -> _Copy:
    origin = get_origin(hint)
    if origin is tuple:
        item = get_args(hint)[0]
        if is_dataclass(item):
            return _Copy(name, _put_messages, _take_messages(item))
        return _Copy(name, _put_items, _take_as(tuple))
    if origin is Mapping:
        return _Copy(name, _put_mapping, _take_as(dict))
    if hint is datetime:
        return _Copy(name, _put_instant, _take_instant)
    if is_dataclass(hint):
        return _Copy(name, _put_message, _take_message(hint))
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return _Copy(name, setattr, _take_as(hint))
    return _Copy(name, setattr, getattr)


def _take_as(kind: Callable[[Any], Any]) -> Callable[[Any, str], Any]:
    def take(message: Any, name: str) -> Any:
        return kind(getattr(message, name))

    return take


def _put_messages(message: Any, name: str, values: Any) -> None:
    target = getattr(message, name)
    for value in values:
        fill(target.add(), value)


def _take_messages(kind: Any) -> Callable[[Any, str], Any]:
    def take(message: Any, name: str) -> Any:
        return tuple(read(item, kind) for item in getattr(message, name))

    return take


def _put_items(message: Any, name: str, values: Any) -> None:
    getattr(message, name).extend(values)


def _put_mapping(message: Any, name: str, values: Any) -> None:
    getattr(message, name).update(values)


def _put_instant(message: Any, name: str, value: datetime) -> None:
    getattr(message, name).FromDatetime(value)


def _take_instant(message: Any, name: str) -> datetime | None:
    return getattr(message, name).ToDatetime(UTC) if message.HasField(name) else None


def _put_message(message: Any, name: str, value: Any) -> None:
    target = getattr(message, name)
    target.SetInParent()
    fill(target, value)


def _take_message(kind: Any) -> Callable[[Any, str], Any]:
    def take(message: Any, name: str) -> Any:
        return read(getattr(message, name), kind) if message.HasField(name) else None

    return take
