"""Ending a turn: undo, cancel the children that are open, and append the outcome.

Source: design, section 4.
"""

import logging
from dataclasses import replace
from datetime import timedelta

import anyio

from mesh.agent.cancel import cancel_children
from mesh.agent.failure import failure_of
from mesh.agent.run import Ending, HandlerRun
from mesh.agent.step import Step, attempt
from mesh.agent.turn import Turn
from mesh.core import decide
from mesh.core import event as e
from mesh.core.carrier import Next
from mesh.core.leg import Undo
from mesh.core.payload import Failure
from mesh.errors import EnvelopeInvalid

__all__ = ["finish", "give_up", "skip_undo", "wind_up"]

_RESTS = (e.Suspended, e.Parked)
"""After these nobody carries the task, unless what ends the rest has come before."""
_log = logging.getLogger(__name__)


async def finish(run: HandlerRun, ending: Ending) -> tuple[Next, float | None]:
    """Append how a run ended, after what has to be done before it.

    Returns:
        GO_ON when it is stored, with the seconds after which the delivery is to come again, if it
        is; otherwise what the log demands: ACK or DROP.
    """
    if not ending.events:
        verdict = ending.verdict
        return await wind_up(run) if verdict is Next.WIND_UP else verdict, None
    verdict = await _stored(run, ending)
    if verdict is Next.WIND_UP:
        return await wind_up(run), None
    if verdict is Next.GO_ON and isinstance(ending.events[-1], _RESTS):
        return verdict, 0.0  # what it would rest for has happened already: go on
    return verdict, ending.retry_s if verdict is Next.GO_ON else None


async def _stored(run: HandlerRun, ending: Ending) -> Next:
    try:
        return await _end(run, ending)
    except EnvelopeInvalid as error:
        _log.error("outcome of task `%s` cannot be stored: %s", run.turn.cause.task_id, error)
        failed = decide.fail(run.turn.task, failure_of(error))
        return await _end(run, Ending(events=(failed,)))


async def wind_up(run: HandlerRun) -> Next:
    """End a task whose cancel was requested."""
    verdict = await _undo(run)
    if verdict is not Next.GO_ON:
        return verdict
    await cancel_children(run.turn, run.ports)
    canceled = _telling(decide.cancel(run.turn.task), _not_undone(run.turn))
    return await run.turn.commit(canceled, despite_cancel=True)


async def give_up(run: HandlerRun) -> Next:
    """The attempts are used up, the last one without a word: its process died."""
    turn = run.turn
    known = turn.task.turn.failure if turn.task.turn else None
    failure = known or Failure(
        code="agent.attempts_exhausted",
        message="every attempt lost its lease before it ended: the process died,"
        " was paused, or a handler blocked its event loop",
    )
    turn.attempt -= 1
    dead = replace(decide.dead_letter(turn.task, failure), attempts=turn.attempt)
    verdict = await turn.commit(dead)
    return await wind_up(run) if verdict is Next.WIND_UP else verdict


async def skip_undo(run: HandlerRun) -> Next:
    """The undo that is due kills its process each time: record that, so that the others run."""
    leg = run.turn.task.leg
    if leg is None or not leg.undos:
        return Next.GO_ON
    undo = leg.undos[-1]
    failure = Failure(
        code="agent.attempts_exhausted", message="the process died in every attempt to undo"
    )
    skipped = e.StepRecorded(name=undo.name, failure=failure, undoes=undo.ordinal)
    return await run.turn.record(skipped, despite_cancel=True)


async def _end(run: HandlerRun, ending: Ending) -> Next:
    last = ending.events[-1]
    if isinstance(last, e.Failed | e.Rejected):
        verdict = await _undo(run)
        if verdict is not Next.GO_ON:
            return verdict
    if isinstance(last, e.HandedOff | e.Completed | e.Failed | e.Rejected):
        await cancel_children(run.turn, run.ports)
    rests = isinstance(last, _RESTS)
    events = (*ending.events[:-1], _telling(last, _not_undone(run.turn)))
    return await run.turn.commit(*events, to=ending.to, catch_up=rests)


def _not_undone(turn: Turn) -> str:
    """Which undos failed, and why; "" if none did."""
    events = [r.envelope.event for r in turn.records if r.envelope]
    return "; ".join(
        f"`{event.name}` did not undo: {event.failure.message}"
        for event in events
        if isinstance(event, e.StepRecorded) and event.undoes and event.failure
    )


def _telling(last: e.TaskEvent, not_undone: str) -> e.TaskEvent:
    """The outcome, which says what was not undone before it."""
    if not not_undone:
        return last
    if isinstance(last, e.Canceled):
        return replace(last, reason=f"{last.reason} ({not_undone})")
    if isinstance(last, e.Failed | e.Rejected) and last.failure:
        failure = last.failure
        details = {**failure.details, "not_undone": not_undone}
        message = f"{failure.message} ({not_undone})"
        return replace(last, failure=replace(failure, message=message, details=details))
    return last


async def _undo(run: HandlerRun) -> Next:
    """Run what was registered and has not run, in reverse, each recorded.

    What has run is recorded though a cancel came meanwhile: it would run again otherwise.
    """
    turn = run.turn
    if run.execution.asking.lacks_undo():
        await run.collect()
    while turn.task.leg and turn.task.leg.undos:
        if not turn.delivery.lease_valid and (verdict := await _lost(turn)):
            return verdict
        event = await _undone(run, turn.task.leg.undos[-1])
        verdict = await turn.record(event, despite_cancel=True)
        if verdict is not Next.GO_ON:
            return verdict
        if isinstance(event, e.AttemptFailed) and event.retry_at:
            pause_s = (event.retry_at - run.ports.clock.now()).total_seconds()
            await anyio.sleep(max(0.0, pause_s))
    return Next.GO_ON


async def _lost(turn: Turn) -> Next | None:
    """What the log demands of a holder without a lease; None if it may still undo."""
    verdict = await turn.look() if turn.claimed else Next.DROP
    return None if verdict in (Next.WIND_UP, Next.GO_ON) else verdict


async def _undone(run: HandlerRun, undo: Undo) -> e.TaskEvent:
    """One attempt of an undo, as it is to be recorded."""
    step = run.execution.asking.undos.get(undo.ordinal)
    if step is None:
        failure = Failure(
            code="agent.undo_unknown",
            message=f"the handler does not register `{undo.name}` any more: nothing was undone",
        )
        return e.StepRecorded(name=undo.name, failure=failure, undoes=undo.ordinal)
    return await _tried(run, step)


async def _tried(run: HandlerRun, step: Step) -> e.TaskEvent:
    failed = run.execution.record.attempts.setdefault(step.ordinal, [])
    event = (await attempt(step, len(failed), run.ports))[-1]
    if isinstance(event, e.AttemptFailed) and event.retry_at:
        # A task that ends does not rest on a timer: its pauses are held, and so kept short.
        latest = run.ports.clock.now() + timedelta(seconds=run.limits.hold_s)
        event = replace(event, retry_at=min(event.retry_at, latest))
        failed.append(event)
    return event
