"""Events, rows and commits for tests of stores."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING

from mesh.core.envelope import Envelope, Record, Sender
from mesh.core.event import Completed, HandedOff, Noted, TaskSubmitted
from mesh.core.payload import Payload
from mesh.store.port import Checkpoint, Commit, Row, StoredEvent
from mesh.wire.codec import encode, read_record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mesh.core.event import TaskEvent

START = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def id_of(number: int) -> str:
    """A readable id: 32 hex digits."""
    return f"{number:032x}"


def envelope(
    number: int, event: TaskEvent, *, task: int = 1, to: str = "log", by: str = "writer"
) -> Envelope:
    return Envelope(
        event_id=id_of(1_000_000 + number),
        tenant="default",
        task_id=id_of(task),
        root_task_id=id_of(task),
        sender=Sender(agent=by, instance=f"{by}-1"),
        occurred_at=START + timedelta(seconds=number),
        event=event,
        to=to,
    )


def record(position: int, env: Envelope, *, shard: str = "s0") -> Record:
    return read_record(
        position, START + timedelta(seconds=position), str(env.subject(shard)), encode(env)
    )


def stored(rec: Record, *, shard: str = "s0") -> StoredEvent:
    env = rec.envelope
    return StoredEvent(
        shard=shard,
        record=rec,
        chain=sha256(rec.raw).digest(),
        task_id=env.task_id if env else "",
        kind=env.kind if env else "",
        sender=env.sender.agent if env else "",
        to=env.to if env else "",
    )


def story(shard: str = "s0") -> list[StoredEvent]:
    """Eight events of two tasks, with all that queries tell apart."""
    text = Payload(content_type="text/plain", data=b"hello")
    told = [
        envelope(1, TaskSubmitted(input=text), task=1, to="planner", by="gateway"),
        envelope(2, Noted(constraints=("short",)), task=1, by="planner"),
        envelope(3, TaskSubmitted(input=text), task=2, to="writer", by="gateway"),
        envelope(4, HandedOff(input=text), task=1, to="writer", by="planner"),
        envelope(5, Completed(result=text), task=2, by="writer"),
        envelope(6, Noted(), task=1, by="writer"),
        envelope(7, Completed(result=text), task=1, by="writer"),
        envelope(8, TaskSubmitted(), task=3, to="planner", by="gateway"),
    ]
    return [stored(record(n, env, shard=shard), shard=shard) for n, env in enumerate(told, start=1)]


def after(before: Checkpoint, events: Sequence[StoredEvent]) -> Checkpoint:
    """The checkpoint that follows on these events."""
    return replace(
        before,
        first=before.first or events[0].record.position,
        position=events[-1].record.position,
        count=before.count + len(events),
        chain=events[-1].chain,
        log_created_at=START,
    )


def commit(before: Checkpoint, events: Sequence[StoredEvent], rows: Sequence[Row] = ()) -> Commit:
    return Commit(events=events, rows=rows, checkpoint=after(before, events))
