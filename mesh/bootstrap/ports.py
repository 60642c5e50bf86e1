"""From settings to connected ports, in one place."""

import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import grpc

from mesh.blob.jetstream import jetstream_blobs
from mesh.blob.port import BlobStore
from mesh.bootstrap.environment import environment
from mesh.bus.jetstream import open_bus, open_nats
from mesh.bus.port import Bus
from mesh.clock import Clock, IdSource, SystemClock, SystemIds
from mesh.config import Config
from mesh.registry.nats_kv import nats_registry
from mesh.registry.port import Registry
from mesh.store.grpc import GrpcArchive, open_ledger_channel
from mesh.telemetry.otel import open_otel
from mesh.telemetry.port import Telemetry

__all__ = ["Opened", "open_ports"]

_MUTE_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """Everything that a process of the mesh may be connected to; `instance` names it.

    `drop_if_mute` is for a process that stops: it closes faster without a broker that hangs.
    """

    bus: Bus
    blobs: BlobStore
    registry: Registry
    archive: GrpcArchive
    ledger: grpc.aio.Channel
    clock: Clock
    ids: IdSource
    telemetry: Telemetry
    instance: str
    drop_if_mute: Callable[[], Awaitable[None]]


@asynccontextmanager
async def open_ports(config: Config, service: str) -> AsyncGenerator[Opened]:
    """Connect a process.

    Args:
        config: Where everything is.
        service: What the process is called where its connections are shown.

    Raises:
        Unavailable: The log cannot be reached. The ledger may come later.
        StreamDrifted: A stream or bucket is there with settings the mesh cannot work with.
    """
    clock, ids = SystemClock(), SystemIds()
    instance = f"{os.getpid()}-{ids.fresh()}"
    async with AsyncExitStack() as stack:
        # Outermost: what the others still tell while they close is sent too.
        telemetry = stack.enter_context(
            open_otel(environment(), service=service, instance=instance)
        )
        connection = await stack.enter_async_context(open_nats(config.nats_url, service))
        bus = await stack.enter_async_context(
            open_bus(
                connection, tenant=config.tenant, shards=config.shards, replicas=config.replicas
            )
        )
        ledger = await stack.enter_async_context(open_ledger_channel(config.ledger))
        # nats-py leaves its options without types.
        js = connection.jetstream()  # pyright: ignore[reportUnknownMemberType]
        yield Opened(
            bus=bus,
            blobs=await jetstream_blobs(
                js, tenant=config.tenant, ids=ids, replicas=config.replicas
            ),
            registry=await nats_registry(js, tenant=config.tenant, replicas=config.replicas),
            archive=GrpcArchive(ledger),
            ledger=ledger,
            clock=clock,
            ids=ids,
            telemetry=telemetry,
            instance=instance,
            drop_if_mute=partial(connection.drop_if_mute, _MUTE_S),
        )
