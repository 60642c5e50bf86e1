"""How a gateway writes: read, decide, append, and settle what was refused or came too late.

Source: design, sections 3 and 4.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from mesh.blob.port import BlobStore
from mesh.bus.port import Bus
from mesh.bus.settle import settle
from mesh.clock import Clock, IdSource
from mesh.core.envelope import Envelope, Record, Sender, TraceContext
from mesh.core.event import TaskEvent
from mesh.core.fold import evolve
from mesh.core.ids import derived_id
from mesh.core.subject import shard_of
from mesh.core.task import EMPTY, Task
from mesh.errors import Contested, Fenced, Invalid, NameInvalid
from mesh.gateway.reading import Archive, Reading, read, read_on
from mesh.registry.port import Registry
from mesh.telemetry.context import stamped
from mesh.telemetry.names import SENT, sending
from mesh.telemetry.port import Telemetry

__all__ = ["Parts", "Request", "Writing"]

GATEWAY = "gateway"
_ID = re.compile(r"[0-9a-f]{32}")
_TRIES = 8
"""How often a request is decided again; each time means that the task moved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a gateway works with; `settle_s` bounds how long an unanswered append is resolved."""

    bus: Bus
    blobs: BlobStore
    registry: Registry
    archive: Archive
    clock: Clock
    ids: IdSource
    telemetry: Telemetry
    tenant: str
    shards: int
    instance: str
    settle_s: float = 15.0


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a caller: its id over its retries, and the trace context it came with."""

    id: str
    trace: TraceContext | None = None


class Writing:
    """What every operation of a gateway that writes is made of."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    async def read(self, task_id: str) -> Reading:
        """A task's whole history and its fold; what was submitted is there.

        Raises:
            TaskUnknown: There is no such task.
            NameInvalid: The id is no task id.
            Unavailable: The log, or the ledger where it is needed, does not answer.
        """
        if not _ID.fullmatch(task_id):
            raise NameInvalid(f"task id `{task_id}` is not 32 lower-case hex digits")
        return await read(self.parts.bus, self.parts.archive, task_id)

    def request(self, request_id: str, trace: TraceContext | None = None) -> Request:
        """A caller's request; its id is fresh if the caller gave none.

        Raises:
            Invalid: The id is none.
        """
        if request_id and not _ID.fullmatch(request_id):
            raise Invalid(f"request_id `{request_id}` is not 32 lower-case hex digits")
        return Request(request_id or self.parts.ids.fresh(), trace)

    @property
    def sender(self) -> Sender:
        """Who writes."""
        return Sender(agent=GATEWAY, instance=self.parts.instance)

    async def move(
        self,
        task_id: str,
        request: Request,
        decide: Callable[[Reading], TaskEvent | None],
        *,
        event_id: str,
    ) -> Reading:
        """Append an event that moves a task, addressed to its owner.

        Args:
            task_id: The task.
            request: Whose trace context goes on.
            decide: The event, None if there is nothing to do; asked anew as long as somebody else
                moves the task first.
            event_id: The event's; nothing is done when it stands already.

        Raises:
            TaskUnknown: There is no such task.
            Fenced: The task moved faster than the request could follow.
        """
        refusals = 0
        while True:
            reading = await self.read(task_id)
            event = None if _mine(reading.records, EMPTY, [event_id]) else decide(reading)
            if event is None:
                return reading
            envelope = self._next(reading, event, event_id, request)
            try:
                await self.append(envelope, expected=reading.fence)
            except Fenced:
                refusals += 1
                if refusals == _TRIES:
                    raise
            else:
                return await self.read(task_id)

    async def inform(
        self,
        task_id: str,
        request: Request,
        kind: type[TaskEvent],
        decide: Callable[[Reading, Sequence[Envelope]], Awaitable[TaskEvent]],
    ) -> tuple[Reading, Envelope]:
        """Tell a task's owner something, until it stands where it counts.

        It has no fence: whether it came in time is read afterwards. One that reached an agent that
        had handed the task off before counts for nothing, so it is said to the next owner again.

        Args:
            task_id: The task.
            request: Of it the ids of the events are derived.
            kind: What is told.
            decide: The event, or a refusal; it is given the task as it is, and what this request
                wrote before that did not count.

        Returns:
            The task, and the event that counts; that may be another one than was decided now, if
            an earlier try of the request was about something else.

        Raises:
            TaskUnknown: There is no such task.
            Contested: The task moved faster than the request could follow.
        """
        event_ids = [derived_id(request.id, kind.kind, ordinal) for ordinal in range(_TRIES)]
        reading = await self.read(task_id)
        mine = _mine(reading.records, EMPTY, event_ids)
        for event_id in event_ids:
            for envelope, counts in mine:
                if counts:
                    return reading, envelope
            before = [envelope for envelope, _ in mine]
            event = await decide(reading, before)
            if any(envelope.event_id == event_id for envelope in before):
                continue
            await self._report(self._next(reading, event, event_id, request))
            # What was read is not read again: a report to a long history stays a small thing.
            seen, reading = reading, await read_on(self.parts.bus, reading)
            mine += _mine(reading.records[len(seen.records) :], seen.task, event_ids)
        for envelope, counts in mine:
            if counts:
                return reading, envelope
        raise Contested(f"task `{task_id}` changed hands {_TRIES} times meanwhile; try again")

    async def _report(self, envelope: Envelope) -> None:
        try:
            await self.append(envelope)
        except Fenced:
            return  # another gateway serves this very request: what it wrote is read next
        # Outside the log: whoever runs the task looks at once, and not on its next beat.
        await self.parts.bus.hint(f"look.{envelope.task_id}")

    async def append(self, envelope: Envelope, *, expected: int | None = None) -> None:
        """Append one event, fenced if it moves its task, and find out what became of it.

        Raises:
            Fenced: Another writer moved the task, or wrote an event of this id, first.
            Unresolved: No answer in time.
            Unavailable: The bus cannot be reached now.
            LogFull: The log takes no more.
        """
        parts = self.parts
        parts.telemetry.count(SENT)
        with parts.telemetry.span(sending(envelope, shard_of(envelope.root_task_id, parts.shards))):
            await settle(
                parts.bus,
                [envelope],
                {} if expected is None else {envelope.task_id: expected},
                deadline_s=parts.settle_s,
                jitter=parts.ids.random,
            )

    def _next(
        self, reading: Reading, event: TaskEvent, event_id: str, request: Request
    ) -> Envelope:
        task = reading.task
        envelope = reading.last.next(
            event, event_id=event_id, sender=self.sender, occurred_at=self.parts.clock.now()
        )
        return stamped(replace(envelope, to=task.owner, hop=task.hops), request.trace)


def _mine(
    records: Sequence[Record], task: Task, event_ids: Sequence[str]
) -> list[tuple[Envelope, bool]]:
    """The events of these ids that stand, and whether each changed what the task's owner has.

    `task` is the state before the first of the records.
    """
    if all(r.envelope is None or r.envelope.event_id not in event_ids for r in records):
        return []
    found: list[tuple[Envelope, bool]] = []
    for record in records:
        before, task = task, evolve(task, record)
        if record.envelope is not None and record.envelope.event_id in event_ids:
            found.append((record.envelope, task.leg != before.leg))
    return found
