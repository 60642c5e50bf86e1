"""From records to state: the fold of one task's history.

`evolve` never refuses, because history already happened: what cannot be (an event of a closed
task, an unreadable message) counts as a version and changes nothing else. Refusing is the business
of `decide`, before an event is written.

Source: design, sections 2 and 4.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import reduce
from typing import Any

from mesh.core import event as e
from mesh.core.envelope import Envelope, Record
from mesh.core.fold_leg import ON_LEG
from mesh.core.packet import RelayPacket, bounded
from mesh.core.subject import MOVING
from mesh.core.task import EMPTY, DeadLetter, Hop, State, Task, Turn

__all__ = ["evolve", "fold", "noted", "packet_of"]

_SUBJECT_PARTS = 7


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
    if envelope is None or not _counts(task, envelope):
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
            budget_left={
                counter: limit - task.spent.get(counter, 0)
                for counter, limit in task.budget.items()
            },
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


def _counts(task: Task, env: Envelope) -> bool:
    """Whether an event may change more than the version."""
    event = env.event
    if task.state is State.UNKNOWN:
        return isinstance(event, e.TaskSubmitted)
    if event.event_class != MOVING:
        # A report to a former owner: its writer finds the new one and sends it there too.
        return env.to == task.owner and (not task.closed or task.dead_letter is not None)
    return not task.closed or (isinstance(event, e.Redriven) and task.dead_letter is not None)


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
        ancestors=event.ancestors,
        budget=event.budget,
    )


def _opened(task: Task, env: Envelope) -> Task:
    """A delivery opens a leg of the agent it is addressed to."""
    turn = Turn(delivery_id=env.event_id, delivery_position=task.position)
    return replace(task, state=State.SUBMITTED, owner=env.to, turn=turn)


def _handed_off(task: Task, env: Envelope, event: e.HandedOff) -> Task:
    hop = Hop(source=task.owner, target=env.to, position=task.position, at=env.occurred_at)
    last = task.handoffs[-1] if task.handoffs else None
    back = last is not None and last.source == hop.target != hop.source == last.target
    return replace(
        _opened(task, env),
        hops=task.hops + 1,
        handoffs=(*task.handoffs, hop),
        next_task=event.packet.next_task if event.packet else task.next_task,
        leg=None,
        swaps=task.swaps + 1 if back else 0,
    )


def _redriven(task: Task, env: Envelope, _: e.Redriven) -> Task:
    if task.dead_letter is None:
        return task
    return replace(_opened(task, env), failure=None, closed_at=None, dead_letter=None)


def _noted(task: Task, _: Envelope, event: e.Noted) -> Task:
    return replace(noted(task, event), state=State.WORKING)


def _closed(task: Task, env: Envelope, state: State) -> Task:
    return replace(task, state=state, closed_at=env.occurred_at, turn=None, leg=None)


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
    ended = _closed(task, env, State.FAILED)
    # A redrive goes on with the leg, so that what it recorded is not done again.
    leg = replace(task.leg, suspended=False, waits=(), parked=None) if task.leg else None
    return replace(ended, failure=event.failure, dead_letter=dead, leg=leg)


_APPLY: dict[type[e.TaskEvent], Callable[[Task, Envelope, Any], Task]] = {
    # Any: the key fixes the third argument's type, which no annotation can say.
    e.TaskSubmitted: _submitted,
    e.Noted: _noted,
    e.HandedOff: _handed_off,
    e.Completed: _completed,
    e.Failed: _failed,
    e.Rejected: _rejected,
    e.Canceled: _canceled,
    e.DeadLettered: _dead_lettered,
    e.Redriven: _redriven,
    **ON_LEG,
}
