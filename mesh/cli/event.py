"""`mesh events`: list, tail."""

from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mesh.cli.failure import run
from mesh.cli.option import FLAG, Data, Json, checked_kind, instant
from mesh.cli.output import emit_line, say, show
from mesh.core.event import KINDS

if TYPE_CHECKING:
    from mesh.client.line import Line
    from mesh.wire.v1.api_pb2 import Event
    from mesh.wire.v1.gateway_pb2 import ListEventsRequest, TailEventsRequest

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="The log: what happened, in order.")

Task = Annotated[str, typer.Option("--task", help="Only this task.")]
AgentName = Annotated[str, typer.Option("--agent", help="Only from or to this agent.")]
Kind = Annotated[
    str,
    typer.Option("--kind", help="Only this kind, such as task.handed_off; all are listed below."),
]
From = Annotated[int, typer.Option("--from", min=0, metavar="POS", help="First position.")]
Shard = Annotated[str, typer.Option("--shard", help="Which shard of the log; default s0.")]
Payload = Annotated[
    bool, typer.Option("--payload", metavar=FLAG, help="With the bytes of payloads.")
]

_PAGE = 500
_KINDS = f"Kinds: {', '.join(KINDS)}."


@app.command("list", epilog=_KINDS)
def list_(  # noqa: PLR0913 - one parameter an option
    *,
    task: Task = "",
    agent: AgentName = "",
    kind: Kind = "",
    first: From = 0,
    since: Annotated[str | None, typer.Option(help="15m, 2h, or an instant.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="How many at most; 0 for all.")] = 0,
    follow: Annotated[
        bool, typer.Option("--follow", metavar=FLAG, help="Then print what comes.")
    ] = False,
    shard: Shard = "",
    payload: Payload = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Print events, oldest first."""
    from mesh.wire.v1.gateway_pb2 import ListEventsRequest

    request = ListEventsRequest(
        task_id=task,
        agent=agent,
        kind=checked_kind(kind),
        from_position=first,
        shard=shard,
        with_payload=payload,
        page_size=min(limit or _PAGE, _PAGE),
    )
    if since is not None:
        request.since.FromDatetime(instant(since, "--since", direction=-1))
    run(lambda: _list(data, request, limit=limit, follow=follow, json=json))


@app.command(epilog=_KINDS)
def tail(  # noqa: PLR0913 - one parameter an option
    *,
    task: Task = "",
    agent: AgentName = "",
    kind: Kind = "",
    first: From = 0,
    shard: Shard = "",
    payload: Payload = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Print events as they are stored, until interrupted; only new ones without --from."""
    from mesh.wire.v1.gateway_pb2 import TailEventsRequest

    request = TailEventsRequest(
        task_id=task,
        agent=agent,
        kind=checked_kind(kind),
        from_position=first,
        shard=shard,
        with_payload=payload,
    )
    run(lambda: _tail(data, request, json=json))


async def _list(
    data: Path | None, request: "ListEventsRequest", *, limit: int, follow: bool, json: bool
) -> None:
    from mesh.cli.reach import gateway
    from mesh.wire.v1.gateway_pb2 import TailEventsRequest

    printed, last = 0, max(request.from_position, 1) - 1
    async with gateway(data) as line:
        while True:
            reply = await line.call(line.stub.ListEvents, request)
            for event in reply.events[: limit - printed if limit else None]:
                _print(event, json=json, with_task=not request.task_id)
                printed, last = printed + 1, event.position
            if not reply.next_page_token or (limit and printed >= limit):
                break
            request.page_token = reply.next_page_token
    if follow:
        rest = TailEventsRequest(
            task_id=request.task_id,
            agent=request.agent,
            kind=request.kind,
            from_position=last + 1,
            shard=request.shard,
            with_payload=request.with_payload,
        )
        await _tail(data, rest, json=json)
    elif not printed and not json:
        say("no events")


async def _tail(data: Path | None, request: "TailEventsRequest", *, json: bool) -> None:
    from mesh.cli.reach import gateway

    def rest() -> "TailEventsRequest":
        return request

    async with gateway(data) as line:
        if not request.from_position:
            request.from_position = await _end(line, request.shard or "s0")
        async with aclosing(line.follow(line.stub.TailEvents, rest)) as events:
            async for event in events:
                request.from_position = event.position + 1
                _print(event, json=json, with_task=not request.task_id)


async def _end(line: "Line", shard: str) -> int:
    """The position that the next event of a shard gets: from there nothing is missed."""
    from mesh.wire.v1.gateway_pb2 import GetStatusRequest

    status = await line.call(line.stub.GetStatus, GetStatusRequest())
    return next((each.log_last + 1 for each in status.shards if each.shard == shard), 0)


def _print(event: "Event", *, json: bool, with_task: bool) -> None:
    if json:
        emit_line(event)
        return
    from mesh.cli.render import event_line

    show(event_line(event, with_task=with_task))
