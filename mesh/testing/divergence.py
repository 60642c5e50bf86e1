"""Running a handler again over a history that was recorded: where does it leave it?

Nothing happens in the world: no step's function is called, nothing is appended, nobody is told.
What a handler does beside `ctx` it does, of course.

Source: design, sections 4 and 6.
"""

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from mesh.agent.definition import Agent
from mesh.agent.execution import Execution, Left
from mesh.agent.ports import Limits, Ports
from mesh.agent.run import Ending, HandlerRun
from mesh.agent.turn import Turn
from mesh.blob.inproc import InprocBlobs
from mesh.blob.port import BlobStore
from mesh.bus.inproc import InprocBus
from mesh.core import event as e
from mesh.core.carrier import Hold
from mesh.core.envelope import Envelope, Record
from mesh.core.fold import evolve, fold
from mesh.core.payload import Blob, Failure, Payload
from mesh.core.task import EMPTY
from mesh.errors import AgentUnknown, HistoryCorrupt
from mesh.gateway.submission import same_input
from mesh.registry.port import Card, Presence
from mesh.telemetry.inproc import NoTelemetry
from mesh.testing.clock import ManualClock, ManualIds

__all__ = ["first_divergence"]

_ENDS = (e.HandedOff, e.Completed, e.Failed, e.Rejected, e.Canceled)
_OWN = (e.HandedOff, e.Completed, e.Failed, e.Rejected)
"""What a handler's outcome is recorded as."""
_FOREIGN = {"guard.deadline", AgentUnknown.code}
"""Failures that say nothing of the handler: it may do better in another world."""
_SHOWN = 200
_LAST = 2**62
"""Behind every position."""


async def first_divergence(
    agent: Agent, history: Sequence[Record], *, blobs: BlobStore | None = None
) -> e.Parked | None:
    """Run an agent's handler again over one task's history; no effect, and nothing is appended.

    Every stretch of the task that the agent had is run, the oldest first. A handler diverges when
    it asks for something else than was recorded, asks for more where it had ended, or ends in
    another way: with another outcome, value or addressee. What it notes and emits is not compared.

    Args:
        agent: As it is declared now.
        history: The task's records from its submit on, ascending; see `LocalTask.history` and
            `load_histories`.
        blobs: Where its payloads over 256 KiB are; only needed if it has some.

    Returns:
        Ordinal, what is recorded there, and what is asked instead; None if there is no divergence,
        also when the agent never had the task.

    Raises:
        HistoryCorrupt: The history does not begin with a submit, or has an unreadable record;
            or a payload over 256 KiB is not in `blobs`.
    """
    _check(history)
    for leg in _legs(agent.name, history):
        found = await _Rerun(agent, leg, blobs or InprocBlobs()).divergence()
        if found is not None:
            return found
    return None


def _check(history: Sequence[Record]) -> None:
    for record in history:
        if record.envelope is None:
            raise HistoryCorrupt(f"position {record.position} is unreadable: {record.fault}")
    first = history[0].envelope if history else None
    if first is None or not isinstance(first.event, e.TaskSubmitted):
        raise HistoryCorrupt("a history begins with `task.submitted`")
    if len({record.envelope.task_id for record in history if record.envelope}) > 1:
        raise HistoryCorrupt("these are the records of several tasks; give those of one")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Leg:
    """An agent's time with a task.

    `records` are the task's up to its end, without it; `end` is None while the leg is open.
    """

    opened: Record
    opening: Envelope
    records: tuple[Record, ...]
    end: Envelope | None


def _legs(agent: str, history: Sequence[Record]) -> Iterator[_Leg]:
    task = EMPTY
    opened: tuple[Record, Envelope] | None = None
    dead: tuple[int, Envelope] | None = None
    for index, record in enumerate(history):
        before, task = task, evolve(task, record)
        envelope = record.envelope
        if envelope is None or before.closed:
            # A redrive goes on with the same leg.
            dead = dead if task.closed else None
            continue
        if isinstance(envelope.event, e.DeadLettered):
            dead = (index, envelope)
        if opened and isinstance(envelope.event, _ENDS) and before.owner == agent:
            yield _leg(opened, history[:index], envelope)
            opened = None
        if isinstance(envelope.event, e.TaskSubmitted | e.HandedOff) and envelope.to == agent:
            opened = (record, envelope)
    if opened:
        until, end = dead or (len(history), None)
        yield _leg(opened, history[:until], end)


def _leg(opened: tuple[Record, Envelope], records: Sequence[Record], end: Envelope | None) -> _Leg:
    return _Leg(opened=opened[0], opening=opened[1], records=tuple(records), end=end)


class _Rerun:
    """One run over one leg."""

    def __init__(self, agent: Agent, leg: _Leg, blobs: BlobStore) -> None:
        self._leg = leg
        ports = Ports(
            bus=InprocBus(),
            blobs=_Overlay(blobs),
            registry=_Everybody(),
            clock=ManualClock(leg.records[-1].stored_at),
            ids=ManualIds(),
            telemetry=NoTelemetry(),
            instance="replay",
        )
        limits = Limits()
        turn = Turn(agent, ports, _Delivered(leg.opened), leg.opening)
        task = fold(leg.records)
        turn.hold = Hold(
            position=leg.opened.position,
            instance="replay",
            redelivered=False,
            base=task,
            task=task,
        )
        turn.records = list(leg.records)
        turn.attempt = leg.end.attempt if leg.end else 1
        turn.recall()
        self._run = HandlerRun(agent, ports, limits, turn)
        turn.recall()
        self._run.execution = Execution(
            turn,
            ports,
            limits,
            opened_id=task.leg.opened_id if task.leg else leg.opening.event_id,
            opened_position=task.leg.opened_position if task.leg else leg.opened.position,
            replay_only=True,
        )

    async def divergence(self) -> e.Parked | None:
        ending = await self._run.run()
        execution = self._run.execution
        if execution.asking.parked is not None:
            return execution.asking.parked
        waits = execution.left is Left.COLLECTED
        said = "nothing more" if waits else _ended(ending)
        if execution.record.last_ordinal > execution.asking.ordinal:
            execution.asking.park_unasked(said)
            return execution.asking.parked
        end = self._own_end()
        if waits:
            return await self._more(_outcome(end)) if end else None
        if end is None:
            return self._instead_of_waiting(said)
        return self._other_end(end, ending)

    def _own_end(self) -> Envelope | None:
        """The outcome of the handler that the leg ended with; None if it ended otherwise."""
        end = self._leg.end
        if end is None or not isinstance(end.event, _OWN):
            return None
        failure = end.event.failure if isinstance(end.event, e.Failed) else None
        return None if failure and failure.code in _FOREIGN else end

    async def _more(self, recorded: str) -> e.Parked:
        """The handler waits, where it had ended: for what that is not recorded?"""
        asking, record = self._run.execution.asking, self._run.execution.record
        asked = {step.ordinal: f"step `{step.name}`" for step in asking.unrecorded_steps()}
        for draft in asking.outbox:
            event, _ = await draft()
            ordinal = event.ordinal if isinstance(event, _ASKED) else 0
            record.add([self._as_recorded(event, _LAST + ordinal)])
            asked[ordinal] = str(record.asked[ordinal])
        first = min(asked, default=asking.ordinal + 1)
        named = asked.get(first, "a signal, or something else that never came back")
        return e.Parked(ordinal=first, recorded=recorded, asked=named)

    def _instead_of_waiting(self, said: str) -> e.Parked | None:
        leg = fold(self._leg.records).leg
        if self._leg.end is not None or leg is None or not leg.suspended or leg.attempts:
            return None  # a run that failed may well do better
        waits = ", ".join(f"{wait.what} `{wait.id}`" for wait in leg.waits)
        return self._parked(f"a wait for {waits}", said)

    def _other_end(self, end: Envelope, ending: Ending) -> e.Parked | None:
        known = self._run.execution.record.asked
        for event in ending.events[:-1]:
            if isinstance(event, _ASKED) and event.ordinal and event.ordinal not in known:
                self._run.execution.record.add([self._as_recorded(event, _LAST)])
                return e.Parked(
                    ordinal=event.ordinal,
                    recorded=_outcome(end),
                    asked=str(self._run.execution.record.asked[event.ordinal]),
                )
        last = ending.events[-1]
        if type(last) is type(end.event) and end.to == ending.to and _same(end.event, last):
            return None
        return self._parked(_outcome(end), _ended(ending))

    def _parked(self, recorded: str, asked: str) -> e.Parked:
        ordinal = self._run.execution.asking.ordinal + 1
        return e.Parked(ordinal=ordinal, recorded=recorded, asked=asked)

    def _as_recorded(self, event: e.TaskEvent, position: int) -> Record:
        envelope = replace(self._leg.opening, event=event, to="log", source=b"")
        return replace(self._leg.opened, position=position, raw=b"", envelope=envelope)


_ASKED = (
    e.StepRecorded,
    e.Delegated,
    e.TimerSet,
    e.InputRequested,
    e.CompensationRegistered,
    e.Spent,
)


def _same(recorded: e.TaskEvent, now: e.TaskEvent) -> bool:
    """Whether two outcomes of one kind say the same."""
    one, other = _failure(recorded), _failure(now)
    if one or other:
        return (one and (one.code, one.message)) == (other and (other.code, other.message))
    return same_input(_value(recorded), _value(now))


def _failure(event: e.TaskEvent) -> Failure | None:
    return event.failure if isinstance(event, e.Failed | e.Rejected) else None


def _value(event: e.TaskEvent) -> Payload | None:
    if isinstance(event, e.HandedOff):
        return event.input
    return event.result if isinstance(event, e.Completed) else None


def _outcome(end: Envelope) -> str:
    return _said(end.event, end.to)


def _ended(ending: Ending) -> str:
    failed = [v.failure for v in ending.events if isinstance(v, e.AttemptFailed) and v.failure]
    if failed:
        return f"raised `{failed[-1].code}`: {failed[-1].message}"[:_SHOWN]
    return _said(ending.events[-1], ending.to)


def _said(event: e.TaskEvent, to: str) -> str:
    """An outcome, in words."""
    kind = event.kind.removeprefix("task.").replace("_", " ")
    if failure := _failure(event):
        return f"{kind} `{failure.code}`: {failure.message}"[:_SHOWN]
    value = _value(event)
    shown = "" if value is None else value.data.decode(errors="replace")
    addressed = f" to `{to}`" if isinstance(event, e.HandedOff) else ""
    return f"{kind}{addressed} with {shown}"[:_SHOWN] if shown else f"{kind}{addressed}"


class _Delivered:
    """The delivery of something that was delivered long ago."""

    def __init__(self, record: Record) -> None:
        self.record, self.shard = record, record.subject.split(".")[2]
        self.redelivered, self.lease_valid = False, True

    async def ack(self) -> None:
        """Nobody waits for it."""

    async def nak(self, delay_s: float) -> None:
        """Nobody waits for it."""

    def drop(self) -> None:
        """Nobody waits for it."""


class _Everybody:
    """A registry that knows every agent: what is handed off is compared, not refused."""

    @asynccontextmanager
    async def announce(self, card: Card, presence: Presence) -> AsyncGenerator[None]:
        yield

    async def card(self, agent: str) -> Card | None:
        return Card(name=agent, behaviour_version="")

    async def cards(self) -> list[Card]:
        return []

    async def presences(self, agent: str = "") -> list[Presence]:
        return []


class _Overlay:
    """Blobs to read; what is put stays here."""

    def __init__(self, below: BlobStore) -> None:
        self._below, self._above = below, InprocBlobs()

    async def put(self, data: bytes) -> Blob:
        return await self._above.put(data)

    async def open(self, blob: Blob) -> bytes:
        return await self._below.open(blob)
