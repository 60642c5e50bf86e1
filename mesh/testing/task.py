"""A task of a mesh in one process: what is done to it, and what a test looks at."""

import json
from collections.abc import Awaitable, Callable, Container, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from mesh.agent.payload import JSON, decode_plain, decode_value, encode_value
from mesh.blob.claim import redeem
from mesh.blob.port import BlobStore
from mesh.core import event as e
from mesh.core.envelope import Record
from mesh.core.fold import fold
from mesh.core.leg import Leg, Question
from mesh.core.packet import RelayPacket
from mesh.core.payload import Failure, Payload
from mesh.core.task import State, Task
from mesh.errors import TaskCanceled, TaskFailed, TaskRejected, Unsuccessful
from mesh.gateway.desk import Desk
from mesh.testing.journal import Journal

__all__ = ["Insides", "LocalTask", "RecordedStep", "Waiting"]

# Any: values have the types of their authors.

_UNSUCCESSFUL: dict[State, type[Unsuccessful]] = {
    State.FAILED: TaskFailed,
    State.REJECTED: TaskRejected,
    State.CANCELED: TaskCanceled,
}


@dataclass(frozen=True, slots=True)
class Waiting:
    """One thing that a suspended task waits for.

    Attributes:
        what: `child`, `timer`, `input` or `signal`.
        name: The child's agent, the prompt of the question, or the name of the signal; of a timer
            `retry` for the pause before one, "" for a sleep.
        until: When the timer fires, or the question expires; None for ever.
    """

    what: str
    name: str = ""
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """A step as it stands in the history.

    Attributes:
        name: As the handler called it; of an undo, the name of its function.
        value: What it returned, as plain JSON, text or bytes; its `Blob` if it is over 256 KiB.
        error: Why it failed for good, "" if it did not.
        undo: Whether it was run to undo something.
    """

    name: str
    value: Any = None
    error: str = ""
    undo: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Insides:
    """What a task of the kit is made of; `settle` runs until nothing is running."""

    desk: Desk
    journal: Journal
    blobs: BlobStore
    settle: Callable[[], Awaitable[None]]


class LocalTask:
    """One task.

    What is read of it is as of now, and needs no waiting; while the mesh is settled it stands
    still. What is done to it only tells its agent: `settled`, `result` and `LocalMesh.advance` let
    it run.
    """

    def __init__(self, insides: Insides, task_id: str) -> None:
        self.id = task_id
        self._insides = insides

    def __repr__(self) -> str:
        return f"<task {self.id} of `{self.owner}`: {self.state}>"

    @property
    def history(self) -> tuple[Record, ...]:
        """Its records, oldest first; for `first_divergence`, or to be kept with `save_history`."""
        return self._insides.journal.history(self.id)

    @property
    def events(self) -> list[e.TaskEvent]:
        """Its events, oldest first."""
        return [record.envelope.event for record in self.history if record.envelope]

    @property
    def kinds(self) -> list[str]:
        """The kinds of its events without `task.`: `submitted`, `step_recorded`, `completed`."""
        return [event.kind.removeprefix("task.") for event in self.events]

    @property
    def folded(self) -> Task:
        """All that its history folds to."""
        return fold(self.history)

    @property
    def state(self) -> State:
        """`COMPLETED` and so on; compares with text."""
        return self.folded.state

    @property
    def owner(self) -> str:
        """The agent that has it, or had it last."""
        return self.folded.owner

    @property
    def steps(self) -> list[RecordedStep]:
        """The steps that were recorded, in order, of all agents that had it."""
        return [
            _step(event)
            for event in self.events
            if isinstance(event, e.StepRecorded) and not event.name.startswith("ctx.")
        ]

    @property
    def output(self) -> str:
        """The text that its handlers emitted, as far as it is recorded."""
        return "".join(v.text for v in self.events if isinstance(v, e.ProgressReported))

    @property
    def children(self) -> "list[LocalTask]":
        """The tasks that it delegated, in order."""
        found = [event.child_task_id for event in self.events if isinstance(event, e.Delegated)]
        return [LocalTask(self._insides, task_id) for task_id in found]

    @property
    def waiting_for(self) -> list[Waiting]:
        """What it waits for; empty unless it is suspended."""
        leg = self.folded.leg
        # A timer that the handler did not ask for is a pause before a retry.
        timers = [event for event in self.events if isinstance(event, e.TimerSet)]
        pauses = {timer.timer_id for timer in timers if not timer.ordinal}
        return [_waiting(leg, wait, pauses) for wait in leg.waits] if leg else []

    @property
    def questions(self) -> tuple[Question, ...]:
        """The questions that are open."""
        leg = self.folded.leg
        return leg.questions if leg else ()

    @property
    def parked(self) -> e.Parked | None:
        """Where a run left its history; None unless it is held for that."""
        leg = self.folded.leg
        return leg.parked if leg else None

    @property
    def failure(self) -> Failure | None:
        """Why it ended badly: code, message, details."""
        return self.folded.failure

    @property
    def dead_lettered(self) -> bool:
        """Whether its attempts were used up, so that it can be redriven."""
        return self.folded.dead_letter is not None

    @property
    def spent(self) -> Mapping[str, int]:
        """What it used or has reserved for its children, by counter."""
        return self.folded.spent

    @property
    def packet(self) -> RelayPacket | None:
        """The relay packet of its last handoff; None if it was never handed off."""
        handed = [v.packet for v in self.events if isinstance(v, e.HandedOff)]
        return handed[-1] if handed else None

    async def input(self, as_type: Any = Any) -> Any:
        """What the agent that has it was given.

        Args:
            as_type: The type to read it as; plain JSON, text or bytes if not given.

        Raises:
            PayloadInvalid: It does not fit the type.
        """
        given = [v.input for v in self.events if isinstance(v, e.OPENING)]
        return await self._value(given[-1], as_type)

    async def settled(self) -> "LocalTask":
        """Run until nothing of the mesh is running: this task is suspended, parked or closed.

        Raises:
            TimeoutError: Something still runs; the text names task and agent.
        """
        await self._insides.settle()
        return self

    async def result(self, as_type: Any = Any) -> Any:
        """The result, once nothing is running.

        Args:
            as_type: The type to read it as; plain JSON, text or bytes if not given.

        Raises:
            TaskFailed: It failed, or was dead-lettered.
            TaskRejected: An agent would not take it.
            TaskCanceled: It was cancelled.
            PayloadInvalid: The result does not fit the type.
            TimeoutError: It has no outcome; the text says what it waits for.
        """
        await self._insides.settle()
        task = self.folded
        if not task.closed:
            raise TimeoutError(f"task `{self.id}` has no outcome: {self._why_open()}")
        if kind := _UNSUCCESSFUL.get(task.state):
            failure = task.failure or Failure(code="", message=task.cancel_reason)
            raise kind(self.id, state=task.state, reason=failure.message, failure_code=failure.code)
        return None if task.result is None else await self._value(task.result, as_type)

    async def answer(self, value: Any, *, question_id: str = "") -> None:
        """Answer an open question, as `mesh task answer` does; a `str` is a JSON string.

        Args:
            value: The answer.
            question_id: Which question; may be left out while only one is open.

        Raises:
            AnswerInvalid: The value does not fit; the question stays open.
            QuestionClosed: It was answered, has expired, or is not open.
            Refused: No question is open.
        """
        await self._insides.settle()
        payload = encode_value(value)
        if isinstance(value, str):
            payload = Payload(content_type=JSON, data=json.dumps(value).encode())
        await self._insides.desk.answer(self.id, payload, question_id=question_id)
        await self._insides.journal.read()

    async def signal(self, name: str, value: Any = None) -> None:
        """Give it a named signal; it is kept until its handler asks for it.

        Raises:
            TaskClosed: It has an outcome already.
        """
        payload = None if value is None else encode_value(value)
        await self._insides.desk.signal(self.id, name, payload)
        await self._insides.journal.read()

    async def cancel(self, reason: str = "") -> None:
        """Ask its agent to wind up.

        Raises:
            TaskClosed: It has an outcome already.
        """
        await self._insides.desk.cancel(self.id, reason=reason)
        await self._insides.journal.read()

    async def redrive(self) -> None:
        """Give what was dead-lettered to its agent again.

        Raises:
            NotDeadLettered: It did not end so.
        """
        await self._insides.settle()
        await self._insides.desk.redrive(self.id)
        await self._insides.journal.read()

    async def unpark(self, reason: str = "") -> None:
        """Let it go on after it was parked; mend its agent first, see `LocalMesh.replace`.

        Raises:
            NotParked: It is not held.
        """
        await self._insides.settle()
        await self._insides.desk.unpark(self.id, reason=reason)
        await self._insides.journal.read()

    async def _value(self, payload: Payload | None, as_type: Any) -> Any:
        whole = await redeem(payload or Payload(), self._insides.blobs)
        return decode_plain(whole) if as_type is Any else decode_value(whole, as_type)

    def _why_open(self) -> str:
        if parked := self.parked:
            return (
                f"it is parked at {parked.ordinal}, where `{self.owner}` recorded"
                f" {parked.recorded} and asked for {parked.asked}"
            )
        waits = ", ".join(_said(wait) for wait in self.waiting_for)
        return f"`{self.owner}` waits for {waits}" if waits else f"it rests at `{self.owner}`"


def _step(event: e.StepRecorded) -> RecordedStep:
    value = event.value
    return RecordedStep(
        event.name,
        None if value is None else value.blob or decode_plain(replace(value, blob=None)),
        event.failure.message if event.failure else "",
        event.undoes > 0,
    )


def _waiting(leg: Leg, wait: e.Wait, pauses: Container[str]) -> Waiting:
    match wait.what:
        case "timer":
            due = {timer.id: timer.fires_at for timer in leg.timers}
            return Waiting(wait.what, "retry" if wait.id in pauses else "", due.get(wait.id))
        case "input":
            asked = {question.id: question for question in leg.questions}[wait.id]
            return Waiting(wait.what, asked.prompt, asked.expires_at)
        case "child":
            agents = {child.id: child.agent for child in leg.children}
            return Waiting(wait.what, agents[wait.id])
        case _:
            return Waiting(wait.what, wait.id.rpartition("/")[0])


def _said(wait: Waiting) -> str:
    name = f" `{wait.name}`" if wait.name else ""
    return f"{wait.what}{name}" + (f" until {wait.until.isoformat()}" if wait.until else "")
