"""Following one task, and following the log.

Source: design, section 3; `gateway.proto`, WatchTask and TailEvents.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import anyio

from mesh.bus.port import Bus, LogInfo
from mesh.core.envelope import Record
from mesh.core.fold import evolve
from mesh.core.subject import Subject
from mesh.core.task import Task
from mesh.errors import Invalid, NameInvalid
from mesh.gateway.desk import Desk
from mesh.gateway.fanout import Came, Subscription
from mesh.gateway.live import Chunk, LiveOrder, ask_again

__all__ = ["UNREADABLE", "TailQuery", "Update", "tail", "watch", "watch_live"]

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
    async with aclosing(watch_live(desk, task_id, after=after, order=None)) as updates:
        async for update in updates:
            if isinstance(update, Update):  # without an order, it always is one
                yield update


async def watch_live(
    desk: Desk, task_id: str, *, after: int, order: LiveOrder | None
) -> AsyncGenerator[Update | Chunk]:
    """The same, with live output between the events as far as it arrives.

    It may have gaps, which the events that record it fill; None for an order asks for none of it.
    """
    reading = await desk.read(task_id)
    shard, head = reading.shard, reading.task
    yield Update(task=head, shard=shard)
    task = Task()
    for record in reading.records:
        task = evolve(task, record)
        if order is not None:
            order.note(record, anyio.current_time())
        if record.position > after:
            yield Update(task=task, shard=shard, record=record)
    if task.closed:
        return
    async with desk.fanout.subscribe(shard, task_id, live=order is not None) as subscription:
        async for came in _new(desk.parts.bus, subscription, head, order or LiveOrder()):
            if isinstance(came, Chunk):
                yield came
                continue
            task = evolve(task, came)
            if came.position > after:
                yield Update(task=task, shard=shard, record=came)
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


async def _new(
    bus: Bus, subscription: Subscription, head: Task, order: LiveOrder
) -> AsyncGenerator[Record | Chunk]:
    seen = head.position
    came: Record | Came = Came.MISSED  # between the first read and the subscription
    while True:
        records = [came] if isinstance(came, Record) else []
        if came is Came.MISSED:
            records = await bus.history(head.task_id, root_task_id=head.root_task_id, after=seen)
        for record in records:
            if record.position > seen:
                seen = record.position
                order.note(record, anyio.current_time())
                yield record
        for chunk in subscription.live():
            order.put(chunk, anyio.current_time())
        for chunk in order.ready(anyio.current_time()):
            yield chunk
        if order.asks(anyio.current_time()):
            await ask_again(bus, head.task_id)
        came = Came.LIVE
        with anyio.move_on_after(order.wait_s(anyio.current_time())):
            came = await subscription.next()


async def _log(bus: Bus, shard: str) -> LogInfo:
    logs = {log.shard: log for log in await bus.info()}
    if shard not in logs:
        raise Invalid(f"shard `{shard}` does not exist; there are {', '.join(logs)}")
    return logs[shard]
