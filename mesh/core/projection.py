"""What lists are made of: pure folds of the log, each event applied once, in order.

The task itself is folded by `mesh.core.task`; here is what goes beyond one task, and what of it a
list needs to know.

Source: design, section 5.
"""

from dataclasses import dataclass, replace
from datetime import datetime

from mesh.core import event as e
from mesh.core.envelope import Envelope, Record
from mesh.core.leg import DEADLINE
from mesh.core.payload import Failure
from mesh.core.subject import RESERVED, Subject
from mesh.core.task import Task
from mesh.errors import NameInvalid

__all__ = [
    "Activity",
    "DeadLetterEntry",
    "agents_of",
    "count",
    "dead_letter_key",
    "dead_lettered",
    "needs_notice",
    "task_of",
    "timers_of",
]

_COUNTED: dict[type[e.TaskEvent], str] = {
    e.HandedOff: "handed_off",
    e.Completed: "completed",
    e.Failed: "failed",
    e.Rejected: "rejected",
    e.Canceled: "canceled",
    e.DeadLettered: "dead_lettered",
    e.AttemptFailed: "failed_attempts",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """What an agent did, as counts of events; `last_position` is the last it had a part in."""

    agent: str
    received: int = 0
    handed_off: int = 0
    completed: int = 0
    failed: int = 0
    rejected: int = 0
    canceled: int = 0
    dead_lettered: int = 0
    failed_attempts: int = 0
    last_position: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterEntry:
    """A delivery that nobody could run, or a message that nobody can read.

    `position` and `occurred_at` are those of the `DeadLettered` event; `redrivable` is False for
    an unreadable message, which no redrive can help.
    """

    task_id: str
    delivery_id: str = ""
    agent: str = ""
    attempts: int = 0
    error: Failure | None = None
    position: int = 0
    occurred_at: datetime | None = None
    redrivable: bool = False


def task_of(record: Record) -> str:
    """The task that a record belongs to, "" if its subject names none."""
    subject = _subject(record)
    return subject.task_id if subject else ""


def agents_of(record: Record) -> list[str]:
    """The agents whose counts a record changes."""
    envelope = record.envelope
    if envelope is None:
        return []
    names = {envelope.sender.agent} | ({envelope.to} if _gives_work(envelope) else set[str]())
    return sorted(names - RESERVED)


def count(activity: Activity, record: Record) -> Activity:
    """Add one record to an agent's counts; total, as every fold.

    A record that was counted before changes nothing, so a fold may begin too early.
    """
    envelope = record.envelope
    if envelope is None or activity.agent not in agents_of(record):
        return activity
    if record.position <= activity.last_position:
        return activity
    if _gives_work(envelope) and envelope.to == activity.agent:
        activity = replace(activity, received=activity.received + 1)
    counter = _COUNTED.get(type(envelope.event))
    if counter and envelope.sender.agent == activity.agent:
        # A handler may hand off to its own agent: then both counts go up.
        activity = replace(activity, **{counter: getattr(activity, counter) + 1})
    return replace(activity, last_position=record.position)


def dead_letter_key(task_id: str, delivery_position: int) -> str:
    """What a dead letter is found by: a delivery stands at one position of one task."""
    return f"{task_id}/{delivery_position}"


def dead_lettered(before: Task, record: Record, after: Task) -> dict[str, DeadLetterEntry | None]:
    """Dead letters that a record adds, or removes (None), by their key.

    Args:
        before: The record's task, folded up to but not including it.
        record: The record.
        after: The task with the record applied.
    """
    envelope = record.envelope
    if envelope is None:
        return {}
    if before.dead_letter and not after.dead_letter:
        return {dead_letter_key(before.task_id, before.dead_letter.delivery_position): None}
    event = envelope.event
    if not isinstance(event, e.DeadLettered):
        return {}
    closed_by_it = after.dead_letter is not None and before.dead_letter is None
    stands = before.dead_letter
    again = stands is not None and stands.delivery_position == event.delivery_position
    if (event.delivery_id or again) and not closed_by_it:
        return {}  # it came too late: the task had ended, or gone on, before
    entry = DeadLetterEntry(
        task_id=envelope.task_id,
        delivery_id=event.delivery_id,
        agent=envelope.sender.agent,
        attempts=event.attempts,
        error=event.failure,
        position=record.position,
        occurred_at=envelope.occurred_at,
        redrivable=closed_by_it,
    )
    if after.dead_letter and closed_by_it:
        entry = replace(entry, agent=after.dead_letter.agent)
    return {dead_letter_key(envelope.task_id, event.delivery_position): entry}


def timers_of(task: Task) -> dict[str, datetime]:
    """What the ledger is to fire for a task, by timer id; empty once the task is closed.

    A timer that was set, the expiry of an open question (by the question's id), and the deadline.
    """
    if task.closed:
        return {}
    due: dict[str, datetime] = {}
    if task.deadline and not task.overdue:
        due[DEADLINE] = task.deadline
    if task.leg:
        due |= {timer.id: timer.fires_at for timer in task.leg.timers if timer.fires_at}
        due |= {q.id: q.expires_at for q in task.leg.questions if q.expires_at}
    return due


def needs_notice(record: Record) -> bool:
    """Whether a record is unreadable and addressed to nobody who could say so."""
    subject = _subject(record)
    return record.envelope is None and (subject is None or subject.to in RESERVED)


def _gives_work(envelope: Envelope) -> bool:
    return isinstance(envelope.event, e.OPENING)


def _subject(record: Record) -> Subject | None:
    try:
        return Subject.parse(record.subject)
    except NameInvalid:
        return None
