"""Core values as plain JSON ones, for people to read."""
# Any throughout: what an event and a payload hold is known by their own types only.
# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false

import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.struct_pb2 import Value

from mesh.core.payload import INLINE_LIMIT, Payload

__all__ = ["plain", "readable"]

_DEPTH = 32
"""Levels of JSON that are shown: a `Value` takes two messages a level, and readers allow 100."""


def plain(value: Any, with_payload: bool) -> Any:
    """A core value as JSON has it: what is empty left out, bytes as base64."""
    if isinstance(value, Payload):
        return _plain_payload(value, with_payload)
    if is_dataclass(value):
        return _members(value, with_payload)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bytes):
        return b64encode(value).decode()
    if isinstance(value, tuple):
        return [plain(part, with_payload) for part in value]
    if isinstance(value, Mapping):
        return {key: plain(member, with_payload) for key, member in value.items()}
    return value


def _members(value: Any, with_payload: bool) -> dict[str, Any]:
    members = {_camel(f.name): getattr(value, f.name) for f in fields(value)}
    return {
        name: plain(member, with_payload)
        for name, member in members.items()
        if member not in (None, "", b"", (), {})
    }


def _plain_payload(value: Payload, with_payload: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {"contentType": value.content_type, "sizeBytes": len(value.data)}
    if value.schema:
        shown["schema"] = value.schema
    if value.blob is not None:
        shown["sizeBytes"] = value.blob.size
        shown["blob"] = _members(value.blob, with_payload)
    elif with_payload:
        try:
            shown["value"] = _parsed(value)
        except ValueError:
            shown["data"] = b64encode(value.data).decode()
    return shown


def _parsed(value: Payload) -> Any:
    """JSON or text; ValueError for what is neither, or cannot be shown as a `Value`."""
    media = value.content_type.partition(";")[0].strip()
    if media.startswith("text/"):
        return value.data.decode()
    if media != "application/json":
        raise ValueError(media)
    try:
        found = json.loads(value.data or b"null", parse_constant=_no_constant)
        if _depth(found) <= _DEPTH:
            return found
    except RecursionError:
        pass  # deeper than that, then
    raise ValueError("nested too deep")


def readable(value: Payload) -> Value | None:
    """A JSON value or text for people; None for other types, claim checks and large ones."""
    if value.blob is not None or len(value.data) > INLINE_LIMIT:
        return None
    try:
        return ParseDict(_parsed(value), Value())
    except (ValueError, ParseError):
        return None  # an agent may say JSON and write something else: then it is shown as bytes


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _depth(value: Any) -> int:
    parts: list[Any] = []
    if isinstance(value, dict):
        parts = list(value.values())
    elif isinstance(value, list):
        parts = value
    return 1 + max(map(_depth, parts), default=0)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)
