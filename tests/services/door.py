"""Gateways and a ledger over real gRPC on loopback, on the in-process ports."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import anyio
from anyio.abc import TaskGroup, TaskStatus

from mesh.api.gateway import open_gateway_server
from mesh.api.ledger import open_ledger_server
from mesh.client import Mesh, open_mesh
from mesh.clock import SystemIds
from mesh.gateway.desk import Desk, open_desk
from mesh.ledger.reader import Reader
from mesh.ledger.recorder import Parts as LedgerParts
from mesh.ledger.recorder import Recorder
from mesh.store.grpc import GrpcArchive, open_ledger_channel
from mesh.store.inproc import InprocStore
from tests.make import TENANT
from tests.runtime.gateway_rig import GatewayRig


@dataclass(frozen=True, slots=True)
class Running:
    """A gateway or ledger in a task of its own, as a process would be."""

    address: str
    stopping: anyio.Event
    stopped: anyio.Event

    async def stop(self) -> None:
        """End it, and wait until it has ended."""
        self.stopping.set()
        with anyio.fail_after(5):
            await self.stopped.wait()


class Door:
    """One mesh whose gateways and ledger can be stopped and started again."""

    def __init__(self) -> None:
        self.rig = GatewayRig()
        self.store = InprocStore()
        self.recorder = Recorder(
            LedgerParts(
                bus=self.rig.bus,
                store=self.store,
                blobs_from=self.rig.blobs,
                blobs_to=self.rig.blobs,
                clock=self.rig.clock,
                ids=SystemIds(),
                tenant=TENANT,
                instance="1-ledger",
            )
        )
        self.ledger = "127.0.0.1:1"

    @asynccontextmanager
    async def open_ledger(self) -> AsyncGenerator[str]:
        """The ledger, recording and answering."""
        async with (
            open_ledger_server(Reader(self.store)) as self.ledger,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(self.recorder.run, "s0")
            yield self.ledger
            tasks.cancel_scope.cancel()

    async def recorded(self) -> None:
        """Wait until the ledger has all that the log has."""
        (log,) = await self.rig.bus.info()
        with anyio.fail_after(10):
            await self.recorder.wait_for(log.last)

    @asynccontextmanager
    async def open_gateway(self, address: str = "127.0.0.1:0") -> AsyncGenerator[tuple[str, Desk]]:
        """One gateway process, with ids as in life; gives its address."""
        async with open_ledger_channel(self.ledger) as channel:
            parts = replace(self.rig.parts(), archive=GrpcArchive(channel), ids=SystemIds())
            async with (
                open_desk(parts) as desk,
                open_gateway_server(desk, channel, address) as bound,
            ):
                yield bound, desk

    async def start_gateway(self, tasks: TaskGroup, address: str = "127.0.0.1:0") -> Running:
        """A gateway in its own task, until it is told to stop."""

        async def keep(*, task_status: TaskStatus[Running]) -> None:
            stop, stopped = anyio.Event(), anyio.Event()
            async with self.open_gateway(address) as (bound, _):
                task_status.started(Running(bound, stop, stopped))
                await stop.wait()
            stopped.set()

        return await tasks.start(keep)

    async def start_ledger(self, tasks: TaskGroup) -> Running:
        """The ledger in its own task, until it is told to stop."""

        async def keep(*, task_status: TaskStatus[Running]) -> None:
            stop, stopped = anyio.Event(), anyio.Event()
            async with self.open_ledger() as bound:
                task_status.started(Running(bound, stop, stopped))
                await stop.wait()
            stopped.set()

        return await tasks.start(keep)

    @asynccontextmanager
    async def connected(self) -> AsyncGenerator[Mesh]:
        """A client of a gateway, with the ledger behind it and a planner and a writer alive."""
        async with (
            self.rig.agent("planner"),
            self.rig.agent("writer"),
            self.open_ledger(),
            self.open_gateway() as (address, _),
            open_mesh(address, patience_s=5) as mesh,
        ):
            yield mesh
