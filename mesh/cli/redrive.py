"""`mesh dlq redrive`: one dead letter, some, or all."""

import sys
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mesh.cli.failure import FAILED, WAITING, run
from mesh.cli.option import FLAG, Data, Json, instant
from mesh.cli.output import busy, emit, emit_line, say, show
from mesh.errors import Invalid

if TYPE_CHECKING:
    from mesh.wire.v1.api_pb2 import RedriveOutcome, Task

__all__ = ["redrive"]

_PROGRESS = 100
"""After how many a log, where no terminal shows a count, is told how far it got."""


def redrive(  # noqa: PLR0913 - one parameter an option
    tasks: Annotated[
        list[str] | None, typer.Argument(metavar="TASK", help="Ids of the tasks.")
    ] = None,
    *,
    all_: Annotated[
        bool, typer.Option("--all", metavar=FLAG, help="All dead letters there are.")
    ] = False,
    agent: Annotated[str, typer.Option(help="With --all: only this agent's.")] = "",
    since: Annotated[
        str | None,
        typer.Option(metavar="WHEN", help="With --all: only since then; 90s, 15m, an instant."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", metavar=FLAG, help="Do not ask.")] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Give dead-lettered deliveries to their agents again.

    With several, those that are refused are named, and the exit code is 1.
    """
    task_ids = list(dict.fromkeys(tasks or []))
    if all_ == bool(task_ids):
        raise Invalid("give either TASK, one or more, or --all")
    if (agent or since) and not all_:
        raise Invalid("--agent and --since choose among all: give --all too")
    if len(task_ids) == 1:
        _print(run(lambda: _one(data, task_ids[0]), waiting=WAITING), json=json)
        return
    if all_:
        first = None if since is None else instant(since, "--since", direction=-1)
        task_ids = run(lambda: _listed(data, agent, first), waiting=WAITING)
        if not task_ids:
            say("no dead letters")
            return
        if not yes and sys.stdin.isatty() and not _confirmed(len(task_ids)):
            say("nothing was redriven")
            raise typer.Exit(FAILED)
    refused = run(lambda: _many(data, task_ids, json=json))
    say(f"redriven: {len(task_ids) - refused} of {len(task_ids)}")
    if refused:
        raise typer.Exit(FAILED)


def _confirmed(count: int) -> bool:
    noun = "dead letter" if count == 1 else "dead letters"
    return typer.confirm(f"redrive {count} {noun}?", err=True)


async def _one(data: Path | None, task_id: str) -> "Task":
    from mesh.cli.reach import gateway
    from mesh.client.mesh import Mesh

    async with gateway(data) as line:
        return await Mesh(line).redrive(task_id)


async def _listed(data: Path | None, agent: str, since: datetime | None) -> list[str]:
    """The tasks as they are now: what is redriven and dies again is not redriven for ever."""
    from mesh.cli.reach import gateway
    from mesh.client.mesh import Mesh

    task_ids: list[str] = []
    unreadable = 0
    async with (
        gateway(data) as line,
        aclosing(Mesh(line).dead_letters(agent=agent, since=since)) as entries,
    ):
        async for entry in entries:
            if entry.redrivable:
                task_ids.append(entry.task_id)
            else:
                unreadable += 1
    if unreadable:
        say(f"left out: {unreadable} unreadable, which no redrive can help")
    return list(dict.fromkeys(task_ids))


async def _many(data: Path | None, task_ids: list[str], *, json: bool) -> int:
    """Redrive, and say which were refused and why; gives how many."""
    from mesh.cli.reach import LONG_PATIENCE_S, gateway
    from mesh.client.mesh import Mesh

    refused: list[RedriveOutcome] = []
    async with (
        gateway(data, patience_s=LONG_PATIENCE_S) as line,
        aclosing(Mesh(line).redrive_all(task_ids)) as outcomes,
    ):
        with busy(f"0 of {len(task_ids)} …") as progress:
            done = 0
            async for outcome in outcomes:
                done += 1
                if outcome.HasField("error"):
                    refused.append(outcome)
                if json:
                    emit_line(outcome)
                progress(f"{done} of {len(task_ids)} …")
                if done % _PROGRESS == 0 and not sys.stderr.isatty():
                    say(f"{done} of {len(task_ids)} …")
    for outcome in refused:
        say(f"mesh: {outcome.error.message}")
    return len(refused)


def _print(task: "Task", *, json: bool) -> None:
    if json:
        emit(task)
        return
    from mesh.cli.task_view import task_view

    show(task_view(task))
