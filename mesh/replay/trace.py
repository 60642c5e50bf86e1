"""The trace of a task, drawn from its events alone.

Its spans are the ones that were sent while it happened, with the same ids: whoever has the history
has the trace, also when nobody listened at the time. What the log cannot know is left open: when
an attempt ended whose process died.

Source: design, section 7.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from mesh.core import event as e
from mesh.core.envelope import Envelope, Record
from mesh.core.fold import fold
from mesh.core.payload import Failure
from mesh.core.subject import LOG
from mesh.core.task import State, Task
from mesh.errors import EnvelopeInvalid
from mesh.telemetry import names
from mesh.telemetry.port import SpanSpec

__all__ = ["Span", "Status", "Trace", "trace_of"]

_PID = re.compile(r"([0-9]+)-")
_FAILING = (e.AttemptFailed, e.Failed, e.Rejected, e.DeadLettered)
_ENDING = (e.HandedOff, e.Completed, e.Canceled, e.WorkReleased, e.Suspended, e.Parked, *_FAILING)


class Status(StrEnum):
    """What became of a span."""

    OK = "ok"
    FAILED = "failed"
    CANCELED = "canceled"
    RELEASED = "released"
    """Given back by a process that stopped; it counts as no attempt."""
    LOST = "lost"
    """Its process died or lost its lease: nobody knows when."""
    RUNNING = "running"


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One span with its times.

    Attributes:
        spec: Name, kind, ids, attributes and links, as live.
        depth: How deep it stands in the tree, 0 at a root.
        agent: Who it is about: the sender of an event, or the agent that works.
        instance: The process, "" if unknown; its `pid` is None then.
        started_at: When it began.
        ended_at: When it ended, None if that is not known or has not happened.
        waited_s: For an attempt: seconds the delivery waited for it on the bus, None if unknown.
        attempt: Which run of the turn's, 1-based, 0 for what is none.
        error: Code of the failure, "" if there was none.
    """

    spec: SpanSpec
    depth: int
    status: Status
    agent: str
    instance: str
    started_at: datetime
    ended_at: datetime | None
    waited_s: float | None = None
    attempt: int = 0
    error: str = ""

    @property
    def pid(self) -> int | None:
        """The process's id on its host."""
        found = _PID.match(self.instance)
        return int(found[1]) if found else None

    @property
    def duration_s(self) -> float | None:
        """Seconds it took, None if its end is not known."""
        return _seconds(self.started_at, self.ended_at) if self.ended_at else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """All spans of a task and of its children, each after its parent, siblings by start.

    `state` and `hops` are those of the first task in the records.
    """

    trace_id: str
    task_id: str
    state: State
    hops: int
    spans: tuple[Span, ...]

    @property
    def duration_s(self) -> float:
        """Seconds from the first start to the last known time."""
        times = [t for s in self.spans for t in (s.started_at, s.ended_at) if t]
        return _seconds(min(times), max(times)) if times else 0.0


@dataclass(slots=True)
class _Run:
    """One attempt: the events that one process wrote for one delivery in one go."""

    delivery: Record
    events: list[Envelope] = field(default_factory=list[Envelope])

    @property
    def first(self) -> Envelope:
        return self.events[0]

    @property
    def end(self) -> Envelope | None:
        return next((v for v in reversed(self.events) if isinstance(v.event, _ENDING)), None)


@dataclass(slots=True)
class _Node:
    spec: SpanSpec
    status: Status
    agent: str
    instance: str
    started_at: datetime
    ended_at: datetime | None
    waited_s: float | None = None
    attempt: int = 0
    error: str = ""
    children: list["_Node"] = field(default_factory=list["_Node"])


def trace_of(records: Iterable[Record]) -> Trace:
    """Draw the trace of a history.

    Args:
        records: Of one task, or of it and its children, in any order; the ones that a trimmed log
            has lost are missing in the trace too.
    """
    history = sorted(records, key=lambda r: r.position)
    drawing = _Drawing(history)
    for record in history:
        drawing.add(record)
    first = next((r.envelope for r in history if r.envelope), None)
    task_id = first.task_id if first else ""
    task = fold(r for r in history if r.envelope and r.envelope.task_id == task_id)
    spans = drawing.spans()
    return Trace(
        trace_id=spans[0].spec.trace_id if spans else "",
        task_id=task_id,
        state=task.state,
        hops=task.hops,
        spans=spans,
    )


class _Drawing:
    """A trace in the making; records are added in the order of their positions."""

    def __init__(self, history: Sequence[Record]) -> None:
        self._by_id = {r.envelope.event_id: r for r in history if r.envelope}
        self._runs = _runs(history, self._by_id)
        self._tasks: dict[str, Task] = {}
        for record in history:
            if record.envelope:
                task_id = record.envelope.task_id
                self._tasks[task_id] = fold([record], self._tasks.get(task_id, Task()))
        self._notices = {
            r.envelope.event.delivery_position: r.envelope
            for r in history
            if r.envelope and isinstance(r.envelope.event, e.DeadLettered)
        }
        self._of_run: dict[int, _Node] = {}
        self._of_span: dict[str, _Node] = {}
        self._roots: list[_Node] = []

    def add(self, record: Record) -> None:
        """Draw what a record tells: a send, a run that it is the first word of, or a fault."""
        envelope = record.envelope
        if envelope is None:
            self._draw_unreadable(record)
            return
        run = self._runs.get(envelope.event_id)
        if run and run.first is envelope:
            self._draw_run(run)
        if envelope.to != LOG:
            self._draw_send(record, envelope, run)

    def spans(self) -> tuple[Span, ...]:
        """Everything drawn, parents first."""
        found: list[Span] = []
        waiting = [(node, 0) for node in reversed(self._roots)]
        while waiting:
            node, depth = waiting.pop()
            found.append(_span(node, depth))
            ordered = sorted(node.children, key=lambda n: n.started_at)
            waiting.extend((child, depth + 1) for child in reversed(ordered))
        return tuple(found)

    def _draw_send(self, record: Record, envelope: Envelope, run: _Run | None) -> None:
        node = _Node(
            spec=names.sending(envelope, _shard(record)),
            status=Status.OK,
            agent=envelope.sender.agent,
            instance=envelope.sender.instance,
            started_at=envelope.occurred_at,
            # Two clocks: the broker's may be behind the sender's.
            ended_at=max(record.stored_at, envelope.occurred_at),
        )
        self._place(node, self._of_run.get(id(run)) if run else None)

    def _draw_run(self, run: _Run) -> None:
        delivery, first, end = run.delivery, run.first, run.end
        status, error = self._ended(run)
        attempt = first.attempt
        node = _Node(
            spec=names.processing(delivery, _shard(delivery), attempt=attempt),
            status=status,
            agent=first.sender.agent,
            instance=first.sender.instance,
            started_at=first.started_at or first.occurred_at,
            ended_at=end.occurred_at if end else None,
            attempt=attempt,
            error=error,
        )
        send = self._of_span.get(node.spec.parent_span_id)
        node.waited_s = _waited_s(node, delivery, send.children if send else [])
        self._of_run[id(run)] = node
        self._place(node, send)
        if all(isinstance(v.event, e.Canceled | e.ChildFinished) for v in run.events):
            return  # wound up before any handler ran
        version = first.sender.behaviour_version
        spec = names.invoking(delivery, node.agent, attempt=attempt, version=version)
        self._place(
            _Node(
                spec=spec,
                status=status,
                agent=node.agent,
                instance=node.instance,
                started_at=node.started_at,
                ended_at=node.ended_at,
                attempt=attempt,
                error=error,
            ),
            node,
        )

    def _draw_unreadable(self, record: Record) -> None:
        notice = self._notices.get(record.position)
        node = _Node(
            spec=names.processing(record, _shard(record), attempt=1),
            status=Status.FAILED,
            agent=notice.sender.agent if notice else "",
            instance=notice.sender.instance if notice else "",
            started_at=record.stored_at,
            ended_at=max(notice.occurred_at, record.stored_at) if notice else None,
            error=EnvelopeInvalid.code,
        )
        self._place(node, None)

    def _place(self, node: _Node, parent: _Node | None) -> None:
        over = parent or self._of_span.get(node.spec.parent_span_id)
        (over.children if over else self._roots).append(node)
        # The first of two that share an id stays: a released run's id comes again.
        self._of_span.setdefault(node.spec.span_id, node)

    def _ended(self, run: _Run) -> tuple[Status, str]:
        end = run.end
        if end is not None:
            return _verdict(end.event)
        turn = self._tasks[run.first.task_id].turn
        holds = turn and turn.claim_open and turn.claim_id in {v.event_id for v in run.events}
        return (Status.RUNNING if holds else Status.LOST), ""


def _runs(history: Sequence[Record], by_id: dict[str, Record]) -> dict[str, _Run]:
    """Runs by the ids of their events."""
    of_event: dict[str, _Run] = {}
    of_key: dict[tuple[str, int, tuple[str, datetime | None]], _Run] = {}
    for record in history:
        envelope = record.envelope
        if envelope is None or not envelope.attempt or envelope.causation_id not in by_id:
            continue
        delivery = by_id[envelope.causation_id]
        if delivery.envelope is None or delivery.envelope.to != envelope.sender.agent:
            continue
        # The attempt alone is not enough: a run that was given back has the number of the next.
        process = (envelope.sender.instance, envelope.started_at)
        key = (envelope.causation_id, envelope.attempt, process)
        if key not in of_key and _only_gives_up(envelope, of_key.values()):
            continue
        run = of_key.setdefault(key, _Run(delivery))
        run.events.append(envelope)
        of_event[envelope.event_id] = run
    return of_event


def _only_gives_up(envelope: Envelope, runs: Iterable[_Run]) -> bool:
    """Whether an event is not a run's but closes the delivery after the last one was lost."""
    return isinstance(envelope.event, e.DeadLettered) and any(
        run.first.causation_id == envelope.causation_id and run.first.attempt == envelope.attempt
        for run in runs
    )


def _verdict(event: e.TaskEvent) -> tuple[Status, str]:
    match event:
        case (
            e.AttemptFailed(failure=failure)
            | e.Failed(failure=failure)
            | e.Rejected(failure=failure)
            | e.DeadLettered(failure=failure)
        ):
            return Status.FAILED, _code(failure)
        case e.Canceled():
            return Status.CANCELED, ""
        case e.WorkReleased():
            return Status.RELEASED, ""
        case _:
            return Status.OK, ""


def _code(failure: Failure | None) -> str:
    return failure.code if failure else "unknown"


def _waited_s(node: _Node, delivery: Record, before: Sequence[_Node]) -> float | None:
    """Seconds from the event's being stored, or the last run's end, to the run's start."""
    previous = max((n for n in before if n.attempt), key=lambda n: n.started_at, default=None)
    since = previous.ended_at if previous else delivery.stored_at
    return _seconds(since, node.started_at) if since else None


def _span(node: _Node, depth: int) -> Span:
    return Span(
        spec=node.spec,
        depth=depth,
        status=node.status,
        agent=node.agent,
        instance=node.instance,
        started_at=node.started_at,
        ended_at=node.ended_at,
        waited_s=node.waited_s,
        attempt=node.attempt,
        error=node.error,
    )


def _shard(record: Record) -> str:
    parts = record.subject.split(".")
    return parts[2] if len(parts) > 2 else "unknown"


def _seconds(start: datetime, end: datetime) -> float:
    # Clocks of two machines: a span that seems to end before it began took no time.
    return max(0.0, (end - start).total_seconds())
