"""Claim checks: made from bytes, and held against bytes."""

import re
from hashlib import sha256

from mesh.core.payload import PAYLOAD_LIMIT, Blob
from mesh.errors import HistoryCorrupt, PayloadTooLarge

__all__ = ["claim_check", "key_of", "verified"]

_SCHEME = "blob:"
_SHA256 = re.compile(r"[0-9a-f]{64}")


def claim_check(data: bytes) -> Blob:
    """The claim check of bytes.

    Raises:
        PayloadTooLarge: Over `PAYLOAD_LIMIT`.
    """
    if len(data) > PAYLOAD_LIMIT:
        raise PayloadTooLarge(size_bytes=len(data), limit_bytes=PAYLOAD_LIMIT)
    digest = sha256(data).hexdigest()
    return Blob(uri=_SCHEME + digest, sha256=digest, size=len(data))


def key_of(blob: Blob) -> str:
    """The key a claim check stands for: 64 lower-case hex digits, safe in a path and a subject.

    Raises:
        HistoryCorrupt: It is none that `claim_check` makes.
    """
    if not _SHA256.fullmatch(blob.sha256) or blob.uri != _SCHEME + blob.sha256:
        raise HistoryCorrupt(f"`{blob.uri}` with sha256 `{blob.sha256}` is no claim check")
    return blob.sha256


def verified(blob: Blob, data: bytes) -> bytes:
    """The bytes, unchanged, if they are what the claim check says.

    Raises:
        HistoryCorrupt: They are not.
    """
    if len(data) != blob.size:
        raise HistoryCorrupt(f"blob `{blob.uri}` has {len(data)} bytes, expected {blob.size}")
    digest = sha256(data).hexdigest()
    if digest != blob.sha256:
        raise HistoryCorrupt(f"blob `{blob.uri}` has sha256 `{digest}`")
    return data
