"""A task: the state that its history folds to.

`evolve` never refuses, because history already happened: what cannot be (an event of a closed
task, an unreadable message) counts as a version and changes nothing else. Refusing is the business
of `decide`, before an event is written.

Source: design, sections 2 and 4; state names from A2A.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from functools import reduce
from typing import Any

from mesh.core import event as e
from mesh.core.envelope import DEFAULT_MAX_HOPS, Envelope, Record
from mesh.core.packet import Decision, RelayPacket, bounded
from mesh.core.payload import Blob, Failure, Payload
from mesh.core.subject import MOVING

__all__ = ["EMPTY", "DeadLetter", "Hop", "State", "Task", "Turn", "evolve", "fold", "packet_of"]


class State(StrEnum):
    """Where a task stands; UNKNOWN before its submit was seen."""

    UNKNOWN = "UNKNOWN"
    SUBMITTED = "SUBMITTED"
    WORKING = "WORKING"
    INPUT_REQUIRED = "INPUT_REQUIRED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    REJECTED = "REJECTED"
    CANCELED = "CANCELED"


_SUBJECT_PARTS = 7
CLOSED = frozenset({State.COMPLETED, State.FAILED, State.REJECTED, State.CANCELED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """The stretch of work that one delivery carries.

    A claim is identified by its event id and the instance that wrote it; `attempts` counts claims
    and unclaimed failures since the last recorded progress.
    """

    delivery_id: str
    delivery_position: int
    claim_id: str = ""
    claim_instance: str = ""
    claim_open: bool = False
    attempts: int = 0
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One hand-off that happened."""

    source: str
    target: str
    position: int
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """The delivery that nobody could run, for the redrive."""

    delivery_id: str
    delivery_position: int
    agent: str
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Folded state of one task.

    `version` counts its records of both classes; `position` is the last one's place in the log,
    `moved` the last moving one's: what the next append is fenced on.
    """

    tenant: str = ""
    task_id: str = ""
    root_task_id: str = ""
    parent_task_id: str = ""
    correlation_id: str = ""
    forked_from: str = ""
    state: State = State.UNKNOWN
    owner: str = ""
    version: int = 0
    position: int = 0
    moved: int = 0
    hops: int = 0
    max_hops: int = DEFAULT_MAX_HOPS
    priority: int = 0
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    submitted_by: str = ""
    submitted_at: datetime | None = None
    updated_at: datetime | None = None
    closed_at: datetime | None = None
    deadline: datetime | None = None
    cancel_requested: bool = False
    cancel_reason: str = ""
    input: Payload | None = None
    result: Payload | None = None
    failure: Failure | None = None
    objective: str = ""
    next_task: str = ""
    constraints: tuple[str, ...] = ()
    decisions: tuple[Decision, ...] = ()
    open_questions: tuple[str, ...] = ()
    do_not_redo: tuple[str, ...] = ()
    artifacts: tuple[Blob, ...] = ()
    handoffs: tuple[Hop, ...] = ()
    turn: Turn | None = None
    dead_letter: DeadLetter | None = None

    @property
    def closed(self) -> bool:
        """Whether the task has an outcome."""
        return self.state in CLOSED


EMPTY = Task()
"""The state before any event."""


def fold(records: Iterable[Record], task: Task = EMPTY) -> Task:
    """Apply a history, or the rest of one, oldest first.

    For any history `h` and cut `k`: `fold(h[k:], fold(h[:k])) == fold(h)`.
    """
    return reduce(evolve, records, task)


def evolve(task: Task, record: Record) -> Task:
    """Apply one stored record; total over anything the log can hold, never refuses."""
    envelope = record.envelope
    moving = not _informs(record)
    seen = replace(
        task,
        version=task.version + 1,
        position=record.position,
        moved=record.position if moving else task.moved,
    )
    if envelope is None or not moving:
        return seen
    if task.state is State.UNKNOWN and not isinstance(envelope.event, e.TaskSubmitted):
        return seen
    if task.closed and not (isinstance(envelope.event, e.Redriven) and task.dead_letter):
        return seen
    apply = _APPLY.get(type(envelope.event))
    if apply is None:
        return seen
    after = apply(seen, envelope, envelope.event)
    return after if after is seen else replace(after, updated_at=envelope.occurred_at)


def packet_of(task: Task, *, next_task: str = "", synthesised: bool = False) -> RelayPacket:
    """The relay packet at this state: what the next agent must know.

    Args:
        task: Folded state, with what the writer is about to note already applied.
        next_task: What the next agent is asked to do, "" to keep what was said before.
        synthesised: True when not the owner makes it.
    """
    return bounded(
        RelayPacket(
            objective=task.objective,
            constraints=task.constraints,
            decisions=task.decisions,
            open_questions=task.open_questions,
            do_not_redo=task.do_not_redo,
            artifacts=task.artifacts,
            next_task=next_task or task.next_task,
            as_of=task.position,
            synthesised=synthesised,
        )
    )


def noted(task: Task, event: e.Noted) -> Task:
    """Add what an agent notes; also used before the note is stored, to build the packet."""
    return replace(
        task,
        constraints=task.constraints
        + tuple(c for c in event.constraints if c not in task.constraints),
        decisions=task.decisions + event.decisions,
        open_questions=task.open_questions + event.open_questions,
        do_not_redo=task.do_not_redo + event.do_not_redo,
        artifacts=task.artifacts + event.artifacts,
    )


def _informs(record: Record) -> bool:
    if record.envelope is not None:
        return record.envelope.event.event_class != MOVING
    # The class stands in the subject, so that unreadable bytes have one too. The rest of it may be
    # malformed: the fence's filter takes any addressee and any sender.
    parts = record.subject.split(".")
    return len(parts) != _SUBJECT_PARTS or parts[5] != MOVING


def _submitted(task: Task, env: Envelope, event: e.TaskSubmitted) -> Task:
    if task.state is not State.UNKNOWN:
        return task
    return replace(
        _opened(task, env),
        tenant=env.tenant,
        task_id=env.task_id,
        root_task_id=env.root_task_id,
        parent_task_id=env.parent_task_id,
        correlation_id=env.correlation_id,
        forked_from=env.forked_from,
        max_hops=env.max_hops,
        priority=env.priority,
        labels=env.labels,
        deadline=env.deadline,
        submitted_by=env.sender.agent,
        submitted_at=env.occurred_at,
        input=event.input,
        objective=event.objective,
    )


def _opened(task: Task, env: Envelope) -> Task:
    """A delivery opens a leg of the agent it is addressed to."""
    turn = Turn(delivery_id=env.event_id, delivery_position=task.position)
    return replace(task, state=State.SUBMITTED, owner=env.to, turn=turn)


def _handed_off(task: Task, env: Envelope, event: e.HandedOff) -> Task:
    hop = Hop(source=task.owner, target=env.to, position=task.position, at=env.occurred_at)
    return replace(
        _opened(task, env),
        hops=task.hops + 1,
        handoffs=(*task.handoffs, hop),
        next_task=event.packet.next_task if event.packet else task.next_task,
    )


def _redriven(task: Task, env: Envelope, _: e.Redriven) -> Task:
    if task.dead_letter is None:
        return task
    return replace(_opened(task, env), failure=None, closed_at=None, dead_letter=None)


def _claimed(task: Task, env: Envelope, _: e.WorkStarted | e.Resumed) -> Task:
    if task.turn is None:
        return task
    turn = replace(
        task.turn,
        claim_id=env.event_id,
        claim_instance=env.sender.instance,
        claim_open=True,
        attempts=task.turn.attempts + 1,
    )
    return replace(task, state=State.WORKING, turn=turn)


def _released(task: Task, _: Envelope, __: e.WorkReleased) -> Task:
    turn = task.turn
    if turn is None or not turn.claim_open:
        return task
    attempts = max(0, turn.attempts - 1)  # progress since the claim has forgotten it already
    return replace(task, turn=replace(turn, claim_open=False, attempts=attempts))


def _attempt_failed(task: Task, _: Envelope, event: e.AttemptFailed) -> Task:
    turn = task.turn
    if turn is None:
        return task
    attempts = turn.attempts if turn.claim_open else turn.attempts + 1
    turn = replace(turn, claim_open=False, attempts=attempts, failure=event.failure)
    return replace(task, state=State.WORKING, turn=turn)


def _progressed(task: Task, _: Envelope, __: object) -> Task:
    turn = replace(task.turn, attempts=0) if task.turn else None
    return replace(task, state=State.WORKING, turn=turn)


def _noted(task: Task, _: Envelope, event: e.Noted) -> Task:
    return replace(noted(task, event), state=State.WORKING)


def _worked(task: Task, _: Envelope, __: object) -> Task:
    return replace(task, state=State.WORKING)


def _cancel_requested(task: Task, _: Envelope, event: e.CancelRequested) -> Task:
    return replace(task, cancel_requested=True, cancel_reason=event.reason)


def _closed(task: Task, env: Envelope, state: State) -> Task:
    return replace(task, state=state, closed_at=env.occurred_at, turn=None)


def _completed(task: Task, env: Envelope, event: e.Completed) -> Task:
    return replace(_closed(task, env, State.COMPLETED), result=event.result)


def _failed(task: Task, env: Envelope, event: e.Failed) -> Task:
    return replace(_closed(task, env, State.FAILED), failure=event.failure)


def _rejected(task: Task, env: Envelope, event: e.Rejected) -> Task:
    return replace(_closed(task, env, State.REJECTED), failure=event.failure)


def _canceled(task: Task, env: Envelope, _: e.Canceled) -> Task:
    return _closed(task, env, State.CANCELED)


def _dead_lettered(task: Task, env: Envelope, event: e.DeadLettered) -> Task:
    turn = task.turn
    if turn is None or turn.delivery_position != event.delivery_position:
        return task  # the notice of an unreadable message: no delivery of this task's turn
    dead = DeadLetter(
        delivery_id=event.delivery_id,
        delivery_position=event.delivery_position,
        agent=task.owner,
        attempts=event.attempts,
    )
    return replace(_closed(task, env, State.FAILED), failure=event.failure, dead_letter=dead)


_APPLY: dict[type[e.TaskEvent], Callable[[Task, Envelope, Any], Task]] = {
    # Any: the key fixes the third argument's type, which no annotation can say.
    e.TaskSubmitted: _submitted,
    e.WorkStarted: _claimed,
    e.WorkReleased: _released,
    e.StepRecorded: _progressed,
    e.Noted: _noted,
    e.Spent: _worked,
    e.TimerSet: _progressed,
    e.InputRequested: _progressed,
    e.Delegated: _progressed,
    e.CompensationRegistered: _worked,
    e.AttemptFailed: _attempt_failed,
    e.Suspended: _progressed,
    e.Resumed: _claimed,
    e.HandedOff: _handed_off,
    e.CancelRequested: _cancel_requested,
    e.Completed: _completed,
    e.Failed: _failed,
    e.Rejected: _rejected,
    e.Canceled: _canceled,
    e.DeadLettered: _dead_lettered,
    e.Redriven: _redriven,
    e.Parked: _worked,
    e.Unparked: _worked,
}
