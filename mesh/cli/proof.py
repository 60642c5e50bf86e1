"""That the record of a task and of its children is true: the log against the ledger."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
import grpc
from rich.console import RenderableType
from rich.text import Text

from mesh.cli.render import columns
from mesh.client.line import CHANNEL_OPTIONS, Line
from mesh.supervisor import MeshRun
from mesh.wire.rpc import translated
from mesh.wire.v1.gateway_pb2 import GetStateRequest, GetStatusRequest
from mesh.wire.v1.ledger_pb2 import GetCheckpointRequest
from mesh.wire.v1.ledger_pb2_grpc import LedgerServiceStub

if TYPE_CHECKING:
    from mesh.wire.v1.ledger_pb2_grpc import LedgerServiceAsyncStub

__all__ = ["Proof", "States", "proven"]

_CAUGHT_UP_S = 20.0
_LOOK_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class States:
    """Hashes of one task's state: folded from the log, and rebuilt from the ledger's database."""

    agent: str
    live_sha256: str
    rebuilt_sha256: str

    @property
    def agree(self) -> bool:
        """Whether they are the same."""
        return self.live_sha256 == self.rebuilt_sha256 != ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """The same facts from both sides: the log, and the ledger's database.

    `tasks` holds the root's states and then its children's.
    """

    log_events: int
    stored_events: int
    tasks: tuple[States, ...]

    @property
    def holds(self) -> bool:
        """Whether both sides agree, about every task."""
        return self.log_events == self.stored_events and all(each.agree for each in self.tasks)

    def shown(self) -> RenderableType:
        """For people."""
        table = columns("PROOF", "", "")
        table.add_row(
            _mark(self.log_events == self.stored_events),
            "events",
            f"{self.log_events} on the log = {self.stored_events} in SurrealDB",
        )
        for number, each in enumerate(self.tasks):
            table.add_row(
                _mark(each.agree),
                f"child {number}, {each.agent}" if number else "state",
                f"live    {each.live_sha256}\nrebuilt {each.rebuilt_sha256}",
            )
        return table


async def proven(line: Line, run: MeshRun, task_ids: Sequence[str]) -> Proof:
    """Wait until the ledger has everything, then compare both sides, task by task.

    Raises:
        Unavailable: Gateway or ledger do not answer.
    """
    async with grpc.aio.insecure_channel(run.ledger, options=CHANNEL_OPTIONS) as channel:
        ledger = LedgerServiceStub(channel)
        with translated("the ledger"):
            log_events, stored_events = await _counted(line, ledger)
            tasks = [await _states(line, ledger, task_id) for task_id in task_ids]
    return Proof(log_events=log_events, stored_events=stored_events, tasks=tuple(tasks))


async def _states(line: Line, ledger: "LedgerServiceAsyncStub", task_id: str) -> States:
    rebuilt = await ledger.GetState(GetStateRequest(task_id=task_id))
    live = await line.call(line.stub.GetState, GetStateRequest(task_id=task_id))
    return States(
        agent=live.owner, live_sha256=live.state_sha256, rebuilt_sha256=rebuilt.state_sha256
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
