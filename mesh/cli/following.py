"""`mesh task watch` and `task submit --follow`: a task as it goes on, to its outcome."""

import sys
from contextlib import aclosing
from typing import TYPE_CHECKING

import typer

from mesh.cli.failure import FAILED, WAITING, run
from mesh.cli.option import Data, Json, TaskId
from mesh.cli.output import emit_line, say, show

if TYPE_CHECKING:
    from mesh.client.line import Line
    from mesh.client.output import Output
    from mesh.wire.v1.api_pb2 import Task
    from mesh.wire.v1.gateway_pb2 import WatchTaskResponse

__all__ = ["follow_task", "watch"]


def watch(task: TaskId, *, data: Data = None, json: Json = False) -> None:
    """Print a task's events from its first, and live what its agents emit, until it has ended.

    Exit code 1 if its outcome is bad.
    """
    from mesh.cli.reach import LONG_PATIENCE_S, gateway
    from mesh.wire.v1.api_pb2 import Task

    async def ask() -> Task:
        async with gateway(data, patience_s=LONG_PATIENCE_S) as line:
            return await follow_task(line, task, json=json)

    if run(ask, waiting=WAITING).state != Task.State.COMPLETED:
        raise typer.Exit(FAILED)


async def follow_task(line: "Line", task_id: str, *, json: bool) -> "Task":
    """Print what happens to a task, to its outcome; gives it as it ended."""
    from mesh.cli.task_view import task_view
    from mesh.client.handle import TaskHandle
    from mesh.wire.v1.api_pb2 import Task

    task, pages = Task(task_id=task_id), _Pages()
    if not json:
        say(f"task {task_id}")
    async with aclosing(TaskHandle(line, task_id).watch(live=True)) as updates:
        async for update in updates:
            if update.HasField("task"):
                task = update.task
            if json:
                emit_line(update)
            else:
                pages.show(update)
    if not json:
        show(task_view(task))
    return task


class _Pages:
    """Text as it comes, and each event on a line of its own."""

    def __init__(self) -> None:
        from mesh.client.output import OutputReader

        self._reader = OutputReader()
        self._in_line = False

    def show(self, update: "WatchTaskResponse") -> None:
        from mesh.cli.render import event_line

        for piece in self._reader.take(update):
            self._print(piece)
        if update.HasField("event"):
            self._end_line()
            show(event_line(update.event, with_task=False))

    def _print(self, piece: "Output") -> None:
        if piece.takes_back:
            self._end_line()
            say(
                f"mesh: the last {piece.takes_back} characters of output are void: the run that"
                " showed them ended before they were recorded"
            )
        if piece.text:
            print(_harmless(piece.text), end="", flush=True)
            self._in_line = not piece.text.endswith("\n")

    def _end_line(self) -> None:
        if self._in_line:
            print(flush=True)
        self._in_line = False


def _harmless(text: str) -> str:
    """What an agent says must not steer a terminal; a file gets it as it is."""
    if not sys.stdout.isatty():
        return text
    return "".join(c for c in text if c.isprintable() or c in "\n\t")
