"""`mesh replay` and `mesh trace`: what a task's events say."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mesh.cli.failure import run
from mesh.cli.option import Data, Json, data_folder, instant
from mesh.cli.output import emit, show
from mesh.errors import Invalid

if TYPE_CHECKING:
    from mesh.wire.v1.api_pb2 import StateAt
    from mesh.wire.v1.gateway_pb2 import GetStateRequest

__all__ = ["replay", "state_at"]

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
    folder = data_folder(data)
    state = run(lambda: state_at(folder, request))
    if json:
        emit(state)
        return
    from mesh.cli.render import state_view

    show(state_view(state))


async def state_at(folder: Path, request: "GetStateRequest") -> "StateAt":
    """The state at a point of a history, from the gateway."""
    from mesh.cli.reach import gateway

    async with gateway(folder) as line:
        return await line.call(line.stub.GetState, request)
