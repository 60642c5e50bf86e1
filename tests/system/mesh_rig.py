"""A whole mesh as processes, handled from outside as a user would, and broken as fate would."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import grpc
from anyio import to_thread

import mesh
from mesh.client import Mesh
from mesh.errors import Unavailable
from mesh.wire.v1.gateway_pb2 import GetStateRequest
from mesh.wire.v1.ledger_pb2 import GetCheckpointRequest
from mesh.wire.v1.ledger_pb2_grpc import LedgerServiceStub

COMMAND = str(Path(sys.executable).with_name("mesh"))
SLOW = Path(__file__).parent / "slow" / "mesh.toml"


@dataclass(frozen=True)
class LiveMesh:
    """A mesh that runs on a data folder."""

    data: Path
    client: Mesh

    async def run(self, *arguments: str, code: int = 0) -> str:
        """Run the `mesh` command; gives its standard output, fails on another exit code."""
        done = await anyio.run_process(
            [COMMAND, "--data", str(self.data), *arguments], check=False, stdin=subprocess.DEVNULL
        )
        assert done.returncode == code, done.stderr.decode()
        return done.stdout.decode()

    async def services(self) -> list[dict[str, Any]]:
        """What the run file says runs: as `mesh status`, but at once."""
        return json.loads(await anyio.Path(self.data / "mesh.json").read_text())["services"]

    async def pid(self, name: str) -> int:
        """Process of a service that runs."""
        with anyio.fail_after(60):
            while True:
                for service in await self.services():
                    if service["name"] == name and service["state"] == "running":
                        return int(service["pid"])
                await anyio.sleep(0.01)

    async def recorded(self) -> None:
        """Wait until the ledger has everything that is on the log."""
        with anyio.fail_after(60):
            while True:
                try:
                    shards = (await self.client.status()).shards
                except Unavailable:
                    continue
                if all(s.log_last == s.checkpoint for s in shards):
                    return

    def ledger_says(self, task_ids: list[str]) -> tuple[int, list[str]]:
        """How many events the ledger holds, and the hash it rebuilds for each task."""
        address = json.loads((self.data / "mesh.json").read_text())["ledger"]
        with grpc.insecure_channel(address) as channel:
            ledger = LedgerServiceStub(channel)
            count = ledger.GetCheckpoint(GetCheckpointRequest(shard="s0")).count
            states = [ledger.GetState(GetStateRequest(task_id=task_id)) for task_id in task_ids]
        return count, [state.state_sha256 for state in states]

    async def check_nothing_lost_or_doubled(self, task_ids: list[str]) -> None:
        """Log and SurrealDB hold the same events, each once; states rebuild to the live ones."""
        await self.recorded()
        shard = (await self.client.status()).shards[0]
        events = [event async for event in self.client.events()]
        assert [e.position for e in events] == list(range(shard.log_first, shard.log_last + 1))
        ids = [event.event_id for event in events if event.kind != "unreadable"]
        assert len(set(ids)) == len(ids), "an event id stands twice"
        count, rebuilt = await to_thread.run_sync(self.ledger_says, task_ids)
        assert count == len(events)
        live = [(await self.client.state(task_id)).state_sha256 for task_id in task_ids]
        assert live == rebuilt
        assert all(rebuilt)


@asynccontextmanager
async def live_mesh(
    data: Path, manifest: Path = SLOW, environment: dict[str, str] | None = None
) -> AsyncGenerator[LiveMesh]:
    """Start a mesh with `mesh up --detach` and end it with `mesh down`; nothing is left."""
    command = [COMMAND, "--data", str(data)]
    up = await anyio.run_process(
        [*command, "up", "--detach", "--manifest", str(manifest)],
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **(environment or {})},  # noqa: TID251  # for the child
    )
    assert up.returncode == 0, up.stderr.decode()
    run = json.loads((data / "mesh.json").read_text())
    try:
        async with mesh.connect(data=data) as client:
            yield LiveMesh(data, client)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.run_process([*command, "down"], stdin=subprocess.DEVNULL)
    left = [s["name"] for s in run["services"] if await anyio.Path(f"/proc/{s['pid']}").exists()]
    assert not left
