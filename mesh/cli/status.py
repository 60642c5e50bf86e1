"""`mesh status`, for people to read."""

from rich.console import RenderableType
from rich.text import Text

from mesh.cli.render import columns, fields, state_text
from mesh.errors import MeshError
from mesh.supervisor import MeshRun
from mesh.wire.v1.gateway_pb2 import GetStatusResponse

__all__ = ["status_view"]


def status_view(mesh: MeshRun, shards: GetStatusResponse | MeshError) -> list[RenderableType]:
    """Processes, the log and how far the ledger is behind it."""
    durability = (
        "every write is synced to disk before it is acknowledged"
        if mesh.sync_always
        else "synced every 2 minutes: a power loss may lose the newest events"
    )
    return [
        fields(
            [
                ("mesh", f"tenant {mesh.tenant}, pid {mesh.pid}, since {mesh.started_at}"),
                ("gateway", mesh.gateway),
                ("nats", mesh.nats_url),
                ("durability", durability),
            ]
        ),
        "",
        _services(mesh),
        "",
        Text(f"log: {shards}", style="red") if isinstance(shards, MeshError) else _shards(shards),
    ]


def _services(mesh: MeshRun) -> RenderableType:
    table = columns("SERVICE", "KIND", "PID", "STATE", "SINCE", "RESTARTS")
    for each in mesh.services:
        table.add_row(
            each.label,
            each.kind,
            str(each.pid or ""),
            state_text(each.state),
            each.since,
            Text(str(each.restarts), style="yellow" if each.restarts else "dim"),
        )
    return table


def _shards(reply: GetStatusResponse) -> RenderableType:
    if reply.ledger_error:
        return Text(f"ledger: {reply.ledger_error}", style="red")
    table = columns("SHARD", "LOG", "LEDGER", "BEHIND", "COPIES")
    for each in reply.shards:
        table.add_row(
            each.shard,
            f"{each.log_first} to {each.log_last}" if each.log_last else "empty",
            str(each.checkpoint),
            str(max(each.log_last - each.checkpoint, 0)),
            str(each.replicas),
        )
    return table
