"""Every kind of event: a frozen dataclass each, a stable wire name, and its class.

A field here and a field of the message of the same name in `event.proto` are the same thing; a
test compares the two. What all kinds share (ids, times, sender, hop) is in the envelope.

Source: design, section 2.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar, get_args

from mesh.core.packet import Decision, RelayPacket
from mesh.core.payload import Blob, Failure, Payload
from mesh.core.subject import INFORMING, MOVING

__all__ = [
    "CLOSING",
    "KINDS",
    "OPENING",
    "AttemptFailed",
    "CancelRequested",
    "Canceled",
    "ChildFinished",
    "CompensationRegistered",
    "Completed",
    "DeadLettered",
    "Delegated",
    "Failed",
    "HandedOff",
    "InputReceived",
    "InputRequested",
    "Noted",
    "Parked",
    "ProgressReported",
    "Redriven",
    "Rejected",
    "Resumed",
    "Signaled",
    "Spent",
    "StepRecorded",
    "Suspended",
    "TaskEvent",
    "TaskSubmitted",
    "TimerFired",
    "TimerSet",
    "Unparked",
    "Wait",
    "WorkReleased",
    "WorkStarted",
]


class Moving:
    """Changes who is to do what; fenced."""

    __slots__ = ()
    event_class: ClassVar[str] = MOVING


class Informing:
    """Tells the owner something; not fenced."""

    __slots__ = ()
    event_class: ClassVar[str] = INFORMING


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSubmitted(Moving):
    """A task begins; `ancestors` are the agents that wait for it, the root's first."""

    kind: ClassVar[str] = "task.submitted"
    input: Payload | None = None
    objective: str = ""
    idempotency_key: str = ""
    budget: Mapping[str, int] = field(default_factory=dict[str, int])
    ancestors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkStarted(Moving):
    """A claim: its own position identifies it, `causation_id` the delivery."""

    kind: ClassVar[str] = "task.work_started"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkReleased(Moving):
    """A claim given back by a drain; it counts as no attempt."""

    kind: ClassVar[str] = "task.work_released"
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecorded(Moving):
    """A step ran once, or the undo of registration `undoes`; its value or its failure."""

    kind: ClassVar[str] = "task.step_recorded"
    ordinal: int = 0
    name: str = ""
    value: Payload | None = None
    failure: Failure | None = None
    undoes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted(Moving):
    """What the owner adds to the relay packet."""

    kind: ClassVar[str] = "task.noted"
    decisions: tuple[Decision, ...] = ()
    constraints: tuple[str, ...] = ()
    open_questions: tuple[str, ...] = ()
    do_not_redo: tuple[str, ...] = ()
    artifacts: tuple[Blob, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent(Moving):
    """So much of a counter was used; >= 0."""

    kind: ClassVar[str] = "task.spent"
    counter: str = ""
    amount: int = 0
    ordinal: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerSet(Moving):
    """A timer to be fired by the ledger; ordinal 0 is a pause before a retry, no progress."""

    kind: ClassVar[str] = "task.timer_set"
    ordinal: int = 0
    timer_id: str = ""
    fires_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InputRequested(Moving):
    """A question to a person."""

    kind: ClassVar[str] = "task.input_requested"
    ordinal: int = 0
    request_id: str = ""
    prompt: str = ""
    json_schema: str = ""
    expires_at: datetime | None = None
    default: Payload | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delegated(Moving):
    """A child task was created, in the same commit; `budget` is reserved for it."""

    kind: ClassVar[str] = "task.delegated"
    ordinal: int = 0
    child_task_id: str = ""
    agent: str = ""
    budget: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True, slots=True, kw_only=True)
class CompensationRegistered(Moving):
    """An undo to run if the task fails or is cancelled."""

    kind: ClassVar[str] = "task.compensation_registered"
    ordinal: int = 0
    name: str = ""
    argument: Payload | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFailed(Moving):
    """An attempt raised, and is made again at `retry_at`.

    With an `ordinal` it was an attempt of that step, otherwise a run of the handler, whose delivery
    comes again.
    """

    kind: ClassVar[str] = "task.attempt_failed"
    failure: Failure | None = None
    retry_at: datetime | None = None
    ordinal: int = 0
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """One thing a suspended leg waits for: `child`, `timer`, `input` or `signal`, and its id.

    A signal's id is its name and which one of that name in the leg it is: `approved/1`. Waits of
    one `group` are all needed; with `fail_fast` a failure of this one meets its whole group.
    """

    what: str
    id: str
    group: int = 0
    fail_fast: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspended(Moving):
    """The leg waits and holds nothing, until any one group of the waits is met."""

    kind: ClassVar[str] = "task.suspended"
    waits: tuple[Wait, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed(Moving):
    """A claim in a resumed turn: the event that woke it."""

    kind: ClassVar[str] = "task.resumed"
    wake_id: str = ""
    wake_position: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HandedOff(Moving):
    """The task moves to the agent in the envelope's `to`."""

    kind: ClassVar[str] = "task.handed_off"
    input: Payload | None = None
    packet: RelayPacket | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequested(Moving):
    """The owner must wind up."""

    kind: ClassVar[str] = "task.cancel_requested"
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed(Moving):
    """The outcome is a result."""

    kind: ClassVar[str] = "task.completed"
    result: Payload | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(Moving):
    """The outcome is a failure that a handler or a guard declared."""

    kind: ClassVar[str] = "task.failed"
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected(Moving):
    """The agent would not take the task: bad input, or a refusal of its own."""

    kind: ClassVar[str] = "task.rejected"
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Canceled(Moving):
    """The owner wound up after a cancel."""

    kind: ClassVar[str] = "task.canceled"
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLettered(Moving):
    """Nobody could run this delivery within its attempts.

    `step` is the ordinal of the step whose recorded failure ended it, 0 if none did: a redrive runs
    that one again.
    """

    kind: ClassVar[str] = "task.dead_lettered"
    delivery_id: str = ""
    delivery_position: int = 0
    attempts: int = 0
    failure: Failure | None = None
    step: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Redriven(Moving):
    """A dead-lettered delivery is given to its agent again, its payload unchanged."""

    kind: ClassVar[str] = "task.redriven"
    delivery_id: str = ""
    input: Payload | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parked(Moving):
    """A re-run asked for something else than its history recorded."""

    kind: ClassVar[str] = "task.parked"
    ordinal: int = 0
    recorded: str = ""
    asked: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unparked(Moving):
    """A parked task may go on."""

    kind: ClassVar[str] = "task.unparked"
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildFinished(Informing):
    """A child's report to its parent; `spent` is what it used, its own children's included."""

    kind: ClassVar[str] = "task.child_finished"
    ordinal: int = 0
    child_task_id: str = ""
    state: str = ""
    result: Payload | None = None
    failure: Failure | None = None
    spent: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True, slots=True, kw_only=True)
class InputReceived(Informing):
    """A person's answer."""

    kind: ClassVar[str] = "task.input_received"
    request_id: str = ""
    answer: Payload | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerFired(Informing):
    """A timer is due: one that was set, a question's expiry, or the task's deadline."""

    kind: ClassVar[str] = "task.timer_fired"
    timer_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signaled(Informing):
    """A named signal from outside."""

    kind: ClassVar[str] = "task.signaled"
    name: str = ""
    value: Payload | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressReported(Informing):
    """How far the owner got; or what a run of its handler emitted, chunks first to last."""

    kind: ClassVar[str] = "task.progress_reported"
    text: str = ""
    fraction: float = 0.0
    run: str = ""
    first_number: int = 0
    last_number: int = 0
    by_step: bool = False


TaskEvent = (
    TaskSubmitted
    | WorkStarted
    | WorkReleased
    | StepRecorded
    | Noted
    | Spent
    | TimerSet
    | InputRequested
    | Delegated
    | CompensationRegistered
    | AttemptFailed
    | Suspended
    | Resumed
    | HandedOff
    | CancelRequested
    | Completed
    | Failed
    | Rejected
    | Canceled
    | DeadLettered
    | Redriven
    | Parked
    | Unparked
    | ChildFinished
    | InputReceived
    | TimerFired
    | Signaled
    | ProgressReported
)

KINDS: dict[str, type[TaskEvent]] = {kind.kind: kind for kind in get_args(TaskEvent)}
"""Every kind by its wire name."""
OPENING = (TaskSubmitted, HandedOff, Redriven)
"""The kinds that give an agent work."""
CLOSING = (Completed, Failed, Rejected, Canceled, DeadLettered)
"""The kinds that end a task."""
