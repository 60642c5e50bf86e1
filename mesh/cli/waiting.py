"""`mesh task answer`, `signal`, `unpark`: what a task waits for, given from outside."""

from typing import TYPE_CHECKING, Annotated

import typer

from mesh.cli.failure import WAITING, run
from mesh.cli.option import Data, Json, TaskId
from mesh.cli.output import emit, show

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from mesh.client.line import Line
    from mesh.wire.v1.api_pb2 import Task

__all__ = ["answer", "signal", "unpark"]

_JSON = "application/json"


def answer(
    task: TaskId,
    *,
    input_: Annotated[
        str,
        typer.Option("--input", metavar="JSON|@file|-", help="The answer, as JSON; - is stdin."),
    ],
    request: Annotated[
        str, typer.Option(metavar="ID", help="Which question, if several are open.")
    ] = "",
    data: Data = None,
    json: Json = False,
) -> None:
    """Answer a question that a task asks; `mesh task show` shows it.

    One that does not fit is refused, and the question stays open.
    """
    from mesh.cli.payload import given_json
    from mesh.wire.v1.gateway_pb2 import AnswerTaskRequest

    asked = AnswerTaskRequest(task_id=task, question_id=request)
    asked.answer.content_type, asked.answer.data = _JSON, given_json(input_)

    async def call(line: "Line") -> "Task":
        asked.request_id = line.ids.fresh()
        return await line.call(line.stub.AnswerTask, asked)

    _run(data, call, json=json)


def signal(
    task: TaskId,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of the signal: a-z, 0-9 and -.")
    ],
    *,
    input_: Annotated[
        str | None,
        typer.Option(
            "--input", metavar="JSON|@file|-", help="What goes with it, as JSON; - is stdin."
        ),
    ] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Give a task a named signal; it waits there until its handler asks for it."""
    from mesh.cli.payload import given_json
    from mesh.wire.v1.gateway_pb2 import SignalTaskRequest

    request = SignalTaskRequest(task_id=task, name=name)
    if input_ is not None:
        request.value.content_type, request.value.data = _JSON, given_json(input_)

    async def call(line: "Line") -> "Task":
        request.request_id = line.ids.fresh()
        return await line.call(line.stub.SignalTask, request)

    _run(data, call, json=json)


def unpark(
    task: TaskId,
    *,
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "",
    data: Data = None,
    json: Json = False,
) -> None:
    """Let a task go on that is held because its handler asked for something new.

    Deploy a handler that asks for what its history recorded first.
    """
    from mesh.wire.v1.gateway_pb2 import UnparkTaskRequest

    request = UnparkTaskRequest(task_id=task, reason=reason)

    async def call(line: "Line") -> "Task":
        request.request_id = line.ids.fresh()
        return await line.call(line.stub.UnparkTask, request)

    _run(data, call, json=json)


def _run(data: "Path | None", call: "Callable[[Line], Awaitable[Task]]", *, json: bool) -> None:
    from mesh.cli.reach import gateway

    async def ask() -> "Task":
        async with gateway(data) as line:
            return await call(line)

    task = run(ask, waiting=WAITING)
    if json:
        emit(task)
        return
    from mesh.cli.task_view import task_view

    show(task_view(task))
