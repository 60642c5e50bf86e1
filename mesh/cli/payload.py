"""What `--input` and `--text` mean."""

import json
import sys
from pathlib import Path

from mesh.core.payload import PAYLOAD_LIMIT
from mesh.errors import Invalid, PayloadTooLarge

__all__ = ["given_json", "given_payload"]

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
    return _JSON, given_json(input_text or "", otherwise="; --text sends plain text")


def given_json(source: str, *, otherwise: str = "") -> bytes:
    """The JSON that `--input` gives.

    Args:
        source: JSON, `@file` with JSON in it, or `-` for JSON on stdin.
        otherwise: What else one could do, for the message.

    Raises:
        Invalid: It is no JSON, or the file cannot be read.
        PayloadTooLarge: It is over 64 MiB.
    """
    data = _read(source)
    if len(data) > PAYLOAD_LIMIT:
        raise PayloadTooLarge(size_bytes=len(data), limit_bytes=PAYLOAD_LIMIT)
    try:
        json.loads(data)
    except (ValueError, RecursionError) as e:
        raise Invalid(f"--input: no valid JSON: {e}{otherwise}") from e
    return data


def _read(source: str) -> bytes:
    if source == "-":
        return sys.stdin.buffer.read()
    if not source.startswith("@"):
        return source.encode()
    try:
        return Path(source[1:]).read_bytes()
    except OSError as e:
        raise Invalid(f"--input: cannot read {source[1:]}: {e.strerror}") from e
