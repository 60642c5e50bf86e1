"""What an append is made of, before any transport has seen it.

Source: design, sections 1 and 3.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from mesh.core.envelope import Envelope, Record
from mesh.core.subject import MOVING, shard_of
from mesh.errors import EnvelopeInvalid, NameInvalid
from mesh.wire.codec import encode

__all__ = ["HEADERS_BYTES", "Draft", "drafts", "fenced", "standing"]

HEADERS_BYTES = 1024
"""Room left for the headers of an event, without its trace context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """One event ready to be stored; `expected` is the fence it carries for its task, if any."""

    envelope: Envelope
    shard: str
    subject: str
    raw: bytes
    expected: int | None = None

    @property
    def task_id(self) -> str:
        """The task it belongs to."""
        return self.envelope.task_id

    @property
    def event_id(self) -> str:
        """Its id, fixed before the first try."""
        return self.envelope.event_id

    @property
    def moves(self) -> bool:
        """Whether it moves its task."""
        return self.envelope.event.event_class == MOVING


def drafts(
    envelopes: Sequence[Envelope],
    expected: Mapping[str, int],
    *,
    tenant: str,
    shards: int,
    limit_bytes: int,
) -> list[Draft]:
    """Encode and check a batch, and place its fences.

    Args:
        envelopes: Oldest first, >= 1, all of one shard.
        expected: Fence position of each fenced task.
        tenant: The bus's tenant; events of another one do not belong here.
        shards: Shards of the tenant, count.
        limit_bytes: Most bytes one message may have, headers included.

    Raises:
        EnvelopeInvalid: The batch is empty, of several shards or of another tenant, an event is
            too large, an id stands twice, or a fence names a task that has no event here.
    """
    if not envelopes:
        raise EnvelopeInvalid("nothing to append")
    homes = {shard_of(envelope.root_task_id, shards) for envelope in envelopes}
    if len(homes) > 1:
        raise EnvelopeInvalid(f"one append is of one shard, this one of {sorted(homes)}")
    if len({envelope.event_id for envelope in envelopes}) < len(envelopes):
        raise EnvelopeInvalid("an event id stands twice in one append")
    strangers = sorted(expected.keys() - {envelope.task_id for envelope in envelopes})
    if strangers:
        raise EnvelopeInvalid(f"fenced task `{strangers[0]}` has no event in this append")
    shard = homes.pop()
    batch = [
        Draft(
            envelope=envelope,
            shard=shard,
            subject=_subject(envelope, tenant, shard),
            raw=_encoded(envelope, limit_bytes),
        )
        for envelope in envelopes
    ]
    return fenced(batch, expected)


def fenced(batch: Sequence[Draft], expected: Mapping[str, int]) -> list[Draft]:
    """The same batch with each fence on the first event that moves its task.

    A task that is named in `expected` but only informed has its fence on its first event.
    """
    places = set(_carriers(batch).values())
    return [
        replace(draft, expected=expected.get(draft.task_id) if place in places else None)
        for place, draft in enumerate(batch)
    ]


def standing(
    records: Iterable[Record], envelopes: Iterable[Envelope]
) -> dict[str, tuple[int, bool]]:
    """Which of these events stand among the records.

    Returns:
        Event id to its position and whether it is this very event: the same id may have been
        derived and stored by another process. An id that stands twice counts where it is ours,
        else where it stands first.
    """
    wanted = {envelope.event_id: envelope for envelope in envelopes}
    found: dict[str, tuple[int, bool]] = {}
    for record in records:
        stored = record.envelope
        if stored is None or stored.event_id not in wanted:
            continue
        mine = stored.sender.instance == wanted[stored.event_id].sender.instance
        if stored.event_id not in found or (mine and not found[stored.event_id][1]):
            found[stored.event_id] = (record.position, mine)
    return found


def _carriers(batch: Sequence[Draft]) -> dict[str, int]:
    """For each task the place of the event that carries its fence."""
    first: dict[str, int] = {}
    moving: dict[str, int] = {}
    for place, draft in enumerate(batch):
        first.setdefault(draft.task_id, place)
        if draft.moves:
            moving.setdefault(draft.task_id, place)
    return {**first, **moving}


def _subject(envelope: Envelope, tenant: str, shard: str) -> str:
    if envelope.tenant != tenant:
        raise EnvelopeInvalid(f"event of tenant `{envelope.tenant}` on the bus of `{tenant}`")
    subject = envelope.subject(shard)
    try:
        subject.parse(str(subject))
    except NameInvalid as error:
        raise EnvelopeInvalid(str(error)) from error
    return str(subject)


def _encoded(envelope: Envelope, limit_bytes: int) -> bytes:
    try:
        raw = encode(envelope)
    except (TypeError, ValueError, AttributeError) as error:
        raise EnvelopeInvalid(f"{envelope.kind} cannot be encoded: {error}") from error
    trace = envelope.trace
    headers = HEADERS_BYTES + sum(
        len(text.encode()) for text in (trace.traceparent, trace.tracestate, trace.baggage)
    )
    if len(raw) + headers > limit_bytes:
        raise EnvelopeInvalid(
            f"{envelope.kind} has {len(raw)} bytes; a message may have {limit_bytes - headers}"
        )
    return raw
