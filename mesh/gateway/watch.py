"""Following one task, and following the log.

Source: design, section 3; `gateway.proto`, WatchTask and TailEvents.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from mesh.bus.port import Bus, LogInfo
from mesh.core.envelope import Record
from mesh.core.fold import evolve
from mesh.core.subject import Subject
from mesh.core.task import Task
from mesh.errors import Invalid, NameInvalid
from mesh.gateway.desk import Desk
from mesh.gateway.fanout import Subscription

__all__ = ["UNREADABLE", "TailQuery", "Update", "tail", "watch"]

UNREADABLE = "unreadable"
"""Kind of a record whose bytes are no envelope, where kinds are shown and asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """A task's state after `record`; the first one has none and is the state now."""

    task: Task
    shard: str
    record: Record | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TailQuery:
    """Which events to follow; empty fields do not filter, `agent` is sender or addressee.

    `first` is the first position to send, 0 for only new ones.
    """

    shard: str = "s0"
    first: int = 0
    task_id: str = ""
    agent: str = ""
    kind: str = ""

    def takes(self, record: Record) -> bool:
        """Whether a record passes the filter; of an unreadable one its subject is asked."""
        kind = record.envelope.kind if record.envelope else UNREADABLE
        if self.kind not in ("", kind):
            return False
        try:
            stands = Subject.parse(record.subject)
        except NameInvalid:
            return not (self.task_id or self.agent)
        return self.task_id in ("", stands.task_id) and self.agent in (
            "",
            stands.sender,
            stands.to,
        )


async def watch(desk: Desk, task_id: str, *, after: int = 0) -> AsyncGenerator[Update]:
    """The task now, then each event above `after` with the state after it, until it closes.

    Positions ascend without a gap or a repetition, so a caller goes on after any of them.

    Raises:
        TaskUnknown: There is no such task.
        Unavailable: The log cannot be read now.
    """
    reading = await desk.read(task_id)
    shard, head = reading.shard, reading.task
    yield Update(task=head, shard=shard)
    task = Task()
    for record in reading.records:
        task = evolve(task, record)
        if record.position > after:
            yield Update(task=task, shard=shard, record=record)
    if task.closed:
        return
    async with desk.fanout.subscribe(shard, task_id) as subscription:
        async for record in _new(desk.parts.bus, subscription, head):
            task = evolve(task, record)
            if record.position > after:
                yield Update(task=task, shard=shard, record=record)
            if task.closed:
                return


async def tail(bus: Bus, query: TailQuery) -> AsyncGenerator[Record]:
    """Events as they are stored, from a position on, for ever.

    Raises:
        Invalid: There is no such shard, or the position is not in the log.
        Unavailable: The log cannot be read now.
    """
    log = await _log(bus, query.shard)
    if query.first and not log.first <= query.first <= log.last + 1:
        raise Invalid(
            f"position {query.first} is not in the log, which has {log.first} to {log.last};"
            " `mesh events list` shows what the ledger keeps of older ones"
        )
    after = query.first - 1 if query.first else log.last
    async with bus.tail(query.shard, after=after) as batches:
        async for batch in batches:
            for record in batch:
                if query.takes(record):
                    yield record


async def _new(bus: Bus, subscription: Subscription, head: Task) -> AsyncGenerator[Record]:
    seen, missed = head.position, True  # between the first read and the subscription
    while True:
        if missed:
            for record in await bus.history(
                head.task_id, root_task_id=head.root_task_id, after=seen
            ):
                seen = record.position
                yield record
        came = await subscription.next()
        missed = came is None
        if came is not None and came.position > seen:
            seen = came.position
            yield came


async def _log(bus: Bus, shard: str) -> LogInfo:
    logs = {log.shard: log for log in await bus.info()}
    if shard not in logs:
        raise Invalid(f"shard `{shard}` does not exist; there are {', '.join(logs)}")
    return logs[shard]
