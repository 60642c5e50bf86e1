"""What the store's values look like in a database: plain columns, no type of a vendor's.

Instants are microseconds since 1970, so that no datetime of a database stands between what was
written and what is read; None never is a column's value, for databases disagree about it.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from mesh.store.port import Checkpoint, EventQuery, Row, StoredEvent
from mesh.wire.codec import read_record

__all__ = [
    "EVENT",
    "ROW",
    "checkpoint_columns",
    "conditions",
    "event_columns",
    "micros",
    "read_checkpoint",
    "read_event",
    "read_row",
    "row_columns",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EVENT = "position, stored_us, subject, raw, chain, task_id, kind, sender, addressee"
"""Columns that `read_event` needs."""
ROW = "projection, key, rank, tags, state"
"""Columns that `read_row` needs."""


def micros(instant: datetime) -> int:
    """Whole microseconds since 1970."""
    return (instant - _EPOCH) // timedelta(microseconds=1)


def event_columns(event: StoredEvent) -> dict[str, Any]:
    """Columns of an event."""
    return {
        "shard": event.shard,
        "position": event.record.position,
        "stored_us": micros(event.record.stored_at),
        "subject": event.record.subject,
        "raw": event.record.raw,
        "chain": event.chain,
        "task_id": event.task_id,
        "kind": event.kind,
        "sender": event.sender,
        "addressee": event.to,
    }


def read_event(shard: str, found: dict[str, Any]) -> StoredEvent:
    """The event that columns hold, its envelope decoded."""
    record = read_record(
        found["position"], _instant(found["stored_us"]), found["subject"], found["raw"]
    )
    return StoredEvent(
        shard=shard,
        record=record,
        chain=found["chain"],
        task_id=found["task_id"],
        kind=found["kind"],
        sender=found["sender"],
        to=found["addressee"],
    )


def conditions(query: EventQuery) -> tuple[str, dict[str, Any]]:
    """What of a query is neither task nor position: each part begins with AND."""
    parts: list[str] = []
    values: dict[str, Any] = {}
    if query.kind:
        parts.append(" AND kind = $kind")
        values["kind"] = query.kind
    if query.agent:
        parts.append(" AND (sender = $agent OR addressee = $agent)")
        values["agent"] = query.agent
    if query.since:
        parts.append(" AND stored_us >= $since")
        values["since"] = micros(query.since)
    if query.until:
        parts.append(" AND stored_us <= $until")
        values["until"] = micros(query.until)
    return "".join(parts), values


def row_columns(row: Row) -> dict[str, Any]:
    """Columns of a projection's row; `rank` is its order from the other end."""
    return {
        "projection": row.projection,
        "key": row.key,
        "rank": -row.order,
        "tags": row.tags,
        "state": row.state,
    }


def read_row(found: dict[str, Any]) -> Row:
    """The row that columns hold."""
    return Row(
        projection=found["projection"],
        key=found["key"],
        state=found["state"],
        order=-found["rank"],
        tags=found["tags"],
    )


def checkpoint_columns(checkpoint: Checkpoint) -> dict[str, Any]:
    """Columns of a checkpoint."""
    created_at = checkpoint.log_created_at
    return {
        "first": checkpoint.first,
        "position": checkpoint.position,
        "count": checkpoint.count,
        "chain": checkpoint.chain,
        "log_created_us": micros(created_at) if created_at else 0,
    }


def read_checkpoint(shard: str, found: dict[str, Any]) -> Checkpoint:
    """The checkpoint that columns hold."""
    created_us = found["log_created_us"]
    return Checkpoint(
        shard=shard,
        first=found["first"],
        position=found["position"],
        count=found["count"],
        chain=found["chain"],
        log_created_at=_instant(created_us) if created_us else None,
    )


def _instant(us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=us)
