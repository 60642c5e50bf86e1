"""Every kind of event: a frozen dataclass each, a stable wire name, and its class.

A field here and a field of the message of the same name in `event.proto` are the same thing; a
test compares the two. What all kinds share (ids, times, sender, hop) is in the envelope.

Source: design, section 2.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, get_args

from mesh.core.packet import Decision, RelayPacket
from mesh.core.payload import Blob, Failure, Payload
from mesh.core.subject import INFORMING, MOVING

__all__ = [
    "CLOSING",
    "KINDS",
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


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSubmitted:
    """A task begins; addressed to its first agent."""

    kind: ClassVar[str] = "task.submitted"
    event_class: ClassVar[str] = MOVING
    input: Payload | None = None
    objective: str = ""
    idempotency_key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkStarted:
    """A claim: its own position identifies it, `causation_id` the delivery."""

    kind: ClassVar[str] = "task.work_started"
    event_class: ClassVar[str] = MOVING


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkReleased:
    """A claim given back by a drain; it counts as no attempt."""

    kind: ClassVar[str] = "task.work_released"
    event_class: ClassVar[str] = MOVING
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecorded:
    """A step ran once; its value or its failure."""

    kind: ClassVar[str] = "task.step_recorded"
    event_class: ClassVar[str] = MOVING
    ordinal: int = 0
    name: str = ""
    value: Payload | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """What the owner adds to the relay packet."""

    kind: ClassVar[str] = "task.noted"
    event_class: ClassVar[str] = MOVING
    decisions: tuple[Decision, ...] = ()
    constraints: tuple[str, ...] = ()
    open_questions: tuple[str, ...] = ()
    do_not_redo: tuple[str, ...] = ()
    artifacts: tuple[Blob, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """A budget counter went down."""

    kind: ClassVar[str] = "task.spent"
    event_class: ClassVar[str] = MOVING
    counter: str = ""
    amount: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerSet:
    """A timer to be fired by the ledger."""

    kind: ClassVar[str] = "task.timer_set"
    event_class: ClassVar[str] = MOVING
    ordinal: int = 0
    timer_id: str = ""
    fires_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InputRequested:
    """A question to a person."""

    kind: ClassVar[str] = "task.input_requested"
    event_class: ClassVar[str] = MOVING
    ordinal: int = 0
    request_id: str = ""
    prompt: str = ""
    json_schema: str = ""
    expires_at: datetime | None = None
    default: Payload | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delegated:
    """A child task was created, in the same commit."""

    kind: ClassVar[str] = "task.delegated"
    event_class: ClassVar[str] = MOVING
    ordinal: int = 0
    child_task_id: str = ""
    agent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompensationRegistered:
    """An undo to run if the task fails or is cancelled."""

    kind: ClassVar[str] = "task.compensation_registered"
    event_class: ClassVar[str] = MOVING
    ordinal: int = 0
    name: str = ""
    argument: Payload | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFailed:
    """An attempt raised; the same delivery comes again after `retry_at`."""

    kind: ClassVar[str] = "task.attempt_failed"
    event_class: ClassVar[str] = MOVING
    failure: Failure | None = None
    retry_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """One thing a suspended leg waits for: `child`, `timer`, `input` or `signal`, and its id."""

    what: str
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspended:
    """The leg waits and holds nothing; `needs_all` of the waits, or the first."""

    kind: ClassVar[str] = "task.suspended"
    event_class: ClassVar[str] = MOVING
    waits: tuple[Wait, ...] = ()
    needs_all: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """A claim in a resumed turn: the event that woke it."""

    kind: ClassVar[str] = "task.resumed"
    event_class: ClassVar[str] = MOVING
    wake_id: str = ""
    wake_position: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HandedOff:
    """The task moves to the agent in the envelope's `to`."""

    kind: ClassVar[str] = "task.handed_off"
    event_class: ClassVar[str] = MOVING
    input: Payload | None = None
    packet: RelayPacket | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequested:
    """The owner must wind up."""

    kind: ClassVar[str] = "task.cancel_requested"
    event_class: ClassVar[str] = MOVING
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """The outcome is a result."""

    kind: ClassVar[str] = "task.completed"
    event_class: ClassVar[str] = MOVING
    result: Payload | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The outcome is a failure that a handler or a guard declared."""

    kind: ClassVar[str] = "task.failed"
    event_class: ClassVar[str] = MOVING
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """The agent would not take the task: bad input, or a refusal of its own."""

    kind: ClassVar[str] = "task.rejected"
    event_class: ClassVar[str] = MOVING
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Canceled:
    """The owner wound up after a cancel."""

    kind: ClassVar[str] = "task.canceled"
    event_class: ClassVar[str] = MOVING
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLettered:
    """Nobody could run this delivery within its attempts."""

    kind: ClassVar[str] = "task.dead_lettered"
    event_class: ClassVar[str] = MOVING
    delivery_id: str = ""
    delivery_position: int = 0
    attempts: int = 0
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Redriven:
    """A dead-lettered delivery is given to its agent again, its payload unchanged."""

    kind: ClassVar[str] = "task.redriven"
    event_class: ClassVar[str] = MOVING
    delivery_id: str = ""
    input: Payload | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parked:
    """A re-run asked for something else than its history recorded."""

    kind: ClassVar[str] = "task.parked"
    event_class: ClassVar[str] = MOVING
    ordinal: int = 0
    recorded: str = ""
    asked: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unparked:
    """A parked task may go on."""

    kind: ClassVar[str] = "task.unparked"
    event_class: ClassVar[str] = MOVING
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildFinished:
    """A child's report to its parent."""

    kind: ClassVar[str] = "task.child_finished"
    event_class: ClassVar[str] = INFORMING
    ordinal: int = 0
    child_task_id: str = ""
    state: str = ""
    result: Payload | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InputReceived:
    """A person's answer."""

    kind: ClassVar[str] = "task.input_received"
    event_class: ClassVar[str] = INFORMING
    request_id: str = ""
    answer: Payload | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerFired:
    """A timer is due."""

    kind: ClassVar[str] = "task.timer_fired"
    event_class: ClassVar[str] = INFORMING
    timer_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signaled:
    """A named signal from outside."""

    kind: ClassVar[str] = "task.signaled"
    event_class: ClassVar[str] = INFORMING
    name: str = ""
    value: Payload | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressReported:
    """How far the owner got; for people."""

    kind: ClassVar[str] = "task.progress_reported"
    event_class: ClassVar[str] = INFORMING
    text: str = ""
    fraction: float = 0.0


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
CLOSING = (Completed, Failed, Rejected, Canceled, DeadLettered)
"""The kinds that end a task; only `DeadLettered` can be followed by `Redriven`."""
