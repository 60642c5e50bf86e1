"""One run of a handler, and the events its end turns into."""

import logging
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import anyio

from mesh.agent.definition import Agent, Handler
from mesh.agent.execution import Execution
from mesh.agent.failure import failure_of, only
from mesh.agent.left import Left
from mesh.agent.outcome import Fail, Handoff, Reject, Reply
from mesh.agent.payload import encode_value
from mesh.agent.ports import Limits, Ports
from mesh.agent.retry import Retry
from mesh.agent.turn import Turn
from mesh.agent.turn_context import TurnContext
from mesh.blob.claim import check_in, redeem
from mesh.core import decide
from mesh.core import event as e
from mesh.core.carrier import Next
from mesh.core.envelope import Envelope, Record
from mesh.core.fold import fold, noted, packet_of
from mesh.core.ids import derived_id
from mesh.core.leg import TIMER
from mesh.core.payload import Failure, Payload
from mesh.core.subject import LOG, check_name
from mesh.errors import (
    Fatal,
    MeshError,
    PayloadInvalid,
    Retryable,
    StepFailed,
    Verdict,
)
from mesh.telemetry.names import invoking
from mesh.telemetry.port import SpanSpec

__all__ = ["Ending", "HandlerRun"]

_log = logging.getLogger(__name__)
_LONGEST_S = 30 * 24 * 3600.0
"""Longest wait that a handler may ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a run ended.

    Attributes:
        events: What to append; empty when the log has settled it, see `verdict`.
        to: Addressee of the last event.
        retry_s: Set when the delivery is to come again.
        verdict: What the log demands of the holder.
    """

    events: tuple[e.TaskEvent, ...] = ()
    to: str = LOG
    retry_s: float | None = None
    verdict: Next = Next.GO_ON


class HandlerRun:
    """A handler and the turn that it runs in.

    Args:
        agent: Whose handler.
        ports: The outside world.
        limits: How handlers are run.
        turn: A turn that this process carries.
    """

    def __init__(self, agent: Agent, ports: Ports, limits: Limits, turn: Turn) -> None:
        self.agent, self.ports, self.limits, self.turn = agent, ports, limits, turn
        self.opening = _opening(turn)
        self.execution = self._execution()

    async def run(self) -> Ending:
        """Decode the input, run the handler, and turn its outcome or its exception into events.

        Raises:
            MeshError: With verdict HALT: the process must stop.
        """
        retry = self._policy(None)
        try:
            payload = await redeem(_input(self.opening), self.ports.blobs)
            try:
                handler, _ = self.agent.accept(payload)
            except PayloadInvalid as error:
                return self._unaccepted(error)
            retry = self._policy(handler)
            with self.ports.telemetry.span(self._span()):
                return await self._handled(payload, handler, retry)
        except Exception as error:  # noqa: BLE001  # a handler may raise anything; it is recorded
            return self._raised(error, retry)

    async def collect(self) -> None:
        """Run the handler over what is recorded, and no further: for the undos it registered."""
        self.turn.recall()
        self.execution = self._execution(replay_only=True)
        try:
            payload = await redeem(_input(self.opening), self.ports.blobs)
            handler, value = self.agent.accept(payload)
            await self._execute(handler, value, self._policy(handler))
        except Exception as error:  # noqa: BLE001  # what it raises was settled in an earlier run
            _log.info("handler of task `%s`, run again: %s", self.turn.cause.task_id, error)

    async def _handled(self, payload: Payload, handler: Handler, retry: Retry) -> Ending:
        while True:
            _, value = self.agent.accept(payload)  # each run has its own: it may change it
            outcome, context = await self._execute(handler, value, retry)
            left = self.execution.left
            if left is not Left.AGAIN:
                break
            await self.turn.look()
            self.turn.recall()
            self.execution = self._execution()
        if isinstance(left, Next):
            return Ending(verdict=left)
        if left is Left.OVERDUE:
            return Ending(events=(self.turn.overdue(),))
        if left is Left.PARKED:
            parked = self.execution.asking.parked
            _log.error("%s", _parked(self.turn.cause.task_id, parked))
            return Ending(events=(parked,) if parked else ())
        if dropped := self.execution.asking.forgotten():
            _log.warning(
                "task `%s`: never awaited, and so dropped: %s",
                self.turn.cause.task_id,
                ", ".join(dropped),
            )
        return await self._conclude(outcome, context)

    async def _execute(self, handler: Handler, value: Any, retry: Retry) -> tuple[Any, TurnContext]:
        event = self.opening.event
        packet = event.packet if isinstance(event, e.HandedOff) else None
        context = TurnContext(
            self.execution,
            retry=retry,
            packet=packet or packet_of(fold(_until(self.turn.records, self.opening.event_id))),
            clock=self.ports.clock,
        )
        limit_s = handler.retry.timeout_s if handler.retry else None
        try:
            with anyio.fail_after(limit_s):
                return await self.execution.run(lambda: handler.run(context, value)), context
        except TimeoutError as error:
            if str(error) or limit_s is None:
                raise
            raise TimeoutError(f"the handler took longer than {limit_s} s") from error

    def _execution(self, *, replay_only: bool = False) -> Execution:
        leg = self.turn.task.leg
        return Execution(
            self.turn,
            self.ports,
            self.limits,
            opened_id=leg.opened_id if leg else self.opening.event_id,
            opened_position=leg.opened_position if leg else self.turn.hold.position,
            replay_only=replay_only,
        )

    def _policy(self, handler: Handler | None) -> Retry:
        if handler is not None and handler.retry is not None:
            return handler.retry
        return Retry(attempts=self.limits.attempts, backoff=self.limits.backoff)

    def _span(self) -> SpanSpec:
        turn = self.turn
        return invoking(
            turn.delivery.record,
            self.agent.name,
            attempt=turn.attempt,
            version=self.agent.behaviour,
        )

    def _unaccepted(self, error: PayloadInvalid) -> Ending:
        """Input that no handler takes: refused, unless one has taken it and begun."""
        execution = self.execution
        if not execution.record.last_ordinal:
            return Ending(events=(decide.reject(self.turn.task, failure_of(error)),))
        execution.asking.park_unasked(f"the input is not accepted: {error}")
        parked = execution.asking.parked
        return Ending(events=(parked,) if parked else ())

    async def _conclude(self, outcome: Any, context: TurnContext) -> Ending:
        # Any: what a handler returned, whatever its annotation promised.
        turn = self.turn
        notes = context.notes()
        before = (*self._leftover(), *((notes,) if notes else ()))
        match outcome:
            case Reply(value=value):
                result = await check_in(encode_value(value), self.ports.blobs)
                return Ending(events=(*before, decide.complete(turn.task, result)))
            case Handoff():
                event = await self._hand_off(outcome, notes)
                return Ending(events=(*before, event), to=outcome.agent)
            case Fail():
                failure = Failure(
                    code=outcome.code, message=outcome.message, details=outcome.details
                )
                return Ending(events=(*before, decide.fail(turn.task, failure)))
            case Reject():
                details = {"field": outcome.field} if outcome.field else {}
                failure = Failure(code="agent.rejected", message=outcome.message, details=details)
                return Ending(events=(*before, decide.reject(turn.task, failure)))
            case _:
                failure = Failure(
                    code="agent.outcome_invalid",
                    message=f"the handler returned `{type(outcome).__name__}`; a handler returns"
                    " Reply(value), Handoff(agent, value), Fail(message) or Reject(message)",
                )
                return Ending(events=(*before, decide.fail(turn.task, failure)))

    async def _hand_off(self, outcome: Handoff, notes: e.Noted | None) -> e.HandedOff:
        ports, turn = self.ports, self.turn
        await ports.require_agent(check_name(outcome.agent))
        task = noted(turn.task, notes) if notes else turn.task
        return decide.hand_off(
            task,
            to=outcome.agent,
            input=await check_in(encode_value(outcome.value), ports.blobs),
            packet=packet_of(task, next_task=outcome.next_task),
        )

    def _raised(self, error: Exception, retry: Retry) -> Ending:
        """What an exception amounts to; a group of one counts as the one."""
        error = only(error)
        task = self.turn.task
        if isinstance(error, StepFailed) and error.failure_code != Fatal.code:
            return self._dead(failure_of(error), step=error.ordinal)
        if not isinstance(error, MeshError):
            _log.error("handler raised on task `%s`", self.turn.cause.task_id, exc_info=error)
        elif error.verdict is Verdict.HALT:
            raise error
        elif error.verdict is Verdict.NEVER:
            return Ending(events=(*self._leftover(), decide.fail(task, failure_of(error))))
        return self._failed_attempt(error, retry)

    def _failed_attempt(self, error: Exception, retry: Retry) -> Ending:
        failure = failure_of(error)
        failures = self.turn.failures
        if failures >= retry.attempts:
            return self._dead(failure)
        delay_s = retry.backoff.delay_s(failures, self.ports.ids.random())
        if isinstance(error, Retryable) and error.after is not None:
            delay_s = min(max(0.0, error.after), _LONGEST_S)
        retry_at = self.ports.clock.now() + timedelta(seconds=delay_s)
        failed = replace(decide.fail_attempt(self.turn.task, failure), retry_at=retry_at)
        if delay_s <= self.limits.hold_s:
            return Ending(events=(*self._leftover(), failed), retry_s=delay_s)
        # Too long to keep a delivery for: nobody holds anything, and a cancel is served at once.
        timer_id = derived_id(self.turn.cause.event_id, "pause", self.turn.task.version)
        timer = e.TimerSet(timer_id=timer_id, fires_at=retry_at)
        paused = e.Suspended(waits=(e.Wait(what=TIMER, id=timer_id),))
        return Ending(events=(*self._leftover(), failed, timer, paused))

    def _dead(self, failure: Failure, *, step: int = 0) -> Ending:
        task, attempts = self.turn.task, self.turn.failures
        failed = decide.fail_attempt(task, failure)
        dead = replace(decide.dead_letter(task, failure), attempts=attempts, step=step)
        return Ending(events=(*self._leftover(), failed, dead))

    def _leftover(self) -> tuple[e.TaskEvent, ...]:
        """What the run told and showed since its last append."""
        return (*self.execution.emitter.recorded(), *self.execution.asking.leftover())


def _parked(task_id: str, parked: e.Parked | None) -> str:
    if parked is None:
        return f"task `{task_id}` is parked"
    return (
        f"task `{task_id}` is parked: at {parked.ordinal} its history has {parked.recorded}, the"
        f" handler asks for {parked.asked}; mend the handler, then `mesh task unpark {task_id}`"
    )


def _opening(turn: Turn) -> Envelope:
    """The envelope that opened the leg, which is not the delivery's after a wait."""
    leg = turn.task.leg
    if leg is None or leg.opened_id == turn.cause.event_id:
        return turn.cause
    found = (r.envelope for r in turn.records if r.envelope)
    return next((v for v in found if v.event_id == leg.opened_id), turn.cause)


def _input(opening: Envelope) -> Payload:
    event = opening.event
    return event.input or Payload() if isinstance(event, e.OPENING) else Payload()


def _until(records: list[Record], event_id: str) -> list[Record]:
    """The history up to an event, with it."""
    for index, record in enumerate(records):
        if record.envelope is not None and record.envelope.event_id == event_id:
            return records[: index + 1]
    return records
