"""What events do to a leg: claims, progress, waits and wakes, park, cancel.

Source: design, section 4.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from mesh.core import event as e
from mesh.core.envelope import Envelope
from mesh.core.leg import (
    CHILD,
    DEADLINE,
    INPUT,
    SIGNAL,
    TIMER,
    Child,
    Leg,
    Question,
    Timer,
    Undo,
    arrived,
    signal_id,
    suspended,
    without,
)
from mesh.core.task import State, Task, Turn

__all__ = ["ON_LEG"]


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
    if event.ordinal:  # of a step: the run goes on
        return replace(task, leg=_leg(task, turn))
    # Progress since the claim has forgotten it; yet this attempt failed, and counts once.
    attempts = max(1, turn.attempts) if turn.claim_open else turn.attempts + 1
    turn = replace(turn, claim_open=False, attempts=attempts, failure=event.failure)
    return replace(task, state=State.WORKING, turn=turn)


def _stepped(task: Task, _: Envelope, event: e.StepRecorded) -> Task:
    turn = task.turn
    if turn is None:
        return task
    leg = _leg(task, turn)
    if event.undoes:
        undos = tuple(undo for undo in leg.undos if undo.ordinal != event.undoes)
        leg = replace(leg, undos=undos)
    return _progressed(task, turn, leg)


def _delegated(task: Task, _: Envelope, event: e.Delegated) -> Task:
    turn = task.turn
    if turn is None:
        return task
    leg = _leg(task, turn)
    child = Child(id=event.child_task_id, agent=event.agent, budget=event.budget)
    task = _progressed(task, turn, replace(leg, children=(*leg.children, child)))
    return replace(task, spent=_sum(task.spent, event.budget))


def _timer_set(task: Task, _: Envelope, event: e.TimerSet) -> Task:
    turn = task.turn
    if turn is None:
        return task
    leg = _leg(task, turn)
    leg = replace(leg, timers=(*leg.timers, Timer(id=event.timer_id, fires_at=event.fires_at)))
    return _progressed(task, turn, leg) if event.ordinal else replace(task, leg=leg)


def _input_requested(task: Task, _: Envelope, event: e.InputRequested) -> Task:
    turn = task.turn
    if turn is None:
        return task
    leg = _leg(task, turn)
    question = Question(
        id=event.request_id,
        prompt=event.prompt,
        json_schema=event.json_schema,
        expires_at=event.expires_at,
    )
    return _progressed(task, turn, replace(leg, questions=(*leg.questions, question)))


def _compensation_registered(task: Task, _: Envelope, event: e.CompensationRegistered) -> Task:
    turn = task.turn
    if turn is None:
        return task
    leg = _leg(task, turn)
    undo = Undo(ordinal=event.ordinal, name=event.name)
    return replace(task, state=State.WORKING, leg=replace(leg, undos=(*leg.undos, undo)))


def _spent(task: Task, _: Envelope, event: e.Spent) -> Task:
    spent = _sum(task.spent, {event.counter: event.amount})
    return replace(task, state=State.WORKING, spent=spent)


def _progressed(task: Task, turn: Turn, leg: Leg) -> Task:
    return replace(task, state=State.WORKING, turn=replace(turn, attempts=0), leg=leg, swaps=0)


def _suspended(task: Task, _: Envelope, event: e.Suspended) -> Task:
    turn = task.turn
    if turn is None:
        return task
    leg = _leg(task, turn)
    if turn.claim_open:
        turn = replace(turn, attempts=0)
    else:  # a failed attempt ended the claim: a pause before the next is no progress
        leg = replace(leg, attempts=turn.attempts, failure=turn.failure)
    waiting = None if _wanted(task) else suspended(leg, event.waits)
    if waiting is None:
        return replace(task, turn=turn, leg=replace(leg, attempts=0, failure=None))
    asks = any(wait.what == INPUT for wait in waiting.waits)
    state = State.INPUT_REQUIRED if asks else State.WORKING
    return replace(task, state=state, turn=None, leg=waiting)


def _parked(task: Task, _: Envelope, event: e.Parked) -> Task:
    turn = task.turn
    if turn is None or _wanted(task):
        return task
    return replace(
        task, state=State.WORKING, turn=None, leg=replace(_leg(task, turn), parked=event)
    )


def _unparked(task: Task, env: Envelope, _: e.Unparked) -> Task:
    return _woken(task, env) if task.leg and task.leg.parked else task


def _cancel_requested(task: Task, env: Envelope, event: e.CancelRequested) -> Task:
    task = replace(task, cancel_requested=True, cancel_reason=event.reason)
    return _woken(task, env) if task.leg and task.leg.idle else task


def _child_finished(task: Task, env: Envelope, event: e.ChildFinished) -> Task:
    leg = task.leg
    child = next((c for c in leg.children if c.id == event.child_task_id), None) if leg else None
    if leg is None or child is None:
        return task  # it reported before, or belongs to a leg that has ended
    if child.budget or event.spent:
        returned = {counter: -amount for counter, amount in child.budget.items()}
        task = replace(task, spent=_sum(_sum(task.spent, returned), event.spent))
    leg = replace(leg, children=without(leg.children, child))
    failed = event.state != State.COMPLETED
    return _arrived(task, env, leg, CHILD, child.id, failed=failed)


def _input_received(task: Task, env: Envelope, event: e.InputReceived) -> Task:
    return _answered(task, env, event.request_id)


def _timer_fired(task: Task, env: Envelope, event: e.TimerFired) -> Task:
    if event.timer_id == DEADLINE:
        if task.deadline is None or task.overdue:
            return task
        task = replace(task, overdue=True)
        return _woken(task, env) if task.leg and task.leg.idle else task
    leg = task.leg
    if leg is None or all(timer.id != event.timer_id for timer in leg.timers):
        return _answered(task, env, event.timer_id)  # the expiry of a question, or of nothing
    timers = tuple(timer for timer in leg.timers if timer.id != event.timer_id)
    return _arrived(task, env, replace(leg, timers=timers), TIMER, event.timer_id)


def _answered(task: Task, env: Envelope, request_id: str) -> Task:
    leg = task.leg
    if leg is None or all(question.id != request_id for question in leg.questions):
        return task
    questions = tuple(question for question in leg.questions if question.id != request_id)
    failed = isinstance(env.event, e.TimerFired)
    leg = replace(leg, questions=questions)
    return _arrived(task, env, leg, INPUT, request_id, failed=failed)


def _signaled(task: Task, env: Envelope, event: e.Signaled) -> Task:
    leg = task.leg or (_leg(task, task.turn) if task.turn else None)
    if leg is None:
        return task
    signals = _sum(leg.signals, {event.name: 1})
    number = signal_id(event.name, signals[event.name])
    return _arrived(task, env, replace(leg, signals=signals), SIGNAL, number)


def _arrived(
    task: Task, env: Envelope, leg: Leg, what: str, id: str, *, failed: bool = False
) -> Task:
    leg, met = arrived(leg, what, id, failed=failed)
    task = replace(task, leg=leg)
    return _woken(task, env) if met else task


def _woken(task: Task, env: Envelope) -> Task:
    """The delivery of this event carries the leg from here on."""
    leg = task.leg
    if leg is None or task.closed:
        return task
    turn = Turn(
        delivery_id=env.event_id,
        delivery_position=task.position,
        attempts=leg.attempts,
        failure=leg.failure,
    )
    leg = replace(leg, suspended=False, waits=(), parked=None, attempts=0, failure=None)
    return replace(task, turn=turn, leg=leg)


def _leg(task: Task, turn: Turn) -> Leg:
    return task.leg or Leg(opened_id=turn.delivery_id, opened_position=turn.delivery_position)


def _wanted(task: Task) -> bool:
    """Whether somebody must wind the task up, so that its leg cannot rest."""
    return task.cancel_requested or task.overdue


def _sum(counts: Mapping[str, int], more: Mapping[str, int]) -> Mapping[str, int]:
    return {**counts, **{name: counts.get(name, 0) + n for name, n in more.items()}}


ON_LEG: dict[type[e.TaskEvent], Callable[[Task, Envelope, Any], Task]] = {
    # Any: the key fixes the third argument's type, which no annotation can say.
    e.WorkStarted: _claimed,
    e.Resumed: _claimed,
    e.WorkReleased: _released,
    e.AttemptFailed: _attempt_failed,
    e.StepRecorded: _stepped,
    e.Spent: _spent,
    e.TimerSet: _timer_set,
    e.InputRequested: _input_requested,
    e.Delegated: _delegated,
    e.CompensationRegistered: _compensation_registered,
    e.Suspended: _suspended,
    e.Parked: _parked,
    e.Unparked: _unparked,
    e.CancelRequested: _cancel_requested,
    e.ChildFinished: _child_finished,
    e.InputReceived: _input_received,
    e.TimerFired: _timer_fired,
    e.Signaled: _signaled,
}
"""How each kind that concerns a leg changes a task; all others leave the leg alone or end it."""
