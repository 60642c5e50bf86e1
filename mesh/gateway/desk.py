"""The front door's decisions: read, decide in the core, append, and settle what was refused.

Source: design, sections 3 and 4.
"""

import re
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from mesh.blob.claim import check_in
from mesh.blob.port import BlobStore
from mesh.bus.port import Bus
from mesh.bus.settle import settle
from mesh.clock import Clock, IdSource
from mesh.core import decide
from mesh.core.envelope import DEFAULT_MAX_HOPS, Envelope, Sender, TraceContext
from mesh.core.event import Redriven, TaskEvent
from mesh.core.ids import derived_id, keyed_task_id
from mesh.core.payload import Payload
from mesh.core.point import Point, state_at
from mesh.core.subject import RESERVED, check_name, shard_of
from mesh.core.task import EMPTY, Task
from mesh.errors import (
    AgentUnknown,
    Fenced,
    Invalid,
    KeyConflict,
    NameInvalid,
    PayloadInvalid,
    TaskUnknown,
)
from mesh.gateway.fanout import Fanout, open_fanout
from mesh.gateway.reading import Archive, Reading, read
from mesh.gateway.submission import (
    Submission,
    Submitted,
    check_sizes,
    first_agent,
    same_input,
)
from mesh.registry.port import Registry
from mesh.telemetry.context import stamped
from mesh.telemetry.names import SENT, sending
from mesh.telemetry.port import Telemetry

__all__ = ["Desk", "Parts", "open_desk"]

GATEWAY = "gateway"
_ID = re.compile(r"[0-9a-f]{32}")
_ALIVE_S = 2.0
"""How long an instance that was seen counts as there: the answer is only good for a warning."""
_TRIES = 8
"""How often a refused cancel or redrive is decided again; each refusal means the task moved."""


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


class Desk:
    """Submit, read, cancel, redrive; any number of gateways may do so at once."""

    def __init__(self, parts: Parts, fanout: Fanout) -> None:
        self.parts, self.fanout = parts, fanout
        self._known: set[str] = set()
        self._seen_alive: dict[str, float] = {}

    async def submit(self, submission: Submission) -> Submitted:
        """Begin a task, or find the one that this key or request began.

        Raises:
            NameInvalid: The agent's name cannot be one.
            AgentUnknown: No agent of this name was ever registered.
            PayloadTooLarge: The input is over 64 MiB.
            PayloadInvalid: The input is a claim check: only the gateway makes those.
            Invalid: Labels, objective, key or correlation id are too large to go with every event.
            KeyConflict: The key belongs to a task with another agent or input.
            Unresolved: The append got no answer in time; submit again with the same ids.
            Unavailable: The log, the registry or the ledger does not answer.
        """
        check_sizes(submission)
        warnings = await self._check_agent(submission.agent)
        task_id = self._task_id(submission)
        if submission.input is not None and submission.input.blob is not None:
            raise PayloadInvalid("send the bytes, not a claim check", field="input.blob")
        known = await self._known_before(submission, task_id)
        if known is not None:
            return replace(known, warnings=warnings)
        envelope = await self._first_event(submission, task_id)
        try:
            await self._append(envelope, expected=0)
        except Fenced:
            reading = await self.read(task_id)
            return replace(self._same(submission, reading), warnings=warnings)
        # Two submits of one id in this process write the same event from the same instance: the
        # log takes the second for a repetition of the first. Only the record tells whose it is.
        reading = await self.read(task_id)
        if reading.records[0].envelope != envelope:
            return replace(self._same(submission, reading), warnings=warnings)
        return Submitted(task=reading.task, shard=reading.shard, warnings=warnings)

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

    async def state(self, task_id: str, point: Point) -> tuple[Task, str]:
        """State at a point of a task's history, and the shard it stands in."""
        reading = await self.read(task_id)
        return state_at(reading.records, point), reading.shard

    async def cancel(
        self, task_id: str, *, reason: str, trace: TraceContext | None = None
    ) -> Reading:
        """Ask the owner to wind up; asking again changes nothing.

        Raises:
            TaskUnknown: There is no such task.
            TaskClosed: It has an outcome already.
            Fenced: The task moved faster than the request could follow.
        """

        def request(reading: Reading) -> Envelope | None:
            task = reading.task
            if task.cancel_requested and not task.closed:
                return None
            event = decide.request_cancel(task, reason=reason)
            event_id = self.parts.ids.fresh()
            return self._next(reading, event, event_id=event_id, to=task.owner, trace=trace)

        reading = await self._move(task_id, request)
        # Outside the log: it makes a running handler stop at once, and may be lost.
        await self.parts.bus.hint(f"cancel.{task_id}")
        return reading

    async def redrive(
        self, task_id: str, *, request_id: str = "", trace: TraceContext | None = None
    ) -> Reading:
        """Give a dead-lettered delivery to its agent again.

        Args:
            task_id: The task.
            request_id: The caller's, over the retries of one request; fresh when empty.
            trace: Trace context of the caller, to go on in the event.

        Raises:
            TaskUnknown: There is no such task.
            NotDeadLettered: It did not end as a dead letter, or was redriven already.
            Fenced: The task moved faster than the request could follow.
        """
        cause = self._request_id(request_id)
        event_id = derived_id(cause, Redriven.kind)

        def request(reading: Reading) -> Envelope | None:
            if any(r.envelope and r.envelope.event_id == event_id for r in reading.records):
                return None
            dead = reading.task.dead_letter
            event = decide.redrive(reading.task, input=_dead_input(reading))
            to = dead.agent if dead else reading.task.owner
            return self._next(reading, event, event_id=event_id, to=to, trace=trace)

        return await self._move(task_id, request)

    async def _check_agent(self, agent: str) -> tuple[str, ...]:
        if check_name(agent) in RESERVED:
            raise NameInvalid(f"`{agent}` is reserved: no agent has this name")
        if agent not in self._known:
            # A card never expires, so what was seen once needs no second look.
            if await self.parts.registry.card(agent) is None:
                raise AgentUnknown(agent)
            self._known.add(agent)
        now = self.parts.clock.monotonic()
        if now - self._seen_alive.get(agent, -_ALIVE_S) < _ALIVE_S:
            return ()
        if await self.parts.registry.presences(agent):
            self._seen_alive[agent] = now
            return ()
        return (f"no instance of agent `{agent}` is running now; the task waits for one",)

    def _task_id(self, submission: Submission) -> str:
        if submission.key:
            return keyed_task_id(self.parts.tenant, submission.key)
        return self._request_id(submission.request_id)

    def _request_id(self, request_id: str) -> str:
        if request_id and not _ID.fullmatch(request_id):
            raise Invalid(f"request_id `{request_id}` is not 32 lower-case hex digits")
        return request_id or self.parts.ids.fresh()

    async def _known_before(self, submission: Submission, task_id: str) -> Submitted | None:
        """The task of a key, when the log may have forgotten it: its fence says 0 again then."""
        if not submission.key or all(log.first <= 1 for log in await self.parts.bus.info()):
            return None
        try:
            return self._same(submission, await self.read(task_id))
        except TaskUnknown:
            return None

    @staticmethod
    def _same(submission: Submission, reading: Reading) -> Submitted:
        task = reading.task
        same = first_agent(task) == submission.agent and same_input(task.input, submission.input)
        if not same:
            key = submission.key or submission.request_id
            raise KeyConflict(key, task_id=task.task_id)
        return Submitted(task=task, shard=reading.shard, duplicate=True)

    async def _first_event(self, submission: Submission, task_id: str) -> Envelope:
        payload = submission.input
        if payload is not None:
            payload = await check_in(payload, self.parts.blobs)
        event = decide.submit(
            EMPTY, input=payload, objective=submission.objective, key=submission.key
        )
        envelope = Envelope(
            event_id=derived_id(task_id, event.kind),
            tenant=self.parts.tenant,
            task_id=task_id,
            root_task_id=task_id,
            correlation_id=submission.correlation_id or task_id,
            sender=self._sender(),
            to=submission.agent,
            occurred_at=self.parts.clock.now(),
            event=event,
            max_hops=submission.max_hops or DEFAULT_MAX_HOPS,
            priority=submission.priority,
            deadline=submission.deadline,
            labels=dict(submission.labels),
        )
        return stamped(envelope, submission.trace)

    def _sender(self) -> Sender:
        return Sender(agent=GATEWAY, instance=self.parts.instance)

    def _next(
        self,
        reading: Reading,
        event: TaskEvent,
        *,
        event_id: str,
        to: str,
        trace: TraceContext | None,
    ) -> Envelope:
        envelope = reading.last.next(
            event, event_id=event_id, sender=self._sender(), occurred_at=self.parts.clock.now()
        )
        hops = reading.task.hops
        return stamped(replace(envelope, to=to, hop=hops), trace)

    async def _move(self, task_id: str, request: Callable[[Reading], Envelope | None]) -> Reading:
        """Read, decide, append; decide anew as long as somebody else moves the task first."""
        refusals = 0
        while True:
            reading = await self.read(task_id)
            envelope = request(reading)
            if envelope is None:
                return reading
            try:
                await self._append(envelope, expected=reading.fence)
            except Fenced:
                refusals += 1
                if refusals == _TRIES:
                    raise
            else:
                return await self.read(task_id)

    async def _append(self, envelope: Envelope, *, expected: int) -> None:
        parts = self.parts
        parts.telemetry.count(SENT)
        with parts.telemetry.span(sending(envelope, shard_of(envelope.root_task_id, parts.shards))):
            await settle(
                parts.bus,
                [envelope],
                {envelope.task_id: expected},
                deadline_s=parts.settle_s,
                jitter=parts.ids.random,
            )


def _dead_input(reading: Reading) -> Payload | None:
    """The payload of the delivery that was dead-lettered; None too if none was."""
    dead = reading.task.dead_letter
    for record in reading.records:
        envelope = record.envelope
        if envelope is not None and dead is not None and envelope.event_id == dead.delivery_id:
            return getattr(envelope.event, "input", None)
    return None


@asynccontextmanager
async def open_desk(parts: Parts) -> AsyncGenerator[Desk]:
    """A gateway at work; leaving ends what its watchers followed."""
    async with open_fanout(parts.bus) as fanout:
        yield Desk(parts, fanout)
