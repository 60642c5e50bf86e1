"""Between a task and the children it delegates: their first events, and their reports.

Source: design, sections 3 and 4.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from mesh.core import event as e
from mesh.core.envelope import Envelope
from mesh.core.ids import derived_id
from mesh.core.payload import Payload
from mesh.core.task import State, Task
from mesh.telemetry.context import stamped

__all__ = ["Spawn", "child", "report"]

_ENDS: dict[type[e.TaskEvent], State] = {
    e.Completed: State.COMPLETED,
    e.Failed: State.FAILED,
    e.Rejected: State.REJECTED,
    e.Canceled: State.CANCELED,
    e.DeadLettered: State.FAILED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spawn:
    """What a child is given beside its input."""

    objective: str = ""
    deadline: datetime | None = None
    budget: Mapping[str, int] = field(default_factory=dict[str, int])


def child(
    task: Task, caused: Envelope, delegated: e.Delegated, spawn: Spawn, input: Payload
) -> Envelope:
    """The first event of a child; it goes into the same commit as `delegated`.

    Args:
        task: The parent.
        caused: An envelope of the parent's as its agent would write it now.
        delegated: What the parent records.
        spawn: What the child is given beside its input.
        input: Its input, checked in.

    Returns:
        Its deadline is not after its parent's.
    """
    deadlines = [at for at in (task.deadline, spawn.deadline) if at is not None]
    event = e.TaskSubmitted(
        input=input,
        objective=spawn.objective,
        budget=delegated.budget,
        ancestors=(*task.ancestors, task.owner),
    )
    return stamped(
        replace(
            caused,
            event=event,
            event_id=derived_id(delegated.child_task_id, event.kind),
            task_id=delegated.child_task_id,
            parent_task_id=task.task_id,
            to=delegated.agent,
            hop=0,
            deadline=min(deadlines, default=None),
            source=b"",
        )
    )


def report(task: Task, last: Sequence[Envelope]) -> Envelope:
    """What a parent is told when its child ends; it goes into the commit of the outcome.

    Args:
        task: The child, before that commit.
        last: The commit; its last event is the outcome.
    """
    outcome = last[-1]
    spent = dict(task.spent)
    for event in (envelope.event for envelope in last):
        if isinstance(event, e.Spent):
            spent[event.counter] = spent.get(event.counter, 0) + event.amount
    event = e.ChildFinished(
        child_task_id=task.task_id,
        state=_ENDS[type(outcome.event)],
        result=outcome.event.result if isinstance(outcome.event, e.Completed) else None,
        failure=getattr(outcome.event, "failure", None),
        spent=spent,
    )
    told = outcome.next(
        event,
        event_id=derived_id(outcome.event_id, event.kind),
        sender=outcome.sender,
        occurred_at=outcome.occurred_at,
    )
    # A child belongs to one leg of its parent: the one of the agent that submitted it.
    return stamped(
        replace(
            told,
            task_id=task.parent_task_id,
            parent_task_id="",
            # As every event of the run that ended it: its span's parent is found by these.
            causation_id=outcome.causation_id,
            attempt=outcome.attempt,
            started_at=outcome.started_at,
            to=task.submitted_by,
            source=b"",
        )
    )
