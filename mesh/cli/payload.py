"""What `--input` and `--text` mean."""

import json
import sys
from pathlib import Path

from mesh.core.payload import PAYLOAD_LIMIT
from mesh.errors import Invalid, PayloadTooLarge

__all__ = ["given_payload"]

_JSON, _TEXT = "application/json", "text/plain; charset=utf-8"


def given_payload(input_text: str | None, text: str | None) -> tuple[str, bytes]:
    """Content type and bytes of a task's input.

    Args:
        input_text: `--input`: JSON, `@file` with JSON in it, or `-` for JSON on stdin.
        text: `--text`: plain text.

    Raises:
        Invalid: Neither or both were given, or it is no JSON.
        PayloadTooLarge: It is over 64 MiB.
    """
    if (input_text is None) == (text is None):
        raise Invalid("give the task either --input JSON|@file|- or --text TEXT")
    if text is not None:
        return _TEXT, text.encode()
    data = _read(input_text or "")
    if len(data) > PAYLOAD_LIMIT:
        raise PayloadTooLarge(size_bytes=len(data), limit_bytes=PAYLOAD_LIMIT)
    try:
        json.loads(data)
    except ValueError as e:
        raise Invalid(f"--input: no valid JSON: {e}; --text sends plain text") from e
    return _JSON, data


def _read(source: str) -> bytes:
    if source == "-":
        return sys.stdin.buffer.read()
    if not source.startswith("@"):
        return source.encode()
    try:
        return Path(source[1:]).read_bytes()
    except OSError as e:
        raise Invalid(f"--input: cannot read {source[1:]}: {e.strerror}") from e
