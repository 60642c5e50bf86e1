"""What the demo shows when its task has ended: who did what, and that the record is true."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
import grpc
from rich.console import RenderableType
from rich.text import Text

from mesh.cli.render import columns, seconds_between
from mesh.client.line import CHANNEL_OPTIONS, Line
from mesh.supervisor import MeshRun
from mesh.wire.rpc import translated
from mesh.wire.v1.api_pb2 import Event
from mesh.wire.v1.gateway_pb2 import GetStateRequest, GetStatusRequest
from mesh.wire.v1.ledger_pb2 import GetCheckpointRequest
from mesh.wire.v1.ledger_pb2_grpc import LedgerServiceStub

if TYPE_CHECKING:
    from mesh.wire.v1.ledger_pb2_grpc import LedgerServiceAsyncStub

__all__ = ["Proof", "move_text", "pid_of", "proven", "timeline"]

_MOVES = {
    "task.submitted": "submitted to",
    "task.handed_off": "handed off to",
    "task.completed": "completed",
    "task.failed": "failed",
    "task.rejected": "rejected",
    "task.canceled": "canceled",
    "task.dead_lettered": "gave up",
}
_CAUGHT_UP_S = 20.0
_LOOK_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """The same facts from both sides: the log, and the ledger's database."""

    log_events: int
    stored_events: int
    live_sha256: str
    rebuilt_sha256: str

    @property
    def holds(self) -> bool:
        """Whether both sides agree."""
        return (
            self.log_events == self.stored_events and self.live_sha256 == self.rebuilt_sha256 != ""
        )

    def shown(self) -> RenderableType:
        """For people."""
        table = columns("PROOF", "", "")
        table.add_row(
            _mark(self.log_events == self.stored_events),
            "events",
            f"{self.log_events} on the log = {self.stored_events} in SurrealDB",
        )
        table.add_row(
            _mark(self.live_sha256 == self.rebuilt_sha256),
            "state",
            f"live    {self.live_sha256}\nrebuilt {self.rebuilt_sha256}",
        )
        return table


def pid_of(event: Event) -> str:
    """Process that wrote an event: an instance's name begins with its pid."""
    return event.instance.partition("-")[0]


def move_text(event: Event) -> str:
    """What an event did to its task, in words; "" if it moved nothing."""
    words = _MOVES.get(event.kind, "")
    return f"{words} {event.to}" if words.endswith(" to") else words


def timeline(events: Sequence[Event], run: MeshRun) -> RenderableType:
    """Who had the task, when, for how long, in which process; then who recorded it."""
    table = columns("WHO", "PID", "AT", "TOOK", "WHAT")
    began = events[0].occurred_at
    for event in events:
        what = move_text(event)
        if not what:
            continue
        worked = event.HasField("started_at")
        at = seconds_between(began, event.started_at if worked else event.occurred_at)
        took = seconds_between(event.started_at, event.occurred_at) if worked else 0.0
        table.add_row(
            getattr(event, "from"),
            pid_of(event),
            f"{at:+.3f} s",
            f"{took:.3f} s" if worked else "",
            what,
        )
    ledger = next(each for each in run.services if each.kind == "ledger")
    table.add_row("ledger", str(ledger.pid), "", "", f"recorded {len(events)} events of this task")
    return table


async def proven(line: Line, run: MeshRun, task_id: str) -> Proof:
    """Wait until the ledger has everything, then compare both sides.

    Raises:
        Unavailable: Gateway or ledger do not answer.
    """
    async with grpc.aio.insecure_channel(run.ledger, options=CHANNEL_OPTIONS) as channel:
        ledger = LedgerServiceStub(channel)
        with translated("the ledger"):
            log_events, stored_events = await _counted(line, ledger)
            rebuilt = await ledger.GetState(GetStateRequest(task_id=task_id))
    live = await line.call(line.stub.GetState, GetStateRequest(task_id=task_id))
    return Proof(
        log_events=log_events,
        stored_events=stored_events,
        live_sha256=live.state_sha256,
        rebuilt_sha256=rebuilt.state_sha256,
    )


async def _counted(line: Line, ledger: "LedgerServiceAsyncStub") -> tuple[int, int]:
    """Events on the log and in the database, once the ledger is where the log is.

    If that takes too long, as they are: then the proof fails, as it should.
    """
    until = anyio.current_time() + _CAUGHT_UP_S
    while True:
        shards = (await line.call(line.stub.GetStatus, GetStatusRequest())).shards
        asked = [GetCheckpointRequest(shard=shard.shard) for shard in shards]
        checkpoints = [await ledger.GetCheckpoint(request) for request in asked]
        level = [shard.log_last for shard in shards] == [each.position for each in checkpoints]
        if level or anyio.current_time() > until:
            on_log = sum(s.log_last - s.log_first + 1 for s in shards if s.log_last)
            return on_log, sum(each.count for each in checkpoints)
        await anyio.sleep(_LOOK_S)


def _mark(holds: bool) -> Text:
    return Text("✓", style="green") if holds else Text("✗", style="red")
