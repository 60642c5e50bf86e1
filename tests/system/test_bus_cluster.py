"""Three brokers: reads right after an append are complete although replicas lag."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import anyio
import pytest

from mesh.bus.jetstream import BusOptions, JetStreamBus, open_bus, open_nats
from mesh.bus.settle import settle
from mesh.core.envelope import Envelope
from mesh.errors import StreamDrifted
from mesh.testing.broker import Cluster, open_cluster
from tests.contract.bus_append import AppendContract
from tests.contract.bus_inbox import InboxContract, TailContract
from tests.contract.bus_jetstream import open_jetstream_rig
from tests.contract.bus_rig import Events, OpenRig, Rig, new_task, take

pytestmark = pytest.mark.live
TENANT = "acme"


@pytest.fixture(scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with open_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
async def buses(cluster: Cluster) -> AsyncIterator[list[JetStreamBus]]:
    """One bus through each broker."""
    async with AsyncExitStack() as stack:
        buses: list[JetStreamBus] = []
        for broker in cluster.brokers:
            nc = await stack.enter_async_context(open_nats(broker.url, broker.name))
            bus = open_bus(nc, tenant=TENANT, replicas=3)
            buses.append(await stack.enter_async_context(bus))
        yield buses


class TestClusterBus(AppendContract, InboxContract, TailContract):
    """The whole contract, on three replicas."""

    @pytest.fixture
    def open_rig(self, cluster: Cluster) -> OpenRig:
        return partial(open_jetstream_rig, cluster.url, replicas=3)

    @pytest.fixture
    async def rig(self, cluster: Cluster) -> AsyncIterator[Rig]:
        async with open_jetstream_rig(cluster.url, replicas=3) as rig:
            yield rig


async def test_a_read_right_after_an_append_is_complete(
    buses: list[JetStreamBus], pytestconfig: pytest.Config
) -> None:
    """A direct read alone was stale 41 of 600 times."""
    rounds = 600 if pytestconfig.getoption("--bars") else 200
    incomplete: list[int] = []

    async def work(writer: JetStreamBus, reader: JetStreamBus) -> None:
        make, task = Events(TENANT), new_task()
        at = 0
        for n in range(rounds // 6):
            event = make.step(task) if n else make.submitted(task)
            (at,) = await writer.append([event], {task: at})
            records = await reader.history(task, root_task_id=task)
            if len(records) != n + 1 or records[-1].position != at:
                incomplete.append(at)

    async def load(bus: JetStreamBus) -> None:
        """Replicas lag when they have something to do."""
        make, task = Events(TENANT), new_task()
        while True:
            await bus.append([make.step(task, 20_000) for _ in range(20)], {})

    async with anyio.create_task_group() as loads:
        loads.start_soon(load, buses[0])
        async with anyio.create_task_group() as group:
            for n in range(6):
                group.start_soon(work, buses[n % 3], buses[(n + n // 3) % 3])
        loads.cancel_scope.cancel()
    assert incomplete == []


async def test_a_mesh_asks_for_its_replicas(cluster: Cluster, buses: list[JetStreamBus]) -> None:
    assert [log.replicas for log in await buses[0].info()] == [3]
    async with open_nats(cluster.url, "test") as nc:
        async with open_bus(nc, tenant=TENANT):
            pass  # more than asked for is the operator's business
        async with open_bus(nc, tenant="single"):
            pass
        with pytest.raises(StreamDrifted, match="num_replicas: found 1, wanted 3"):
            async with open_bus(nc, tenant="single", replicas=3):
                pass


async def test_no_event_is_lost_when_the_leader_dies(tmp_path: Path) -> None:
    make, count = Events("fallen"), 200
    options = BusOptions(timeout_s=2.0, ack_wait_s=3.0, beat_s=1.0, heartbeat_s=0.5, pull_s=5.0)
    tasks = {new_task() for _ in range(count)}
    done: set[str] = set()
    async with (
        open_cluster(tmp_path) as cluster,
        open_nats(cluster.url, "test") as nc,
        open_bus(nc, tenant="fallen", replicas=3, options=options) as bus,
    ):

        async def work() -> None:
            async with bus.inbox("planner", max_held=8) as inbox:
                while done < tasks:
                    delivery = await take(inbox)
                    done.add(delivery.record.subject.split(".")[4])
                    await delivery.ack()

        async def submit(task: str) -> None:
            await settle(bus, [make.submitted(task)], {task: 0}, deadline_s=60)

        info = json.loads(
            (await nc.request("$JS.API.STREAM.INFO.MESH_fallen_s0", b"", timeout=5)).data
        )
        leader = next(b for b in cluster.brokers if b.name == info["cluster"]["leader"])
        with anyio.fail_after(90):
            async with anyio.create_task_group() as group:
                group.start_soon(work)
                for task in tasks:
                    group.start_soon(submit, task)
                await leader.kill()
        async with bus.tail("s0", after=0) as tail:
            ids: list[str] = []
            while len(ids) < count:
                ids += [r.envelope.task_id for r in await anext(tail) if r.envelope]
    assert sorted(ids) == sorted(tasks)


async def test_a_client_of_a_broker_that_hangs_goes_to_another_one(tmp_path: Path) -> None:
    """Also when more is waiting to be sent than the connection takes."""
    make, task = Events("hung"), new_task()
    async with (
        open_cluster(tmp_path) as cluster,
        open_nats(cluster.url, "test") as nc,
        open_bus(nc, tenant="hung", replicas=3) as bus,
    ):
        uri = nc.connected_url
        stuck = next(b for b in cluster.brokers if uri and b.port == uri.port)
        stuck.stop()
        batches = [[make.step(task, 500_000)] for _ in range(40)]
        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                for batch in batches:
                    group.start_soon(_settled, bus, batch)
        assert len(await bus.history(task, root_task_id=task)) == len(batches)


async def _settled(bus: JetStreamBus, batch: list[Envelope]) -> None:
    await settle(bus, batch, {}, deadline_s=50)
