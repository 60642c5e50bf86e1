"""One run of a handler, and the events its end turns into."""

import logging
from dataclasses import dataclass, replace
from datetime import timedelta
from math import inf
from typing import Any, cast

import anyio

from mesh.agent.context import TurnContext
from mesh.agent.definition import Agent
from mesh.agent.outcome import Fail, Handoff, Reject, Reply
from mesh.agent.payload import encode_value
from mesh.agent.ports import Limits, Ports
from mesh.agent.turn import Turn
from mesh.blob.claim import check_in, redeem
from mesh.core import decide
from mesh.core import event as e
from mesh.core.fold import noted, packet_of
from mesh.core.payload import Failure, Payload
from mesh.core.subject import LOG, check_name
from mesh.errors import AgentUnknown, MeshError, PayloadInvalid, Retryable, Verdict
from mesh.telemetry.names import invoking
from mesh.telemetry.port import SpanSpec

__all__ = ["Ending", "failure_of", "run_handler"]

_log = logging.getLogger(__name__)
_TEXT_CHARS = 8 * 1024
"""Most of an error's text that is recorded."""
_LONGEST_S = 30 * 24 * 3600.0
"""Longest wait that a handler may ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What to append after a run; `retry_s` is set when the delivery is to come again."""

    events: tuple[e.TaskEvent, ...]
    to: str = LOG
    retry_s: float | None = None


async def run_handler(agent: Agent, ports: Ports, limits: Limits, turn: Turn) -> Ending:
    """Decode the input, run the handler, and turn its outcome or its exception into events.

    Raises:
        MeshError: With verdict HALT: the process must stop.
    """
    context = _context(turn, ports)
    try:
        payload = await redeem(_input(turn), ports.blobs)
        try:
            handler, value = agent.accept(payload)
        except PayloadInvalid as error:
            return Ending(events=(decide.reject(turn.task, failure_of(error)),))
        with ports.telemetry.span(_span(agent, turn)):
            outcome = await handler.run(context, value)
        return await _conclude(outcome, context.notes(), turn, ports)
    except anyio.get_cancelled_exc_class() as error:
        if anyio.current_effective_deadline() == -inf:
            raise
        # Not ours: of a task that the handler cancelled itself. It would end the worker in silence.
        return _raised(RuntimeError(f"cancelled by its own code: {error!r}"), turn, ports, limits)
    except Exception as error:  # noqa: BLE001  # a handler may raise anything; it is recorded
        return _raised(error, turn, ports, limits)


def _raised(error: Exception, turn: Turn, ports: Ports, limits: Limits) -> Ending:
    """What an exception amounts to; a group of one counts as the one."""
    error = _only(error)
    if not isinstance(error, MeshError):
        _log.error("handler raised on task `%s`", turn.cause.task_id, exc_info=error)
    elif error.verdict is Verdict.HALT:
        raise error
    elif error.verdict is Verdict.NEVER:
        return Ending(events=(decide.fail(turn.task, failure_of(error)),))
    return _failed_attempt(error, turn, ports, limits)


def _only(error: Exception) -> Exception:
    if not isinstance(error, ExceptionGroup):
        return error
    # What a group is of cannot be checked; one that is an Exception holds nothing else.
    group = cast("ExceptionGroup[Exception]", error)
    return _only(group.exceptions[0]) if len(group.exceptions) == 1 else group


def _span(agent: Agent, turn: Turn) -> SpanSpec:
    record = turn.delivery.record
    return invoking(record, agent.name, attempt=turn.attempt, version=agent.behaviour)


def _context(turn: Turn, ports: Ports) -> TurnContext:
    event = turn.cause.event
    packet = event.packet if isinstance(event, e.HandedOff) else None
    return TurnContext(
        cause=turn.cause,
        hop=turn.task.hops,
        attempt=turn.attempt,
        packet=packet or packet_of(turn.task),
        clock=ports.clock,
    )


def _input(turn: Turn) -> Payload:
    event = turn.cause.event
    if isinstance(event, e.TaskSubmitted | e.HandedOff | e.Redriven) and event.input:
        return event.input
    return Payload()


async def _conclude(outcome: Any, notes: e.Noted | None, turn: Turn, ports: Ports) -> Ending:
    # Any: what a handler returned, whatever its annotation promised.
    before = (notes,) if notes else ()
    match outcome:
        case Reply(value=value):
            result = await check_in(encode_value(value), ports.blobs)
            return Ending(events=(*before, decide.complete(turn.task, result)))
        case Handoff():
            return await _hand_off(outcome, notes, turn, ports)
        case Fail():
            failure = Failure(code=outcome.code, message=outcome.message, details=outcome.details)
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


async def _hand_off(outcome: Handoff, notes: e.Noted | None, turn: Turn, ports: Ports) -> Ending:
    if check_name(outcome.agent) not in ports.known_agents:
        # A card never expires, so what was seen once needs no second look.
        if await ports.registry.card(outcome.agent) is None:
            raise AgentUnknown(outcome.agent)
        ports.known_agents.add(outcome.agent)
    task = noted(turn.task, notes) if notes else turn.task
    event = decide.hand_off(
        task,
        to=outcome.agent,
        input=await check_in(encode_value(outcome.value), ports.blobs),
        packet=packet_of(task, next_task=outcome.next_task),
    )
    return Ending(events=(notes, event) if notes else (event,), to=outcome.agent)


def _failed_attempt(error: Exception, turn: Turn, ports: Ports, limits: Limits) -> Ending:
    failure = failure_of(error)
    failed = decide.fail_attempt(turn.task, failure)
    if turn.attempt >= limits.attempts:
        dead = replace(decide.dead_letter(turn.task, failure), attempts=turn.attempt)
        return Ending(events=(failed, dead))
    asked = error.after if isinstance(error, Retryable) else None
    delay_s = limits.backoff.delay_s(turn.attempt, ports.ids.random())
    if asked is not None:
        delay_s = min(max(0.0, asked), _LONGEST_S)
    retry_at = ports.clock.now() + timedelta(seconds=delay_s)
    return Ending(events=(replace(failed, retry_at=retry_at),), retry_s=delay_s)


def failure_of(error: Exception) -> Failure:
    """An error as it is recorded: short enough, and text that can be sent."""
    if isinstance(error, MeshError):
        details = {name: _plain(text) for name, text in error.details().items()}
        return Failure(code=error.code, message=_plain(str(error)), details=details)
    return Failure(code=f"python.{type(error).__name__}", message=_plain(_said(error)))


def _said(error: Exception) -> str:
    try:
        return str(error) or repr(error)
    except Exception:  # noqa: BLE001  # its author's code, which may raise anything
        return "(an error that cannot be shown)"


def _plain(text: str) -> str:
    """Half characters, as in a file's name that is no UTF-8, are written out."""
    if len(text) > _TEXT_CHARS:
        text = f"{text[:_TEXT_CHARS]}… ({len(text)} characters)"
    return text.encode(errors="backslashreplace").decode()
