"""The bus inside one process, in memory: for tests, and for trying an agent out."""

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING

import anyio

from mesh.bus.beside import beside
from mesh.bus.draft import Draft, drafts, standing
from mesh.bus.inproc_inbox import InprocInbox, Queue
from mesh.bus.port import HINT_LIMIT_BYTES, Backlog, Hint, Inbox, LogInfo
from mesh.clock import Clock, SystemClock
from mesh.core.envelope import Envelope, Record
from mesh.core.subject import MOVING, check_name, shard_of
from mesh.errors import Fenced, HistoryCorrupt, PayloadTooLarge, Unavailable, Unresolved
from mesh.wire.codec import read_record

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectSendStream

__all__ = ["Fault", "InprocBus"]

_LIMIT_BYTES = 1024 * 1024
"""As a NATS server has it by default, so that what passes here passes there."""
_HINTS_HELD = 256


class Fault(Enum):
    """What may go wrong with an append, for tests of its callers."""

    STORED = "stored"
    """It is stored, but the answer is lost: Unresolved."""
    LOST = "lost"
    """It is not stored, and there is no answer: Unresolved."""
    DOWN = "down"
    """Nothing can be sent: Unavailable."""


@dataclass(slots=True)
class _Log:
    created_at: datetime
    first: int = 1
    records: list[Record] = field(default_factory=list[Record])
    by_task: dict[str, list[Record]] = field(default_factory=dict[str, list[Record]])
    ids: dict[str, Record] = field(default_factory=dict[str, Record])
    changed: anyio.Event = field(default_factory=anyio.Event)

    @property
    def last(self) -> int:
        return self.first + len(self.records) - 1

    def wake(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()


class InprocBus:
    """A `Bus` of one process.

    `faults` are met one by one by the appends to come, before anything else.
    """

    def __init__(
        self,
        *,
        tenant: str = "default",
        shards: int = 1,
        clock: Clock | None = None,
        ack_wait_s: float = 10.0,
    ) -> None:
        self._tenant = check_name(tenant)
        self._clock = clock or SystemClock()
        self._ack_wait_s = ack_wait_s
        self._logs = {f"s{n}": _Log(self._clock.now()) for n in range(shards)}
        self._queues: dict[str, Queue] = {}
        self._listeners: list[tuple[list[str], MemoryObjectSendStream[Hint]]] = []
        self.faults: deque[Fault] = deque()

    async def append(
        self, envelopes: Sequence[Envelope], expected: Mapping[str, int]
    ) -> tuple[int, ...]:
        """As the port says."""
        batch = drafts(
            envelopes,
            expected,
            tenant=self._tenant,
            shards=len(self._logs),
            limit_bytes=_LIMIT_BYTES,
        )
        await anyio.lowlevel.checkpoint()
        fault = self.faults.popleft() if self.faults else None
        if fault is Fault.DOWN:
            raise Unavailable("the bus is down")
        if fault is Fault.LOST:
            raise Unresolved("no answer to an append")
        positions = self._store(batch)
        if fault is Fault.STORED:
            raise Unresolved("no answer to an append")
        return positions

    async def history(
        self, task_id: str, *, root_task_id: str = "", after: int = 0
    ) -> list[Record]:
        """As the port says."""
        await anyio.lowlevel.checkpoint()
        shards = [shard_of(root_task_id, len(self._logs))] if root_task_id else list(self._logs)
        return [
            record
            for shard in shards
            for record in self._logs[shard].by_task.get(task_id, ())
            if record.position > after
        ]

    async def head(self, task_id: str, *, root_task_id: str) -> Record | None:
        """As the port says."""
        await anyio.lowlevel.checkpoint()
        return self._last_moving(self._logs[shard_of(root_task_id, len(self._logs))], task_id)

    async def info(self) -> list[LogInfo]:
        """As the port says."""
        await anyio.lowlevel.checkpoint()
        return [
            LogInfo(shard=shard, first=log.first, last=log.last, created_at=log.created_at)
            for shard, log in self._logs.items()
        ]

    async def backlog(self, agent: str) -> Backlog:
        """As the port says."""
        await anyio.lowlevel.checkpoint()
        return self._queue(agent).backlog()

    @asynccontextmanager
    async def inbox(self, agent: str, *, max_held: int) -> AsyncGenerator[Inbox]:
        """As the port says."""
        inbox = InprocInbox(self._queue(agent), max_held=max_held)
        async with beside(inbox.beat):
            try:
                yield inbox
            finally:
                inbox.close()

    @asynccontextmanager
    async def tail(
        self, shard: str, *, after: int, batch: int = 500
    ) -> AsyncGenerator[AsyncIterator[list[Record]]]:
        """As the port says."""
        _check_tail(shard, self._logs[shard], after)
        yield self._tail(shard, after, batch)

    async def hint(self, topic: str, data: bytes = b"") -> None:
        """As the port says."""
        if len(data) > HINT_LIMIT_BYTES:
            raise PayloadTooLarge(size_bytes=len(data), limit_bytes=HINT_LIMIT_BYTES)
        hint = Hint(topic, data)
        parts = topic.split(".")
        for pattern, send in self._listeners:
            if len(pattern) == len(parts) and all(
                want in ("*", part) for want, part in zip(pattern, parts, strict=True)
            ):
                try:
                    send.send_nowait(hint)
                except anyio.WouldBlock:
                    continue  # a slow reader loses hints, as the port says
        await anyio.lowlevel.checkpoint()

    @asynccontextmanager
    async def hints(self, topic: str) -> AsyncGenerator[AsyncIterator[Hint]]:
        """As the port says."""
        send, receive = anyio.create_memory_object_stream[Hint](_HINTS_HELD)
        listener = (topic.split("."), send)
        self._listeners.append(listener)
        try:
            yield receive
        finally:
            self._listeners.remove(listener)
            send.close()
            receive.close()

    def put(self, subject: str, raw: bytes) -> int:
        """Store bytes as they are, as any other client of the log could; gives the position."""
        return self._keep(subject.split(".")[2], subject, raw).position

    def trim(self, shard: str, *, below: int) -> None:
        """Forget what stands below a position."""
        log = self._logs[shard]
        gone = log.records[: max(0, below - log.first)]
        log.records = log.records[len(gone) :]
        log.first += len(gone)
        for task_id in {record.subject.split(".")[4] for record in gone}:
            kept = [r for r in log.by_task[task_id] if r.position >= log.first]
            log.by_task[task_id] = kept

    def recreate(self, shard: str) -> None:
        """Replace a shard's log by a new, empty one."""
        old = self._logs[shard]
        self._logs[shard] = _Log(self._clock.now())
        old.wake()
        self._queues.clear()

    async def settled(self, agent: str) -> None:
        """Wait until nothing of an agent's is undone."""
        while await self.backlog(agent) != Backlog():
            await self._queue(agent).wait()

    def _queue(self, agent: str) -> Queue:
        queue = self._queues.get(check_name(agent))
        if queue is None:
            queue = Queue(clock=self._clock, ack_wait_s=self._ack_wait_s)
            for shard, log in self._logs.items():
                for record in log.records:
                    if record.subject.split(".")[3] == agent:
                        queue.offer(shard, record)
            self._queues[agent] = queue
        return queue

    def _store(self, batch: Sequence[Draft]) -> tuple[int, ...]:
        log = self._logs[batch[0].shard]
        known = standing(
            [log.ids[d.envelope.event_id] for d in batch if d.envelope.event_id in log.ids],
            [d.envelope for d in batch],
        )
        if len(known) == len(batch) and all(mine for _, mine in known.values()):
            return tuple(known[d.envelope.event_id][0] for d in batch)
        for draft in batch:
            head = self._last_moving(log, draft.task_id)
            actual = head.position if head else 0
            if draft.expected is not None and draft.expected != actual:
                raise Fenced(draft.task_id, expected=draft.expected, actual=actual)
        for draft in batch:
            if draft.envelope.event_id in known:
                position = known[draft.envelope.event_id][0]
                raise Fenced(draft.task_id, expected=draft.expected or 0, actual=position)
        stored = [self._keep(draft.shard, draft.subject, draft.raw) for draft in batch]
        return tuple(record.position for record in stored)

    def _keep(self, shard: str, subject: str, raw: bytes) -> Record:
        log = self._logs[shard]
        record = read_record(log.last + 1, self._clock.now(), subject, raw)
        parts = subject.split(".")
        log.records.append(record)
        log.by_task.setdefault(parts[4], []).append(record)
        if record.envelope is not None:
            log.ids.setdefault(record.envelope.event_id, record)
        if parts[3] in self._queues:
            self._queues[parts[3]].offer(shard, record)
        log.wake()
        return record

    @staticmethod
    def _last_moving(log: _Log, task_id: str) -> Record | None:
        moving = (
            record
            for record in reversed(log.by_task.get(task_id, []))
            if record.subject.split(".")[5] == MOVING
        )
        return next(moving, None)

    async def _tail(self, shard: str, after: int, batch: int) -> AsyncGenerator[list[Record]]:
        while True:
            log = self._logs[shard]
            _check_tail(shard, log, after)
            if after == log.last:
                await log.changed.wait()
                continue
            start = after + 1 - log.first
            records = log.records[start : start + batch]
            after = records[-1].position
            yield records


def _check_tail(shard: str, log: _Log, after: int) -> None:
    if after > log.last:
        raise HistoryCorrupt(
            f"shard `{shard}` ends at position {log.last}, a reader has seen {after}:"
            " the log was recreated"
        )
    if after + 1 < log.first:
        raise HistoryCorrupt(
            f"shard `{shard}` begins at position {log.first}, a reader needs {after + 1}:"
            " the log was trimmed"
        )
