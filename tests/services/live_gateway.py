"""Gateways with connections of their own on a real broker, and a planner to act for."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace

from mesh.api.gateway import open_gateway_server
from mesh.blob.jetstream import jetstream_blobs
from mesh.bus.jetstream import open_bus, open_nats
from mesh.bus.port import Bus
from mesh.client import Mesh, open_mesh
from mesh.clock import SystemClock, SystemIds
from mesh.core import event as e
from mesh.core.envelope import Sender
from mesh.core.fold import fold
from mesh.gateway.desk import Desk, Parts, open_desk
from mesh.registry.nats_kv import nats_registry
from mesh.registry.port import Card, Presence
from mesh.store.grpc import GrpcArchive, open_ledger_channel
from mesh.telemetry.inproc import NoTelemetry
from mesh.testing.broker import Broker
from tests.make import START, TENANT

IDS = SystemIds()
CARD = Card(name="planner", behaviour_version="1")
PRESENCE = Presence(
    agent="planner",
    instance="1-planner",
    behaviour_version="1",
    host="here",
    pid=1,
    concurrency=1,
    started_at=START,
)


@asynccontextmanager
async def open_live_desk(broker: Broker) -> AsyncGenerator[Desk]:
    """A gateway's logic; no ledger stands behind it."""
    async with (
        open_nats(broker.url, "gateway") as connection,
        open_bus(connection, tenant=TENANT) as bus,
        open_ledger_channel("127.0.0.1:1") as ledger,
    ):
        js = connection.jetstream()  # pyright: ignore[reportUnknownMemberType]
        parts = Parts(
            bus=bus,
            blobs=await jetstream_blobs(js, tenant=TENANT, ids=IDS),
            registry=await nats_registry(js, tenant=TENANT),
            archive=GrpcArchive(ledger),
            clock=SystemClock(),
            ids=IDS,
            telemetry=NoTelemetry(),
            tenant=TENANT,
            shards=1,
            instance=IDS.fresh(),
        )
        async with parts.registry.announce(CARD, PRESENCE), open_desk(parts) as desk:
            yield desk


@asynccontextmanager
async def open_gateway(broker: Broker) -> AsyncGenerator[tuple[Mesh, Bus]]:
    """A gateway, and a client of it."""
    async with (
        open_live_desk(broker) as desk,
        open_ledger_channel("127.0.0.1:1") as ledger,
        open_gateway_server(desk, ledger, "127.0.0.1:0") as address,
        open_mesh(address) as mesh,
    ):
        yield mesh, desk.parts.bus


async def act(bus: Bus, task_id: str, event: e.TaskEvent) -> None:
    """Append what the planner would."""
    records = await bus.history(task_id)
    last = records[-1].envelope
    assert last is not None
    sender = Sender(agent="planner", instance="1-planner")
    made = last.next(event, event_id=IDS.fresh(), sender=sender, occurred_at=SystemClock().now())
    await bus.append([replace(made, to="log")], {task_id: fold(records).moved})
