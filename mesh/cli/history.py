"""`mesh replay` and `mesh trace`: what a task's events say."""

import json as jsonlib
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mesh.cli.failure import WAITING, run
from mesh.cli.option import Data, Json, instant
from mesh.cli.output import emit, show
from mesh.errors import Invalid

if TYPE_CHECKING:
    from mesh.client.line import Line
    from mesh.core.envelope import Record
    from mesh.replay.trace import Trace
    from mesh.wire.v1.api_pb2 import Event, StateAt
    from mesh.wire.v1.gateway_pb2 import GetStateRequest

__all__ = ["replay", "trace", "trace_from"]

_PAGE = 500
_RECORDED_S = 5.0
_LOOK_S = 0.05

TaskId = Annotated[str, typer.Argument(metavar="TASK", help="Id of the task.")]


def replay(
    task: TaskId,
    *,
    version: Annotated[int | None, typer.Option(min=1, help="After this many events.")] = None,
    position: Annotated[int | None, typer.Option(min=1, help="At this position.")] = None,
    time: Annotated[str | None, typer.Option(help="At this instant, or 5m ago.")] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Fold a task's events to its state, at any point of its history; nothing is run."""
    from mesh.wire.v1.gateway_pb2 import GetStateRequest

    if sum(each is not None for each in (version, position, time)) > 1:
        raise Invalid("give at most one of --version, --position, --time")
    request = GetStateRequest(task_id=task)
    if version is not None:
        request.version = version
    if position is not None:
        request.position = position
    if time is not None:
        request.time.FromDatetime(instant(time, "--time", direction=-1))
    state = run(lambda: _state_at(data, request), waiting=WAITING)
    if json:
        emit(state)
        return
    from mesh.cli.render import state_view

    show(state_view(state))


def trace(task: TaskId, *, data: Data = None, json: Json = False) -> None:
    """Draw a task's trace from its events: every hand-off, who worked on it, and for how long.

    The tasks that it delegated are in it.
    """
    from rich.text import Text

    from mesh.cli.reach import gateway
    from mesh.replay.trace_text import trace_json, trace_text

    async def draw() -> "Trace":
        async with gateway(data) as line:
            return await trace_from(line, task)

    drawn = run(draw, waiting=WAITING)
    if json:
        print(jsonlib.dumps(trace_json(drawn), indent=2))
    else:
        show(Text(trace_text(drawn)))


async def trace_from(line: "Line", task_id: str) -> "Trace":
    """A task's trace, once the ledger has all that the log had of it when it was asked for.

    Its children are in it, and theirs, as far as the ledger has them then.

    Raises:
        TaskUnknown: There is no such task.
    """
    import anyio

    from mesh.replay.trace import trace_of
    from mesh.wire.v1.gateway_pb2 import GetTaskRequest

    task = await line.call(line.stub.GetTask, GetTaskRequest(task_id=task_id))
    until = anyio.current_time() + _RECORDED_S
    while True:
        events = await _events(line, task_id)
        whole = bool(events) and events[-1].position >= task.position
        if whole or anyio.current_time() > until:
            records = [_record(event) for event in events if not event.fault]
            return trace_of(records + await _below(line, records))
        await anyio.sleep(_LOOK_S)


async def _events(line: "Line", task_id: str) -> "list[Event]":
    from mesh.wire.v1.gateway_pb2 import ListEventsRequest

    request = ListEventsRequest(task_id=task_id, page_size=_PAGE, with_raw=True)
    events: list[Event] = []
    while True:
        reply = await line.call(line.stub.ListEvents, request)
        events += reply.events
        if not reply.next_page_token:
            return events
        request.page_token = reply.next_page_token


async def _below(line: "Line", records: "list[Record]") -> "list[Record]":
    """Records of all that these records' tasks delegated, and what that did."""
    from mesh.core.event import Delegated

    found: list[Record] = []
    waiting = records
    while waiting:
        delegated = [r.envelope.event for r in waiting if r.envelope]
        children = [each.child_task_id for each in delegated if isinstance(each, Delegated)]
        histories = [await _events(line, child) for child in children]
        waiting = [_record(event) for events in histories for event in events if not event.fault]
        found += waiting
    return found


def _record(event: "Event") -> "Record":
    from mesh.core.envelope import Record
    from mesh.wire.codec import decode

    envelope = decode(event.raw)
    return Record(
        position=event.position,
        stored_at=event.stored_at.ToDatetime(UTC),
        subject=str(envelope.subject(event.shard)),
        raw=event.raw,
        envelope=envelope,
    )


async def _state_at(data: Path | None, request: "GetStateRequest") -> "StateAt":
    from mesh.cli.reach import gateway

    async with gateway(data) as line:
        return await line.call(line.stub.GetState, request)
