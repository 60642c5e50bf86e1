"""What may happen to a task: each function takes its state and gives the event, or refuses.

Source: design, sections 2 and 4.
"""

from collections.abc import Mapping

from mesh.core import event as e
from mesh.core.envelope import Envelope
from mesh.core.event import OPENING
from mesh.core.guards import check_hop
from mesh.core.packet import RelayPacket
from mesh.core.payload import Failure, Payload
from mesh.core.task import State, Task
from mesh.errors import NotDeadLettered, NotParked, TaskClosed, TaskUnknown

__all__ = [
    "cancel",
    "claim",
    "complete",
    "dead_letter",
    "fail",
    "fail_attempt",
    "hand_off",
    "redrive",
    "reject",
    "release",
    "request_cancel",
    "submit",
    "unpark",
]


def submit(
    task: Task,
    *,
    input: Payload | None,
    objective: str = "",
    key: str = "",
    budget: Mapping[str, int] | None = None,
) -> e.TaskSubmitted:
    """A new task; refused if it has a history already."""
    if task.state is not State.UNKNOWN:
        raise TaskClosed(task.task_id, state=task.state)
    return e.TaskSubmitted(
        input=input, objective=objective, idempotency_key=key, budget=dict(budget or {})
    )


def claim(task: Task, cause: Envelope) -> e.WorkStarted | e.Resumed:
    """Claim the current turn, which the delivery of `cause` opened."""
    _open(task)
    if isinstance(cause.event, OPENING):
        return e.WorkStarted()
    turn = task.turn
    return e.Resumed(wake_id=cause.event_id, wake_position=turn.delivery_position if turn else 0)


def release(task: Task, *, reason: str) -> e.WorkReleased:
    """Give a claim back, so that it does not count as an attempt."""
    _open(task)
    return e.WorkReleased(reason=reason)


def hand_off(task: Task, *, to: str, input: Payload, packet: RelayPacket) -> e.HandedOff:
    """Move the task to another agent.

    Raises:
        TaskClosed: The task has an outcome.
        HopLimit: It already made `max_hops` hops.
        SwapLimit: Two agents have swapped it too often without progress.
    """
    _open(task)
    check_hop(task, to)
    return e.HandedOff(input=input, packet=packet)


def fail_attempt(task: Task, failure: Failure) -> e.AttemptFailed:
    """Record that a run of the handler raised."""
    _open(task)
    return e.AttemptFailed(failure=failure)


def complete(task: Task, result: Payload) -> e.Completed:
    """End with a result."""
    _open(task)
    return e.Completed(result=result)


def fail(task: Task, failure: Failure) -> e.Failed:
    """End with a failure that a handler or a guard declares."""
    _open(task)
    return e.Failed(failure=failure)


def reject(task: Task, failure: Failure) -> e.Rejected:
    """End because the agent will not take the task."""
    _open(task)
    return e.Rejected(failure=failure)


def request_cancel(task: Task, *, reason: str) -> e.CancelRequested:
    """Ask the owner to wind up."""
    _open(task)
    return e.CancelRequested(reason=reason)


def cancel(task: Task) -> e.Canceled:
    """End because a cancel was requested."""
    _open(task)
    return e.Canceled(reason=task.cancel_reason)


def dead_letter(task: Task, failure: Failure) -> e.DeadLettered:
    """Give up on the current turn's delivery."""
    _open(task)
    turn = task.turn
    return e.DeadLettered(
        delivery_id=turn.delivery_id if turn else "",
        delivery_position=turn.delivery_position if turn else 0,
        attempts=turn.attempts if turn else 0,
        failure=failure,
    )


def unpark(task: Task, *, reason: str) -> e.Unparked:
    """Let a parked task go on.

    Raises:
        TaskUnknown: There is no such task.
        NotParked: It is not held.
    """
    if task.state is State.UNKNOWN:
        raise TaskUnknown(task.task_id)
    if task.leg is None or task.leg.parked is None:
        raise NotParked(task.task_id, state=task.state)
    return e.Unparked(reason=reason)


def redrive(task: Task, *, input: Payload | None) -> e.Redriven:
    """Give the dead-lettered delivery to its agent again, its payload unchanged.

    Raises:
        TaskUnknown: There is no such task.
        NotDeadLettered: The task ended otherwise, or did not end.
    """
    if task.state is State.UNKNOWN:
        raise TaskUnknown(task.task_id)
    if task.dead_letter is None:
        raise NotDeadLettered(task.task_id, state=task.state)
    return e.Redriven(delivery_id=task.dead_letter.delivery_id, input=input)


def _open(task: Task) -> None:
    if task.state is State.UNKNOWN:
        raise TaskUnknown(task.task_id)
    if task.closed:
        raise TaskClosed(task.task_id, state=task.state)
