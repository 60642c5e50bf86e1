"""Copy values between frozen dataclasses and the protobuf messages that mirror them.

A dataclass field and the message field of the same name are the same thing, so one function each
way serves every kind of event. Instants are Timestamps, nested dataclasses nested messages, tuples
repeated fields, string mappings maps, string enums strings; None is an unset message.
"""
# Any throughout: the fields of a message and of a dataclass meet by name only.
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

__all__ = ["fill", "fill_field", "read", "read_field"]

T = TypeVar("T")


def fill(message: Message, value: Any) -> None:
    """Set every field of an empty message from the dataclass it mirrors."""
    for name in _hints(type(value)):
        fill_field(message, name, getattr(value, name))


def read(message: Any, kind: type[T]) -> T:
    """Build a dataclass from the message that mirrors it."""
    values = {name: read_field(message, name, kind) for name in _hints(kind)}
    return kind(**values)


def fill_field(message: Any, name: str, value: Any) -> None:
    """Set one field of a message."""
    if value is None:
        return
    if isinstance(value, datetime):
        getattr(message, name).FromDatetime(value)
    elif isinstance(value, Mapping):
        getattr(message, name).update(value)
    elif isinstance(value, tuple):
        target = getattr(message, name)
        for item in value:
            if is_dataclass(item):
                fill(target.add(), item)
            else:
                target.append(item)
    elif is_dataclass(value):
        target = getattr(message, name)
        target.SetInParent()
        fill(target, value)
    else:
        setattr(message, name, value)


def read_field(message: Any, name: str, kind: type) -> Any:
    """One field of a message, as the dataclass `kind` declares it."""
    hint: Any = _hints(kind)[name]
    origin = get_origin(hint)
    value = getattr(message, name)
    if origin is tuple:
        return _items(value, get_args(hint)[0])
    if origin is Mapping:
        return dict(value)
    if hint is datetime:
        return _instant(value) if message.HasField(name) else None
    if _nests(hint):
        return read(value, hint) if message.HasField(name) else None
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return hint(value)
    return value


def _items(values: Any, kind: Any) -> tuple[Any, ...]:
    return tuple(read(value, kind) for value in values) if _nests(kind) else tuple(values)


def _nests(kind: Any) -> bool:
    return is_dataclass(kind)


def _bare(hint: Any) -> Any:
    """`X` of `X | None`."""
    if get_origin(hint) is UnionType:
        return next(part for part in get_args(hint) if part is not NoneType)
    return hint


def _instant(value: Timestamp) -> datetime:
    return value.ToDatetime(UTC)


def _read_hints(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {f.name: _bare(hints[f.name]) for f in fields(kind)}


_hints: Callable[[Any], dict[str, Any]] = cache(_read_hints)
