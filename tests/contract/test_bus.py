"""One suite, both buses."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import count

import anyio
import pytest

from mesh.bus.inproc import InprocBus
from mesh.bus.jetstream import BusOptions, open_bus, open_nats
from mesh.testing.broker import Broker, open_broker
from mesh.testing.clock import ManualClock
from tests.contract.bus_append import AppendContract
from tests.contract.bus_inbox import InboxContract, TailContract
from tests.contract.bus_rig import SHARDS, OpenRig, Rig

_tenants = count(1)


class _RunningClock(ManualClock):
    """The loop's clock, with jumps."""

    def monotonic(self) -> float:
        return super().monotonic() + anyio.current_time()


@asynccontextmanager
async def _inproc(*, ack_wait_s: float = 1.0) -> AsyncGenerator[Rig]:
    clock = _RunningClock()
    bus = InprocBus(tenant="acme", shards=SHARDS, clock=clock, ack_wait_s=ack_wait_s)

    async def put(subject: str, raw: bytes) -> int:
        return bus.put(subject, raw)

    async def trim(shard: str, below: int) -> None:
        bus.trim(shard, below=below)

    yield Rig(
        bus=bus,
        other=bus,
        tenant="acme",
        ack_wait_s=ack_wait_s,
        put=put,
        trim=trim,
        pause=lambda: clock.advance(2 * ack_wait_s),
    )


class TestInprocBus(AppendContract, InboxContract, TailContract):
    @pytest.fixture
    def open_rig(self) -> OpenRig:
        return _inproc

    @pytest.fixture
    async def rig(self) -> AsyncIterator[Rig]:
        async with _inproc() as rig:
            yield rig


@pytest.fixture(scope="module")
async def broker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Broker]:
    async with open_broker(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


@asynccontextmanager
async def _jetstream(url: str, *, ack_wait_s: float = 1.0) -> AsyncGenerator[Rig]:
    tenant, clock = f"acme{next(_tenants)}", _RunningClock()
    options = BusOptions(ack_wait_s=ack_wait_s, beat_s=ack_wait_s / 4)
    async with (
        open_nats(url, "one") as one,
        open_nats(url, "two") as two,
        open_bus(one, tenant=tenant, shards=SHARDS, clock=clock, options=options) as bus,
        open_bus(two, tenant=tenant, shards=SHARDS, clock=clock, options=options) as other,
    ):

        async def put(subject: str, raw: bytes) -> int:
            answer = await one.request(subject, raw, timeout=5)
            return int(json.loads(answer.data)["seq"])

        async def trim(shard: str, below: int) -> None:
            request = json.dumps({"seq": below}).encode()
            subject = f"$JS.API.STREAM.PURGE.MESH_{tenant}_{shard}"
            assert json.loads((await one.request(subject, request, timeout=5)).data)["success"]

        yield Rig(
            bus=bus,
            other=other,
            tenant=tenant,
            ack_wait_s=ack_wait_s,
            put=put,
            trim=trim,
            pause=lambda: clock.advance(2 * ack_wait_s),
        )


@pytest.mark.live
class TestJetStreamBus(AppendContract, InboxContract, TailContract):
    @pytest.fixture
    def open_rig(self, broker: Broker) -> OpenRig:
        return partial(_jetstream, broker.url)

    @pytest.fixture
    async def rig(self, broker: Broker) -> AsyncIterator[Rig]:
        async with _jetstream(broker.url) as rig:
            yield rig
