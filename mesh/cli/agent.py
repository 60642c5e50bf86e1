"""`mesh agents`: list, show."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mesh.cli.failure import WAITING, run
from mesh.cli.option import Data, Json
from mesh.cli.output import emit, say, show
from mesh.errors import AgentUnknown

if TYPE_CHECKING:
    from mesh.wire.v1.gateway_pb2 import ListAgentsResponse

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Who works here.")


@app.command("list")
def list_(*, data: Data = None, json: Json = False) -> None:
    """List every agent that was ever registered, and how many instances are up.

    BEHAVIOUR is the version that an agent declares of what its handlers do: Agent(behaviour=…).
    """
    reply = run(lambda: _ask(data, ""), waiting=WAITING)
    if json:
        emit(reply)
    elif reply.agents:
        from mesh.cli.render import agent_table

        show(agent_table(reply.agents))
    else:
        say("no agent was registered yet")


@app.command("show")
def show_(
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="Name of the agent.")],
    *,
    data: Data = None,
    json: Json = False,
) -> None:
    """Show one agent: its instances, and what it accepts.

    BEHAVIOUR is the version that an agent declares of what its handlers do: Agent(behaviour=…).
    """
    reply = run(lambda: _ask(data, agent), waiting=WAITING)
    if not reply.agents:
        raise AgentUnknown(agent)
    if json:
        emit(reply.agents[0])
        return
    from mesh.cli.render import agent_view

    show(*agent_view(reply.agents[0]))


async def _ask(data: Path | None, name: str) -> "ListAgentsResponse":
    from mesh.cli.reach import gateway
    from mesh.wire.v1.gateway_pb2 import ListAgentsRequest

    async with gateway(data) as line:
        return await line.call(line.stub.ListAgents, ListAgentsRequest(name=name))
