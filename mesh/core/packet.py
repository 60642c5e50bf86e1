"""The relay packet: what the next agent must know, folded from the task's events.

Source: design, section 2.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256

from mesh.core.payload import Blob

__all__ = ["PACKET_LIMIT", "Decision", "RelayPacket", "bounded"]

PACKET_LIMIT = 64 * 1024
"""Most bytes of text a packet may hold before its oldest decisions are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Something an agent settled, and why."""

    id: str
    summary: str
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayPacket:
    """Immutable and bounded; the same events always give the same packet.

    `as_of` is the position of the last stored event folded into it (what the same commit notes is
    in it too), `sha256` a hash over the canonical JSON of the other fields, `synthesised` true
    when somebody else made it for a crashed agent.
    """

    objective: str = ""
    constraints: tuple[str, ...] = ()
    decisions: tuple[Decision, ...] = ()
    open_questions: tuple[str, ...] = ()
    do_not_redo: tuple[str, ...] = ()
    artifacts: tuple[Blob, ...] = ()
    next_task: str = ""
    budget_left: Mapping[str, int] = field(default_factory=dict[str, int])
    as_of: int = 0
    omitted_count: int = 0
    synthesised: bool = False
    sha256: str = ""


def bounded(packet: RelayPacket, limit_bytes: int = PACKET_LIMIT) -> RelayPacket:
    """Trim the oldest decisions until the packet fits, then seal it with its hash.

    Args:
        packet: Any packet; its hash is replaced.
        limit_bytes: Most bytes of UTF-8 text; constraints are never trimmed, whatever it is.

    Returns:
        The newest decisions kept, `omitted_count` raised by those that went, `sha256` set.
    """
    sizes = [_size((d.id, d.summary, d.why)) for d in packet.decisions]
    rest = (*packet.constraints, *packet.open_questions, *packet.do_not_redo)
    uris = (artifact.uri for artifact in packet.artifacts)
    fixed = _size((packet.objective, packet.next_task, *rest, *uris))
    first, total = 0, fixed + sum(sizes)
    while first < len(sizes) and total > limit_bytes:
        total -= sizes[first]
        first += 1
    kept = replace(
        packet,
        decisions=packet.decisions[first:],
        omitted_count=packet.omitted_count + first,
        sha256="",
    )
    text = json.dumps(asdict(kept), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return replace(kept, sha256=sha256(text.encode()).hexdigest())


def _size(texts: tuple[str, ...]) -> int:
    return sum(len(text.encode()) for text in texts)
