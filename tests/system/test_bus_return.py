"""Inboxes and tails go on after whatever they read from was gone."""

import json
import random
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from mesh.bus.jetstream import BusOptions, Connection, JetStreamBus, open_bus, open_nats
from mesh.bus.settle import settle
from mesh.core.envelope import Record
from mesh.errors import HistoryCorrupt, StreamDrifted, Unavailable
from mesh.testing.broker import Broker, open_broker
from tests.contract.bus_rig import Events, new_task, read, take

pytestmark = pytest.mark.live
TENANT = "acme"
QUICK = BusOptions(ack_wait_s=2.0, beat_s=0.5, pull_s=5.0, heartbeat_s=0.4)


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    async with open_broker(tmp_path) as broker:
        yield broker


@pytest.fixture
async def nc(broker: Broker) -> AsyncIterator[Connection]:
    async with open_nats(broker.url, "test") as nc:
        yield nc


@pytest.fixture
async def bus(nc: Connection) -> AsyncIterator[JetStreamBus]:
    async with open_bus(nc, tenant=TENANT, options=QUICK) as bus:
        yield bus


async def api(nc: Connection, subject: str, request: object = None) -> dict[str, object]:
    payload = json.dumps(request).encode() if request else b""
    return json.loads((await nc.request(f"$JS.API.{subject}", payload, timeout=5)).data)


async def submit(bus: JetStreamBus) -> str:
    task = new_task()
    await settle(bus, [Events(TENANT).submitted(task)], {task: 0}, deadline_s=30)
    return task


async def waiting(nc: Connection) -> None:
    """Until the inbox has a pull request open."""
    with anyio.fail_after(10):
        while not (await api(nc, "CONSUMER.INFO.MESH_acme_s0.acme_planner")).get("num_waiting"):
            await anyio.lowlevel.checkpoint()


async def test_an_idle_inbox_goes_on_after_the_broker_was_restarted(
    broker: Broker, bus: JetStreamBus, nc: Connection
) -> None:
    async with bus.inbox("planner", max_held=4) as inbox:
        await waiting(nc)
        await broker.restart()
        task = await submit(bus)
        delivery = await take(inbox)
        assert delivery.record.subject.split(".")[4] == task
        await delivery.ack()


async def test_an_idle_inbox_goes_on_after_its_consumer_was_deleted(
    bus: JetStreamBus, nc: Connection
) -> None:
    """The server forgets the pull request; nats-py's fetch would wait for ever."""
    async with bus.inbox("planner", max_held=4) as inbox:
        await waiting(nc)
        await api(nc, "CONSUMER.DELETE.MESH_acme_s0.acme_planner")
        task = await submit(bus)
        delivery = await take(inbox)
        assert delivery.record.subject.split(".")[4] == task
        await delivery.ack()


async def test_an_inbox_whose_consumer_was_made_anew_goes_on(
    bus: JetStreamBus, nc: Connection
) -> None:
    async with bus.inbox("planner", max_held=4) as inbox:
        await waiting(nc)
        name = "MESH_acme_s0.acme_planner"
        config = (await api(nc, f"CONSUMER.INFO.{name}"))["config"]
        await api(nc, f"CONSUMER.DELETE.{name}")
        request = {"stream_name": "MESH_acme_s0", "config": config, "action": "create"}
        assert "error" not in await api(nc, f"CONSUMER.CREATE.{name}", request)
        await submit(bus)
        await (await take(inbox)).ack()


async def test_an_inbox_goes_on_after_the_broker_hung(broker: Broker, bus: JetStreamBus) -> None:
    async with bus.inbox("planner", max_held=4) as inbox:
        await submit(bus)
        held = await take(inbox)
        broker.stop()
        # The fault lasts longer than the lease; nothing else tells that it ended.
        await anyio.sleep(1.1 * QUICK.ack_wait_s)
        assert not held.lease_valid
        broker.cont()
        held.drop()
        again = await take(inbox)
        assert (again.record, again.redelivered) == (held.record, True)
        await again.ack()


async def test_what_is_held_when_the_broker_dies_is_held_or_comes_again(
    broker: Broker, bus: JetStreamBus
) -> None:
    done: set[str] = set()
    async with bus.inbox("planner", max_held=4) as inbox:
        tasks = {await submit(bus) for _ in range(8)}
        held = [await take(inbox) for _ in range(4)]
        await broker.restart()
        for delivery in held:
            delivery.drop()
        with anyio.fail_after(30):
            async for delivery in inbox:
                await delivery.ack()
                done.add(delivery.record.subject.split(".")[4])
                if done == tasks:
                    inbox.stop()


async def test_leaving_an_inbox_ends_while_the_broker_is_away(
    broker: Broker, bus: JetStreamBus
) -> None:
    with anyio.fail_after(15):
        async with bus.inbox("planner", max_held=4) as inbox:
            await submit(bus)
            await take(inbox)
            await broker.kill()


async def test_an_inbox_leaves_nothing_behind(bus: JetStreamBus, nc: Connection) -> None:
    before = len(anyio.get_running_tasks())
    for _ in range(5):
        async with bus.inbox("planner", max_held=4), bus.tail("s0", after=0):
            await submit(bus)
        async with bus.hints("task.*"):
            pass
    await anyio.wait_all_tasks_blocked()
    assert bus.pending == 0
    assert len(anyio.get_running_tasks()) == before
    names = (await api(nc, "CONSUMER.NAMES.MESH_acme_s0"))["consumers"]
    assert names == ["acme_planner"]


async def test_a_connection_that_is_closed_for_good_ends_inbox_and_tail(
    bus: JetStreamBus, nc: Connection
) -> None:
    with anyio.fail_after(20), pytest.raises(Unavailable, match="closed"):  # noqa: PT012
        async with bus.inbox("planner", max_held=4) as inbox:
            async with bus.tail("s0", after=0) as tail:
                await nc.close()
                with pytest.raises(Unavailable, match="closed"):
                    await anext(tail)
            await anext(aiter(inbox))


async def test_a_consumer_that_drifted_is_named(bus: JetStreamBus, nc: Connection) -> None:
    async with bus.inbox("planner", max_held=4):
        pass
    slow = BusOptions(ack_wait_s=7)
    async with open_bus(nc, tenant=TENANT, options=slow) as other:
        with pytest.raises(StreamDrifted, match=r"ack_wait: found 2000000000, wanted 7000000000"):
            async with other.inbox("planner", max_held=4):
                pass


async def write_steadily(bus: JetStreamBus, total: int, halfway: anyio.Event) -> None:
    """A thousand events a second, whatever becomes of the broker."""
    make, task, began = Events(TENANT), new_task(), anyio.current_time()
    for n in range(0, total, 20):
        await settle(bus, [make.step(task) for _ in range(20)], {}, deadline_s=60)
        if n == total // 2:
            halfway.set()
        await anyio.sleep_until(began + n / 1_000)


async def follow(bus: JetStreamBus, total: int, chance: random.Random) -> None:
    """Read all of it through many tails, each begun where the one before happened to end."""
    after = 0
    while after < total:
        async with bus.tail("s0", after=after, batch=50) as tail:
            for _ in range(chance.randint(1, 60)):
                for record in await anext(tail):
                    assert record.position == after + 1
                    after += 1
                if after == total:
                    return


@pytest.mark.parametrize("fault", ["restart", "hang"])
async def test_a_tail_has_no_gap_and_no_duplicate_through_a_restart(
    broker: Broker, bus: JetStreamBus, fault: str
) -> None:
    total, halfway = 3_000, anyio.Event()
    with anyio.fail_after(90):
        async with anyio.create_task_group() as group:
            for seed in range(3):
                group.start_soon(follow, bus, total, random.Random(seed))
            group.start_soon(write_steadily, bus, total, halfway)
            await halfway.wait()
            if fault == "restart":
                await broker.restart()
            else:
                broker.stop()
                await anyio.sleep(4 * QUICK.heartbeat_s)  # longer than a tail waits for a sign
                broker.cont()


async def test_a_hole_in_the_log_is_named(bus: JetStreamBus, nc: Connection) -> None:
    make, task = Events(TENANT), new_task()
    await bus.append([make.step(task) for _ in range(9)], {})
    await api(nc, "STREAM.MSG.DELETE.MESH_acme_s0", {"seq": 5})
    async with bus.tail("s0", after=0) as tail:
        records = await read(tail, 4)
        assert [r.position for r in records] == [1, 2, 3, 4]
        with anyio.fail_after(20), pytest.raises(HistoryCorrupt, match="after position 4 comes 6"):
            await anext(tail)


@pytest.mark.parametrize(
    ("written", "says"), [(2, "was recreated"), (9, "was recreated")], ids=["shorter", "longer"]
)
async def test_a_log_that_was_recreated_under_a_tail_is_named(
    bus: JetStreamBus, nc: Connection, written: int, says: str
) -> None:
    make, task = Events(TENANT), new_task()
    await bus.append([make.step(task) for _ in range(5)], {})
    async with bus.tail("s0", after=0) as tail:
        await read(tail, 5)
        await api(nc, "STREAM.DELETE.MESH_acme_s0")
        async with open_bus(nc, tenant=TENANT, options=QUICK) as again:
            await again.append([make.step(task) for _ in range(written)], {})
        with anyio.fail_after(20), pytest.raises(HistoryCorrupt, match=says):
            await anext(tail)


async def test_a_tail_that_falls_behind_a_trim_is_told(bus: JetStreamBus, nc: Connection) -> None:
    make, task = Events(TENANT), new_task()
    await bus.append([make.step(task) for _ in range(50)], {})
    async with bus.tail("s0", after=0, batch=5) as tail:
        seen = [r.position for r in await read(tail, 5)]
        await api(nc, "STREAM.PURGE.MESH_acme_s0", {"seq": 45})
        with anyio.fail_after(20), pytest.raises(HistoryCorrupt, match="begins at position 45"):
            await drain(tail, seen)
    assert seen == list(range(1, len(seen) + 1))


async def drain(tail: AsyncIterator[list[Record]], seen: list[int]) -> None:
    async for records in tail:
        seen += [record.position for record in records]
