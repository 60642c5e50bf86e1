"""The front door's decisions: read, decide in the core, append, and settle what was refused.

Source: design, sections 3 and 4.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from anyio import to_thread

from mesh.blob.claim import check_in
from mesh.core import decide
from mesh.core.envelope import DEFAULT_MAX_HOPS, Envelope, TraceContext
from mesh.core.event import InputReceived, Redriven, Signaled, TaskEvent, Unparked
from mesh.core.ids import derived_id, keyed_task_id
from mesh.core.payload import Payload
from mesh.core.point import Point, state_at
from mesh.core.subject import RESERVED, check_name
from mesh.core.task import EMPTY, Task
from mesh.errors import (
    AgentUnknown,
    Fenced,
    Invalid,
    KeyConflict,
    NameInvalid,
    PayloadInvalid,
    TaskClosed,
    TaskUnknown,
)
from mesh.gateway.answer import check_answer
from mesh.gateway.fanout import Fanout, open_fanout
from mesh.gateway.question import open_question
from mesh.gateway.reading import Reading
from mesh.gateway.submission import (
    Submission,
    Submitted,
    check_budget,
    check_sizes,
    first_agent,
    same_input,
)
from mesh.gateway.writing import Parts, Writing
from mesh.telemetry.context import stamped

__all__ = ["Desk", "Parts", "open_desk"]

_ALIVE_S = 2.0
"""How long an instance that was seen counts as there: the answer is only good for a warning."""


class Desk:
    """Submit, read, cancel, answer and so on; any number of gateways may do so at once."""

    def __init__(self, parts: Parts, fanout: Fanout) -> None:
        self.parts, self.fanout = parts, fanout
        self._writing = Writing(parts)
        self._known: set[str] = set()
        self._seen_alive: dict[str, float] = {}

    async def submit(self, submission: Submission) -> Submitted:
        """Begin a task, or find the one that this key or request began.

        Raises:
            NameInvalid: The agent's name cannot be one.
            AgentUnknown: No agent of this name was ever registered.
            PayloadTooLarge: The input is over 64 MiB.
            PayloadInvalid: The input is a claim check: only the gateway makes those.
            Invalid: Labels, objective, key or correlation id are too large to go with every event;
                or the budget is none.
            KeyConflict: The key belongs to a task with another agent or input.
            Unresolved: The append got no answer in time; submit again with the same ids.
            Unavailable: The log, the registry or the ledger does not answer.
        """
        check_sizes(submission)
        check_budget(submission.budget)
        warnings = await self._check_agent(submission.agent)
        task_id = self._task_id(submission)
        if submission.input is not None:
            _check_bytes(submission.input, "input.blob")
        known = await self._known_before(submission, task_id)
        if known is not None:
            return replace(known, warnings=warnings)
        envelope = await self._first_event(submission, task_id)
        try:
            await self._writing.append(envelope, expected=0)
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
        return await self._writing.read(task_id)

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

        def cancelled(reading: Reading) -> TaskEvent | None:
            task = reading.task
            if task.cancel_requested and not task.closed:
                return None
            return decide.request_cancel(task, reason=reason)

        request = self._writing.request("", trace)
        reading = await self._writing.move(task_id, request, cancelled, event_id=request.id)
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

        def redriven(reading: Reading) -> TaskEvent:
            return decide.redrive(reading.task, input=_dead_input(reading))

        request = self._writing.request(request_id, trace)
        event_id = derived_id(request.id, Redriven.kind)
        return await self._writing.move(task_id, request, redriven, event_id=event_id)

    async def unpark(
        self,
        task_id: str,
        *,
        reason: str = "",
        request_id: str = "",
        trace: TraceContext | None = None,
    ) -> Reading:
        """Let a parked task go on.

        Args:
            task_id: The task.
            reason: Why, for the record.
            request_id: The caller's, over the retries of one request; fresh when empty.
            trace: Trace context of the caller, to go on in the event.

        Raises:
            TaskUnknown: There is no such task.
            NotParked: It is not held, or was released already.
            Fenced: The task moved faster than the request could follow.
        """
        request = self._writing.request(request_id, trace)
        return await self._writing.move(
            task_id,
            request,
            lambda reading: decide.unpark(reading.task, reason=reason),
            event_id=derived_id(request.id, Unparked.kind),
        )

    async def answer(
        self,
        task_id: str,
        answer: Payload,
        *,
        question_id: str = "",
        request_id: str = "",
        trace: TraceContext | None = None,
    ) -> Reading:
        """Answer an open question of a task; of several answers the first in the log counts.

        Args:
            task_id: The task.
            answer: JSON where the question has a schema.
            question_id: Which question; may be empty while only one is open.
            request_id: The caller's, over the retries of one request; fresh when empty.
            trace: Trace context of the caller, to go on in the event.

        Raises:
            TaskUnknown: There is no such task.
            TaskClosed: It has an outcome already.
            QuestionClosed: The question was answered, has expired, or is not open.
            AnswerInvalid: The answer does not fit the question's schema; the question stays open.
            Refused: No question is open, or its schema is of no use.
            Invalid: Several are open and none was named, or the request id was used for another.
            PayloadTooLarge: The answer is too large.
            Contested: The task moved faster than the request could follow.
        """
        _check_bytes(answer, "answer.blob")

        async def answered(reading: Reading, before: Sequence[Envelope]) -> TaskEvent:
            named = next((_question_of(envelope) for envelope in before), question_id)
            question = open_question(reading, named)
            await to_thread.run_sync(check_answer, question, answer)
            kept = await check_in(answer, self.parts.blobs)
            return InputReceived(request_id=question.id, answer=kept)

        request = self._writing.request(request_id, trace)
        reading, counts = await self._writing.inform(task_id, request, InputReceived, answered)
        if question_id not in ("", _question_of(counts)):
            raise _used_before(request_id)
        return reading

    async def signal(
        self,
        task_id: str,
        name: str,
        value: Payload | None = None,
        *,
        request_id: str = "",
        trace: TraceContext | None = None,
    ) -> Reading:
        """Give a task a named signal; it waits there until somebody asks for it.

        Args:
            task_id: The task.
            name: `[a-z][a-z0-9-]{0,62}`.
            value: What goes with it.
            request_id: The caller's, over the retries of one request; fresh when empty.
            trace: Trace context of the caller, to go on in the event.

        Raises:
            TaskUnknown: There is no such task.
            TaskClosed: It has an outcome already.
            NameInvalid: The name cannot be one.
            Invalid: The request id was used for another signal.
            PayloadTooLarge: The value is over 64 MiB.
            Contested: The task moved faster than the request could follow.
        """
        check_name(name)
        if value is not None:
            _check_bytes(value, "value.blob")

        async def signaled(reading: Reading, _: Sequence[Envelope]) -> TaskEvent:
            task = reading.task
            if task.closed:
                raise TaskClosed(task_id, state=task.state)
            kept = value and await check_in(value, self.parts.blobs)
            return Signaled(name=name, value=kept)

        request = self._writing.request(request_id, trace)
        reading, counts = await self._writing.inform(task_id, request, Signaled, signaled)
        if isinstance(counts.event, Signaled) and counts.event.name != name:
            raise _used_before(request_id)
        return reading

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
        return self._writing.request(submission.request_id).id

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
            EMPTY,
            input=payload,
            objective=submission.objective,
            key=submission.key,
            budget=submission.budget,
        )
        envelope = Envelope(
            event_id=derived_id(task_id, event.kind),
            tenant=self.parts.tenant,
            task_id=task_id,
            root_task_id=task_id,
            correlation_id=submission.correlation_id or task_id,
            sender=self._writing.sender,
            to=submission.agent,
            occurred_at=self.parts.clock.now(),
            event=event,
            max_hops=submission.max_hops or DEFAULT_MAX_HOPS,
            priority=submission.priority,
            deadline=submission.deadline,
            labels=dict(submission.labels),
        )
        return stamped(envelope, submission.trace)


def _dead_input(reading: Reading) -> Payload | None:
    """The payload of the delivery that was dead-lettered; None too if none was."""
    dead = reading.task.dead_letter
    for record in reading.records:
        envelope = record.envelope
        if envelope is not None and dead is not None and envelope.event_id == dead.delivery_id:
            return getattr(envelope.event, "input", None)
    return None


def _check_bytes(payload: Payload, field: str) -> None:
    if payload.blob is not None:
        raise PayloadInvalid("send the bytes, not a claim check", field=field)


def _question_of(envelope: Envelope) -> str:
    event = envelope.event
    return event.request_id if isinstance(event, InputReceived) else ""


def _used_before(request_id: str) -> Invalid:
    return Invalid(f"request_id `{request_id}` was used for something else; take a fresh one")


@asynccontextmanager
async def open_desk(parts: Parts) -> AsyncGenerator[Desk]:
    """A gateway at work; leaving ends what its watchers followed."""
    async with open_fanout(parts.bus) as fanout:
        yield Desk(parts, fanout)
