"""Python values to payloads and back: pydantic, dataclass, protobuf, `str`, `bytes`, JSON."""

import json
import re
from dataclasses import is_dataclass
from functools import cache
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_json

from mesh.core.payload import Payload
from mesh.errors import PayloadInvalid

__all__ = [
    "BYTES",
    "JSON",
    "PROTOBUF",
    "TEXT",
    "decode_plain",
    "decode_value",
    "encode_value",
    "schema_of",
]

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
BYTES = "application/octet-stream"
PROTOBUF = "application/x-protobuf"

# Any throughout: a value's type is the author's, not ours.


def schema_of(kind: Any) -> str:
    """Wire name of a type: its `mesh_schema`, a protobuf full name, or its name in snake case.

    "" for plain JSON, text and bytes, which have no name.
    """
    if _is_a(kind, Message):
        return str(kind.DESCRIPTOR.full_name)
    if _is_a(kind, BaseModel) or _is_record(kind):
        snake = re.sub(r"(?<!^)(?=[A-Z])", "_", str(kind.__name__)).lower()
        return getattr(kind, "mesh_schema", f"{snake}.v1")
    return ""


def content_type_of(kind: Any) -> str:
    """Media type that values of this type are sent as."""
    if kind is str:
        return TEXT
    if kind is bytes:
        return BYTES
    if _is_a(kind, Message):
        return PROTOBUF
    return JSON


def json_schema_of(kind: Any) -> str:
    """JSON Schema of a type as text, "" for text, bytes and protobuf."""
    if content_type_of(kind) != JSON:
        return ""
    return json.dumps(_adapter(kind).json_schema(), sort_keys=True)


def encode_value(value: Any) -> Payload:
    """The payload of a value.

    Raises:
        PayloadInvalid: It has no JSON form.
    """
    kind: Any = value.__class__
    content_type = content_type_of(kind)
    if isinstance(value, str):
        data = value.encode()
    elif isinstance(value, bytes):
        data = value
    elif isinstance(value, Message):
        data = value.SerializeToString(deterministic=True)
    else:
        data = _json(value)
    return Payload(content_type=content_type, schema=schema_of(kind), data=data)


def decode_value(payload: Payload, kind: Any) -> Any:
    """The value of a payload, as the type that a handler declares.

    JSON is accepted for every type but `bytes`, so that people can submit by hand.

    Raises:
        PayloadInvalid: The bytes do not fit; `field` names the first that is wrong.
    """
    media = payload.content_type.partition(";")[0].strip()
    if kind is bytes:
        return payload.data
    if kind is str:
        return _text(payload.data) if media.startswith("text/") else _validated(payload.data, str)
    if _is_a(kind, Message):
        return _message(payload.data, kind, as_json=media == JSON)
    if media not in ("", JSON):
        raise PayloadInvalid(f"content type is `{payload.content_type}`, expected `{JSON}`")
    return _validated(payload.data, kind)


def decode_plain(payload: Payload) -> Any:
    """The value of a payload whose type nobody named: JSON, text, or bytes as they are.

    Raises:
        PayloadInvalid: The bytes are not what their media type says.
    """
    media = payload.content_type.partition(";")[0].strip()
    if media in ("", JSON):
        return _validated(payload.data, Any)
    return _text(payload.data) if media.startswith("text/") else payload.data


def _is_a(kind: Any, base: type) -> bool:
    return isinstance(kind, type) and issubclass(kind, base)


def _is_record(kind: Any) -> bool:
    return is_dataclass(kind)


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _json(value: Any) -> bytes:
    try:
        return to_json(value)
    except PydanticSerializationError as error:
        raise PayloadInvalid(f"`{type(value).__name__}` has no JSON form: {error}") from error


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise PayloadInvalid(f"text is not UTF-8: {error}") from error


def _message(data: bytes, kind: type[Message], *, as_json: bool) -> Message:
    message = kind()
    try:
        if as_json:
            json_format.Parse(data, message)
        else:
            message.ParseFromString(data)
    except (DecodeError, json_format.ParseError) as error:
        raise PayloadInvalid(f"not a `{kind.DESCRIPTOR.full_name}`: {error}") from error
    return message


def _validated(data: bytes, kind: Any) -> Any:
    try:
        return _adapter(kind).validate_json(data or b"null")
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        where = f"`{field}`: " if field else ""
        raise PayloadInvalid(f"{where}{first['msg']}{more}", field=field) from error
