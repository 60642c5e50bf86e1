"""Whether log and store still tell the same story; what differs is named, nothing is mended here.

Source: design, section 5; "a log that was recreated, a gap, an altered event".
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

from mesh.bus.port import Bus, LogInfo
from mesh.core.envelope import Record
from mesh.core.projection import task_of
from mesh.core.subject import Subject
from mesh.errors import ConfigError, HistoryCorrupt
from mesh.store.port import GENESIS, Checkpoint, EventQuery, Store, StoredEvent

__all__ = ["Verified", "check_shard", "linked", "stored_events", "verify"]

_TAIL = 500
_PAGE = 1000
_RESTORE = "stop the mesh and restore one from the other (`mesh store restore`), or from a backup"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A shard's stored history, walked from its first event to its checkpoint."""

    shard: str
    first: int
    position: int
    count: int
    chain: bytes


def linked(chain: bytes, raw: bytes) -> bytes:
    """The hash chain's next value: `SHA-256(chain || SHA-256(raw))`."""
    return sha256(chain + sha256(raw).digest()).digest()


def stored_events(shard: str, chain: bytes, records: Sequence[Record]) -> list[StoredEvent]:
    """Records with what the store keeps beside them, chained on."""
    events: list[StoredEvent] = []
    for record in records:
        chain = linked(chain, record.raw)
        events.append(_stored(shard, record, chain))
    return events


def _stored(shard: str, record: Record, chain: bytes) -> StoredEvent:
    task_id = task_of(record)
    subject = Subject.parse(record.subject) if task_id else None
    return StoredEvent(
        shard=shard,
        record=record,
        chain=chain,
        task_id=task_id,
        kind=record.envelope.kind if record.envelope else "",
        sender=subject.sender if subject else "",
        to=subject.to if subject else "",
    )


async def check_shard(bus: Bus, store: Store, checkpoint: Checkpoint) -> tuple[LogInfo, int]:
    """Make sure that recording can go on from a checkpoint.

    The embedded engine, opened on a damaged file, keeps what stands before the damage, be it half
    a transaction: events above the checkpoint. If they are what the log has there, they stay.

    Looks at the ends only, so that it costs the same however long the history is; `verify` walks
    all of it.

    Returns:
        The log to go on with, and the last position that is stored already.

    Raises:
        HistoryCorrupt: The log was recreated or trimmed, events are missing or altered.
        ConfigError: The bus has no such shard.
        Unavailable: Bus or store do not answer.
    """
    shard = checkpoint.shard
    info = next((log for log in await bus.info() if log.shard == shard), None)
    if info is None:
        raise ConfigError(f"the bus has no shard `{shard}`; the number of shards is fixed")
    _check_log(info, checkpoint)
    first, last, count = await store.count(shard)
    torn = max(0, last - checkpoint.position)
    expected = (checkpoint.first or first, checkpoint.position + torn, checkpoint.count + torn)
    if (first, last, count) != expected or (count and count != last - first + 1):
        raise HistoryCorrupt(
            f"shard `{shard}`: the checkpoint says positions {checkpoint.first} to"
            f" {checkpoint.position}, {checkpoint.count} events; the store has {first} to {last},"
            f" {count} events; `mesh store verify` names the first that is missing; {_RESTORE}"
        )
    if checkpoint.count:
        await _check_tail(bus, store, checkpoint, info)
    if torn:
        if info.last < last:
            raise HistoryCorrupt(
                f"shard `{shard}`: the store has position {last}, above its checkpoint; the log"
                f" ends at {info.last}; {_RESTORE}"
            )
        await _check_torn(bus, store, checkpoint, last)
    return info, last


async def verify(store: Store, shard: str) -> Verified:
    """Walk a shard's whole stored history: nothing missing, nothing altered, the chain unbroken.

    Raises:
        HistoryCorrupt: The text names the first bad position and what is wrong there.
        Unavailable: The store does not answer.
    """
    checkpoint = await store.checkpoint(shard)
    chain, position = GENESIS, checkpoint.first - 1
    while position < checkpoint.position:
        page = await store.events(
            EventQuery(shard=shard, first=position + 1, last=checkpoint.position, limit=_PAGE)
        )
        if not page:
            raise _missing(shard, position + 1)
        chain = _check_run(page, position, chain)
        position = page[-1].record.position
    if chain != checkpoint.chain:
        raise HistoryCorrupt(
            f"shard `{shard}`: the chain ends in {chain.hex()}, the checkpoint at position"
            f" {checkpoint.position} says {checkpoint.chain.hex()}; {_RESTORE}"
        )
    return Verified(
        shard=shard,
        first=checkpoint.first,
        position=checkpoint.position,
        count=checkpoint.count,
        chain=chain,
    )


def _check_log(info: LogInfo, checkpoint: Checkpoint) -> None:
    shard = info.shard
    created_at = checkpoint.log_created_at
    if created_at is not None and created_at != info.created_at:
        raise HistoryCorrupt(
            f"shard `{shard}`: the log was recreated at {info.created_at}; the ledger has recorded"
            f" {checkpoint.count} events of the one created at {created_at}; {_RESTORE}"
        )
    if info.last < checkpoint.position:
        raise HistoryCorrupt(
            f"shard `{shard}`: the log ends at position {info.last}, the ledger has recorded up to"
            f" {checkpoint.position}: the log lost its end; {_RESTORE}"
        )
    if info.first > checkpoint.position + 1:
        raise HistoryCorrupt(
            f"shard `{shard}`: the log begins at position {info.first}, the ledger needs"
            f" {checkpoint.position + 1}: positions {checkpoint.position + 1} to {info.first - 1}"
            f" were trimmed before they were recorded; {_RESTORE}"
        )


async def _check_tail(bus: Bus, store: Store, checkpoint: Checkpoint, info: LogInfo) -> None:
    """Hold the last events against their chain, and against the log as far as it stands."""
    shard, last = checkpoint.shard, checkpoint.position
    first = max(checkpoint.first, last - _TAIL)
    events = await store.events(
        EventQuery(shard=shard, first=first, last=last, limit=last - first + 1)
    )
    if not events:
        raise _missing(shard, first)
    if first == checkpoint.first:
        _check_run(events, first - 1, GENESIS)
    else:
        # The first one only lends its chain value: what stands below it is for `verify`.
        _check_run(events[1:], first, events[0].chain)
    if events[-1].chain != checkpoint.chain:
        raise HistoryCorrupt(
            f"shard `{shard}`: the checkpoint's chain is not that of position {last}; {_RESTORE}"
        )
    stands = [event for event in events if event.record.position >= info.first]
    if not stands:
        return
    async with bus.tail(shard, after=stands[0].record.position - 1, batch=_TAIL) as batches:
        await _compare(shard, {event.record.position: event for event in stands}, batches)


async def _check_torn(bus: Bus, store: Store, checkpoint: Checkpoint, last: int) -> None:
    """Hold the events above the checkpoint against the log, which must have the same."""
    shard, after, chain = checkpoint.shard, checkpoint.position, checkpoint.chain
    async with bus.tail(shard, after=after, batch=_TAIL) as batches:
        async for records in batches:
            expected = stored_events(shard, chain, [r for r in records if r.position <= last])
            query = EventQuery(shard=shard, first=after + 1, last=last, limit=len(expected))
            if await store.events(query) != expected:
                raise HistoryCorrupt(
                    f"shard `{shard}`: the store has events above its checkpoint"
                    f" {checkpoint.position} that are not what the log has there; {_RESTORE}"
                )
            after, chain = expected[-1].record.position, expected[-1].chain
            if after == last:
                return


async def _compare(
    shard: str, events: dict[int, StoredEvent], batches: AsyncIterator[list[Record]]
) -> None:
    left = len(events)
    async for records in batches:
        for record in records:
            event = events.get(record.position)
            if event is None:
                return
            if (event.record.raw, event.record.subject) != (record.raw, record.subject):
                raise HistoryCorrupt(
                    f"shard `{shard}`: position {record.position} is one event in the log and"
                    f" another in the store: one of them was altered; {_RESTORE}"
                )
            left -= 1
        if not left:
            return


def _check_run(events: Sequence[StoredEvent], after: int, chain: bytes) -> bytes:
    """Check events that must follow on position `after`; gives the chain at their end."""
    for event in events:
        record = event.record
        if record.position != after + 1:
            raise _missing(event.shard, after + 1)
        expected = _stored(event.shard, record, linked(chain, record.raw))
        if event != expected:
            what = "bytes" if event.chain != expected.chain else "columns"
            raise HistoryCorrupt(
                f"shard `{event.shard}`: position {record.position} was altered: its {what} do"
                f" not follow from the chain and the envelope; {_RESTORE}"
            )
        after, chain = record.position, expected.chain
    return chain


def _missing(shard: str, position: int) -> HistoryCorrupt:
    return HistoryCorrupt(
        f"shard `{shard}`: position {position} is missing in the store; {_RESTORE}"
    )
