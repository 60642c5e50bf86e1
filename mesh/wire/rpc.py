"""Errors across gRPC: as code, text and fields, never pickled.

Both sides stand here, so that one table cannot disagree with the other; whoever calls a service of
the mesh (client, ledger reader) catches the same classes as if it had called the function.

Source: google.rpc.ErrorInfo (AIP-193); errors.py.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, get_type_hints

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError

# The package of google.rpc says it has no types, though its stubs are there.
from google.rpc.error_details_pb2 import ErrorInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

import mesh.errors as errors
from mesh.errors import MeshError, Unavailable

__all__ = ["DOMAIN", "MESSAGE_BYTES", "answer_of", "error_of", "rebuilt", "translated"]

DOMAIN = "relay-mesh"
MESSAGE_BYTES = 65 * 1024 * 1024
"""Most bytes of one gRPC message: the largest payload and what stands around it."""
_TEXT_BYTES, _FIELD_BYTES = 1000, 300
_STATUS_KEY = "grpc-status-details-bin"
_NAMED = [getattr(errors, name) for name in errors.__all__ if name != "Verdict"]
_KINDS: dict[str, type[MeshError]] = {kind.code: kind for kind in _NAMED}
_LOST = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,  # by a server that stops; our own cancelling raises otherwise
        grpc.StatusCode.DEADLINE_EXCEEDED,
    }
)


def answer_of(error: MeshError, code: int) -> tuple[str, tuple[tuple[str, bytes], ...]]:
    """Text and trailing metadata of a call that ends with an error and status `code`.

    Both travel in headers, of which readers take 8 KiB in all, and a byte of the text may become
    four on the way: what is long is cut.
    """
    text = _cut(str(error), _TEXT_BYTES)
    fields = {name: _cut(value, _FIELD_BYTES) for name, value in error.details().items()}
    packed = AnyMessage()
    packed.Pack(ErrorInfo(reason=error.code, domain=DOMAIN, metadata=fields))
    status = Status(code=code, message=text, details=[packed])
    return text, ((_STATUS_KEY, status.SerializeToString()),)


def rebuilt(code: str, message: str, details: dict[str, str]) -> MeshError:
    """The error that was sent: same class, text and fields; `MeshError` for an unknown code."""
    kind = _KINDS.get(code, MeshError)
    # Not through `__init__`, which would write the text anew: the sender's may be newer.
    error = kind.__new__(kind, message)
    for name, hint in _fields(kind).items():
        setattr(error, name, _typed(details.get(name), hint))
    return error


def error_of(call: grpc.aio.AioRpcError, peer: str = "the service") -> MeshError:
    """What a failed call to `peer` means, whether or not it was answered by a part of the mesh."""
    for key, value in call.trailing_metadata():
        if key == _STATUS_KEY and isinstance(value, bytes):
            info = _info(value)
            if info is not None:
                return rebuilt(info.reason, call.details() or "", dict(info.metadata))
    said = f"{call.code().name}: {call.details() or 'no further word'}"
    if call.code() in _LOST:
        return Unavailable(f"{peer} does not answer ({said})")
    return MeshError(f"{peer} answered {said}")


@contextmanager
def translated(peer: str = "the service") -> Generator[None]:
    """Turn the errors of a gRPC call to `peer` into mesh errors, keeping the cause."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise error_of(error, peer) from error


def _cut(text: str, limit_bytes: int) -> str:
    """A text that fits, whole characters only."""
    return text.encode(errors="replace")[:limit_bytes].decode(errors="ignore")


def _info(raw: bytes) -> ErrorInfo | None:
    status, info = Status(), ErrorInfo()
    try:
        status.ParseFromString(raw)
    except DecodeError:
        return None
    found = any(detail.Unpack(info) for detail in status.details)
    return info if found and info.domain == DOMAIN else None


def _fields(kind: type[MeshError]) -> dict[str, Any]:
    """The fields of an error: what its constructor and those above it take, but for the text."""
    fields: dict[str, Any] = {}
    for each in reversed(kind.__mro__):
        if issubclass(each, MeshError) and "__init__" in vars(each):
            fields |= get_type_hints(each.__init__)
    return {name: hint for name, hint in fields.items() if name not in ("message", "return")}


def _typed(text: str | None, hint: Any) -> Any:
    if text is None:
        return None
    for number in (int, float):
        if hint in (number, number | None):
            return number(text)
    return text
