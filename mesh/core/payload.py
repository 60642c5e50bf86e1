"""What a task carries for its agents: bytes and their type, in the event or claim-checked."""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["INLINE_LIMIT", "PAYLOAD_LIMIT", "Blob", "Failure", "Payload"]

INLINE_LIMIT = 256 * 1024
"""Most bytes a payload may have inside an event; above it is claim-checked."""
PAYLOAD_LIMIT = 64 * 1024 * 1024
"""Most bytes a payload may have at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A claim check: where bytes are, and what they must be."""

    uri: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """Typed bytes; `data` is empty when `blob` is set.

    `schema` names the payload's type and version (`ticket.opened.v1`), "" when the sender named
    none.
    """

    content_type: str = ""
    schema: str = ""
    data: bytes = b""
    blob: Blob | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why something ended badly: a stable code, a sentence for people, the figures."""

    code: str
    message: str
    details: Mapping[str, str] = field(default_factory=dict[str, str])
