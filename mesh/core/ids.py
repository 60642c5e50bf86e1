"""Ids that are derived: the same cause gives the same id, whoever computes it.

Source: design, section 2; RFC 9562 section 5.8 (UUIDv8).
"""

from hashlib import sha256
from uuid import UUID

__all__ = ["derived_id", "keyed_task_id"]


def derived_id(cause_id: str, kind: str, ordinal: int = 0) -> str:
    """Id of the `ordinal`-th thing of `kind` that `cause_id` brought about; never of content."""
    return _uuid8(f"{cause_id}\n{kind}\n{ordinal}")


def keyed_task_id(tenant: str, key: str) -> str:
    """Id of the task that an idempotency key names, in its tenant."""
    return _uuid8(f"{tenant}\ntask.keyed\n{key}")


def _uuid8(text: str) -> str:
    bits = int.from_bytes(sha256(text.encode()).digest()[:16], "big")
    bits = bits & ~(0xF << 76) | (0x8 << 76)
    bits = bits & ~(0x3 << 62) | (0x2 << 62)
    return UUID(int=bits).hex
