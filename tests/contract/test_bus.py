"""One suite, both buses."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest

from mesh.bus.inproc import InprocBus
from mesh.testing.broker import Broker, open_broker
from tests.contract.bus_append import AppendContract
from tests.contract.bus_inbox import InboxContract, TailContract
from tests.contract.bus_jetstream import RunningClock, open_jetstream_rig
from tests.contract.bus_rig import SHARDS, OpenRig, Rig


@asynccontextmanager
async def _inproc(*, ack_wait_s: float = 1.0) -> AsyncGenerator[Rig]:
    clock = RunningClock()
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


@pytest.mark.live
class TestJetStreamBus(AppendContract, InboxContract, TailContract):
    @pytest.fixture
    def open_rig(self, broker: Broker) -> OpenRig:
        return partial(open_jetstream_rig, broker.url)

    @pytest.fixture
    async def rig(self, broker: Broker) -> AsyncIterator[Rig]:
        async with open_jetstream_rig(broker.url) as rig:
            yield rig
