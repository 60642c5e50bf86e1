"""`mesh dlq`: list, show, redrive."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mesh.cli.failure import WAITING, run
from mesh.cli.option import Data, Json, TaskId
from mesh.cli.output import emit, say, show
from mesh.cli.redrive import redrive
from mesh.errors import Refused

if TYPE_CHECKING:
    from mesh.wire.v1.api_pb2 import DeadLetterEntry
    from mesh.wire.v1.gateway_pb2 import ListDeadLettersResponse

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Deliveries that no attempt could finish.")


@app.command("list")
def list_(
    *,
    agent: Annotated[str, typer.Option(help="Only this agent's.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")] = 100,
    page: Annotated[str, typer.Option(help="nextPageToken of the page before.")] = "",
    data: Data = None,
    json: Json = False,
) -> None:
    """List dead letters, oldest first."""
    reply = run(lambda: _list(data, agent=agent, limit=limit, page=page), waiting=WAITING)
    if json:
        emit(reply)
        return
    from mesh.cli.render import dead_letter_table

    if reply.dead_letters:
        show(dead_letter_table(reply.dead_letters))
    else:
        say("no dead letters")
    if reply.next_page_token:
        say(f"more: --page {reply.next_page_token}")


@app.command("show")
def show_(task: TaskId, *, data: Data = None, json: Json = False) -> None:
    """Show one dead letter with its last error."""
    entry = run(lambda: _find(data, task), waiting=WAITING)
    if json:
        emit(entry)
        return
    from mesh.cli.render import dead_letter_view

    show(dead_letter_view(entry))


app.command()(redrive)


async def _list(
    data: Path | None, *, agent: str, limit: int, page: str
) -> "ListDeadLettersResponse":
    from mesh.cli.reach import gateway
    from mesh.wire.v1.gateway_pb2 import ListDeadLettersRequest

    request = ListDeadLettersRequest(agent=agent, page_size=limit, page_token=page)
    async with gateway(data) as line:
        return await line.call(line.stub.ListDeadLetters, request)


async def _find(data: Path | None, task_id: str) -> "DeadLetterEntry":
    page = ""
    while True:
        reply = await _list(data, agent="", limit=1000, page=page)
        for entry in reply.dead_letters:
            if entry.task_id == task_id:
                return entry
        page = reply.next_page_token
        if not page:
            raise Refused(
                f"no dead letter of task `{task_id}`; `mesh dlq list` shows those there are"
            )
