"""Relay Mesh's side: three agents in this process on the real bus, registry and blobs."""

import os
import sys
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import anyio
import grpc
from anyio.abc import TaskStatus
from nats.aio.client import Client
from nats.aio.msg import Msg

from mesh.agent.context import Context
from mesh.agent.definition import Agent
from mesh.agent.outcome import Handoff, Reply
from mesh.agent.payload import encode_value
from mesh.agent.ports import Limits, Ports
from mesh.agent.worker import Worker
from mesh.blob.jetstream import jetstream_blobs
from mesh.bootstrap import environment
from mesh.bus.jetstream import JetStreamBus, open_bus, open_nats
from mesh.clock import SystemClock, SystemIds
from mesh.core.envelope import Envelope, Record, Sender
from mesh.core.event import TaskSubmitted
from mesh.core.fold import fold
from mesh.core.task import State
from mesh.registry.nats_kv import nats_registry
from mesh.telemetry.inproc import NoTelemetry
from mesh.testing.broker import free_ports
from mesh.wire.v1.envelope_pb2 import RelayEnvelope
from mesh.wire.v1.ledger_pb2 import GetCheckpointRequest
from mesh.wire.v1.ledger_pb2_grpc import LedgerServiceStub
from tests.bench.drive import IN_FLIGHT, STUCK_S, Landings, id_in, watched

KINDS = ["task.submitted", "task.handed_off", "task.handed_off", "task.completed"]
_INSTANCE = f"{os.getpid()}-bench"


class MeshRelay:
    """`Relay` on a mesh; submits go straight to the bus, as a gateway's do after its checks."""

    def __init__(
        self, bus: JetStreamBus, tenant: str, landings: Landings, seen: dict[str, list[str]]
    ) -> None:
        self._bus, self._tenant, self._seen = bus, tenant, seen
        self.landings = landings
        self._clock, self._ids = SystemClock(), SystemIds()

    async def submit(self, relay_id: str, payload: bytes) -> None:
        """Append the task's first event."""
        envelope = Envelope(
            event_id=self._ids.fresh(),
            tenant=self._tenant,
            task_id=relay_id,
            root_task_id=relay_id,
            sender=Sender(agent="gateway", instance=_INSTANCE),
            occurred_at=self._clock.now(),
            to="a",
            event=TaskSubmitted(input=encode_value(payload)),
        )
        await self._bus.append([envelope], {relay_id: 0})

    async def check(self, relay_ids: list[str]) -> int:
        """The log says it all: every task's four events, in their order, beside claims at most."""
        claims = 0
        history: dict[str, list[Record]] = defaultdict(list)
        (info,) = await self._bus.info()
        last = 0
        async with self._bus.tail("s0", after=0) as batches:
            while last < info.last:
                for record in await anext(batches):
                    assert record.envelope is not None
                    history[record.envelope.task_id].append(record)
                    last = record.position
        assert history.keys() == set(relay_ids)
        for relay_id, records in history.items():
            task = fold(records)
            kinds = [r.envelope.kind for r in records if r.envelope]
            assert [kind for kind in kinds if kind != "task.work_started"] == KINDS
            claims += len(kinds) - len(KINDS)
            assert (task.state, task.hops) == (State.COMPLETED, 2)
            assert self._seen[relay_id] == ["a", "b", "c"]
        return claims


@asynccontextmanager
async def open_mesh_relay(
    tenant: str, *, url: str, watcher: Client, ledger_data: Path | None = None
) -> AsyncGenerator[MeshRelay]:
    """Three agents of a tenant of their own; with a folder given, a ledger process records them."""
    seen: dict[str, list[str]] = defaultdict(list)
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(open_nats(url, "bench"))
        bus = await stack.enter_async_context(open_bus(connection, tenant=tenant))
        # nats-py leaves its options without types.
        js = connection.jetstream()  # pyright: ignore[reportUnknownMemberType]
        ports = Ports(
            bus=bus,
            blobs=await jetstream_blobs(js, tenant=tenant, ids=SystemIds()),
            registry=await nats_registry(js, tenant=tenant),
            clock=SystemClock(),
            ids=SystemIds(),
            telemetry=NoTelemetry(),
            instance=_INSTANCE,
        )
        stream = f"MESH_{tenant}_s0"
        if ledger_data is not None:
            await stack.enter_async_context(_recording(bus, tenant, url, ledger_data))
        landings = await stack.enter_async_context(
            watched(watcher, stream, f"mesh.{tenant}.s0.log.*.m.c", _outcome)
        )
        async with anyio.create_task_group() as tasks:
            workers = [
                Worker(agent, ports, Limits(concurrency=IN_FLIGHT)) for agent in _chain(seen)
            ]
            for worker in reversed(workers):  # a handoff needs an agent that is known
                await tasks.start(partial(_run, worker))
            yield MeshRelay(bus, tenant, landings, seen)
            for worker in workers:
                worker.stop()


def _chain(seen: dict[str, list[str]]) -> tuple[Agent, Agent, Agent]:
    """a hands to b, b to c, c answers; each passes the bytes on."""
    a, b, c = Agent("a"), Agent("b"), Agent("c")

    @a.on(bytes)
    async def first(_: Context, payload: bytes) -> Handoff:
        seen[id_in(payload)].append("a")
        return Handoff("b", payload)

    @b.on(bytes)
    async def second(_: Context, payload: bytes) -> Handoff:
        seen[id_in(payload)].append("b")
        return Handoff("c", payload)

    @c.on(bytes)
    async def third(_: Context, payload: bytes) -> Reply:
        seen[id_in(payload)].append("c")
        return Reply(payload)

    assert all((first, second, third))
    return a, b, c


async def _run(worker: Worker, *, task_status: TaskStatus[None]) -> None:
    await worker.run(task_status=task_status)


def _outcome(message: Msg) -> str:
    """A claim of a slow run stands on the same subject, so the body decides."""
    envelope = RelayEnvelope.FromString(message.data)
    return envelope.task_id if envelope.WhichOneof("body") == "completed" else ""


@asynccontextmanager
async def _recording(bus: JetStreamBus, tenant: str, url: str, data: Path) -> AsyncGenerator[None]:
    """Run the ledger service beside the block; at the end it must have recorded the whole log."""
    (port,) = free_ports(1)
    settings = {"NATS_URL": url, "TENANT": tenant, "DATA": str(data), "LEDGER": f"127.0.0.1:{port}"}
    outside = {name: v for name, v in environment().items() if not name.startswith("MESH_")}
    inside = {f"MESH_{name}": value for name, value in settings.items()}
    async with await anyio.open_process(
        [sys.executable, "-m", "services.ledger"],
        env=outside | inside,
        stdout=DEVNULL,
        stderr=DEVNULL,
    ) as process:
        try:
            async with grpc.aio.insecure_channel(settings["LEDGER"]) as channel:
                ledger: Any = LedgerServiceStub(channel)  # its types are those of a blocking one
                with anyio.fail_after(STUCK_S):
                    await ledger.GetCheckpoint(GetCheckpointRequest(), wait_for_ready=True)
                yield
                (info,) = await bus.info()
                with anyio.fail_after(STUCK_S):
                    while await _recorded(ledger) < info.last:  # noqa: ASYNC110 - it tells if asked
                        await anyio.sleep(0.05)
        finally:
            process.terminate()
            with anyio.CancelScope(shield=True):
                await process.wait()


async def _recorded(ledger: Any) -> int:
    checkpoint = await ledger.GetCheckpoint(GetCheckpointRequest(shard="s0"))
    return int(checkpoint.position)
