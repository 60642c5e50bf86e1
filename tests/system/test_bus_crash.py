"""A broker that is killed or hangs in the middle of writing: nothing lost, nothing twice."""

import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest

from mesh.bus.jetstream import BusOptions, Connection, JetStreamBus, open_bus, open_nats
from mesh.bus.settle import settle
from mesh.core.envelope import Envelope
from mesh.core.event import TaskSubmitted
from mesh.errors import Fenced, LogFull, MeshError, Unavailable, Unresolved
from mesh.testing.broker import Broker, open_broker
from tests.contract.bus_rig import Events, new_task

pytestmark = pytest.mark.live
TENANT = "acme"
BOUND_S = 15.0


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    # As in production: what it acknowledged is on disk.
    async with open_broker(tmp_path, sync_always=True) as broker:
        yield broker


@pytest.fixture
async def nc(broker: Broker) -> AsyncIterator[Connection]:
    async with open_nats(broker.url, "test") as nc:
        yield nc


@pytest.fixture
async def bus(nc: Connection) -> AsyncIterator[JetStreamBus]:
    async with open_bus(nc, tenant=TENANT) as bus:
        yield bus


@dataclass
class Calls:
    """What became of many appends."""

    bus: JetStreamBus
    stored: dict[str, int] = field(default_factory=dict[str, int])
    failed: dict[str, MeshError] = field(default_factory=dict[str, MeshError])
    longest_s: float = 0.0

    async def append(self, batch: list[Envelope]) -> None:
        began, task = anyio.current_time(), batch[0].task_id
        try:
            self.stored[task] = (await self.bus.append(batch, {task: 0}))[0]
        except (Fenced, Unresolved, Unavailable) as error:
            self.failed[task] = error
        self.longest_s = max(self.longest_s, anyio.current_time() - began)


@pytest.mark.parametrize("events", [1, 3])
async def test_a_thousand_appends_in_flight_survive_the_brokers_death(
    broker: Broker, bus: JetStreamBus, nc: Connection, events: int
) -> None:
    make = Events(TENANT)
    tasks = [new_task() for _ in range(1_000)]
    batches = {t: [make.submitted(t), *(make.step(t) for _ in range(events - 1))] for t in tasks}
    calls = Calls(bus)
    before = len(anyio.get_running_tasks())
    broker.stop()
    async with anyio.create_task_group() as group:
        for batch in batches.values():
            group.start_soon(calls.append, batch)
        await anyio.wait_all_tasks_blocked()
        # All wait for their answer. It gets the time to store some of them, hardly all.
        broker.cont()
        time.sleep(0.01)  # noqa: ASYNC251  # nobody here is to read an answer meanwhile
        await broker.kill()
        await broker.start()
    assert calls.longest_s < BOUND_S
    assert len(calls.stored) + len(calls.failed) == len(tasks)
    assert calls.failed
    await broker.ready()
    async with anyio.create_task_group() as group:
        for task in calls.failed:
            group.start_soon(_settle, bus, batches[task])
    (log,) = await bus.info()
    ids: Counter[str] = Counter()
    async with bus.tail("s0", after=0) as tail:
        while ids.total() < log.last:
            ids.update(r.envelope.event_id for r in await anext(tail) if r.envelope)
    assert ids == Counter(e.event_id for batch in batches.values() for e in batch)
    assert bus.pending == 0
    assert len(anyio.get_running_tasks()) <= before


async def _settle(bus: JetStreamBus, batch: list[Envelope]) -> None:
    first = batch[0]
    fence = {first.task_id: 0} if isinstance(first.event, TaskSubmitted) else {}
    await settle(bus, batch, fence, deadline_s=60)


async def test_an_append_to_a_broker_that_hangs_is_unresolved_and_stored_once(
    broker: Broker, nc: Connection
) -> None:
    make, task = Events(TENANT), new_task()
    submitted, report, moved = make.submitted(task), make.report(task), new_task()
    batch = [make.submitted(moved), make.step(moved)]
    async with open_bus(nc, tenant=TENANT, options=BusOptions(timeout_s=0.5)) as bus:
        broker.stop()
        for events, expected in (([submitted], {task: 0}), ([report], {}), (batch, {moved: 0})):
            with anyio.fail_after(1), pytest.raises(Unresolved):
                await bus.append(events, expected)
        with anyio.fail_after(1), pytest.raises(Unavailable):
            await bus.history(task)
        with anyio.fail_after(1), pytest.raises(Unavailable, match="head"):
            await bus.head(task, root_task_id=task)
        assert bus.pending == 0
        broker.cont()
        (first,) = await settle(bus, [submitted], {task: 0}, deadline_s=10)
        await settle(bus, [report], {}, deadline_s=10)
        await settle(bus, batch, {moved: 0}, deadline_s=10)
        records = await bus.history(task)
        assert records[0].position == first
        assert len(records) == 2
        assert len(await bus.history(moved)) == 2


async def test_without_a_broker_nothing_is_sent_and_the_call_ends_in_time(
    broker: Broker, nc: Connection
) -> None:
    make, task = Events(TENANT), new_task()
    async with open_bus(nc, tenant=TENANT, options=BusOptions(timeout_s=0.5)) as bus:
        await bus.append([make.submitted(task)], {task: 0})
        lost = anyio.Event()
        nc.on_lost.append(lost.set)
        await broker.kill()
        with anyio.fail_after(10):
            await lost.wait()
        for _ in range(2):
            with anyio.fail_after(1), pytest.raises(Unavailable, match="not connected"):
                await bus.append([make.report(task)], {})
        with anyio.fail_after(2), pytest.raises(Unavailable):
            await settle(bus, [make.report(task)], {}, deadline_s=1)
        with anyio.fail_after(1), pytest.raises(Unavailable, match="not connected"):
            await bus.head(task, root_task_id=task)
        await bus.hint("task.lost", b"data")
        await broker.restart()
        await settle(bus, [make.report(task)], {}, deadline_s=20)
        assert len(await bus.history(task)) == 2


async def test_a_read_of_the_head_lasts_through_a_restart(broker: Broker, nc: Connection) -> None:
    task = new_task()
    async with open_bus(nc, tenant=TENANT, options=BusOptions(timeout_s=20)) as bus:
        stored = await bus.append([Events(TENANT).submitted(task)], {task: 0})
        lost = anyio.Event()
        nc.on_lost.append(lost.set)
        broker.stop()

        async def look() -> None:
            head = await bus.head(task, root_task_id=task)
            assert head is not None
            assert (head.position,) == stored

        async with anyio.create_task_group() as group:
            group.start_soon(look)
            while not bus.pending:
                await anyio.lowlevel.checkpoint()
            await broker.kill()
            with anyio.fail_after(10):
                await lost.wait()
            await broker.restart()


async def test_settle_tells_a_stranger_from_its_own_event(bus: JetStreamBus) -> None:
    task = new_task()
    mine, theirs = Events(TENANT, "one"), Events(TENANT, "two")
    at = await settle(bus, [mine.submitted(task)], {task: 0}, deadline_s=5)
    await settle(bus, [theirs.started(task)], {task: at[0]}, deadline_s=5)
    with pytest.raises(Fenced):
        await settle(bus, [mine.started(task)], {task: at[0]}, deadline_s=5)


async def test_a_full_log_says_so(nc: Connection) -> None:
    make, task = Events(TENANT), new_task()
    async with open_bus(nc, tenant=TENANT, options=BusOptions(max_bytes=20_000)) as bus:
        await bus.append([make.step(task, 15_000)], {})
        with pytest.raises(LogFull, match="maximum bytes"):
            await bus.append([make.step(task, 15_000)], {})
        with pytest.raises(LogFull):
            await bus.append([make.step(task, 15_000), make.step(task)], {})
        with pytest.raises(LogFull):
            await settle(bus, [make.step(task, 15_000)], {}, deadline_s=5)
        assert len(await bus.history(task)) == 1


async def test_more_batches_at_once_than_the_server_takes_are_all_stored(
    broker: Broker, nc: Connection
) -> None:
    """A stream takes 50 open batches; strangers hold all of them for ten seconds."""
    make, task = Events(TENANT), new_task()
    async with open_bus(nc, tenant=TENANT) as bus:
        subject = str(make.step(task).subject("s0"))
        for n in range(50):
            headers = {"Nats-Batch-Id": f"stranger{n}", "Nats-Batch-Sequence": "1"}
            await nc.publish(subject, b"never committed", headers=headers)
        with anyio.fail_after(10), pytest.raises(Unavailable, match="10210"):
            await bus.append([make.step(task), make.step(task)], {})
        await settle(bus, [make.step(task), make.step(task)], {}, deadline_s=30)
        async with anyio.create_task_group() as group:
            for _ in range(200):
                group.start_soon(_settle, bus, [make.step(task), make.step(task)])
        assert len(await bus.history(task)) == 402


async def test_a_first_connect_that_fails_names_the_address_and_the_fix(broker: Broker) -> None:
    await broker.kill()
    with anyio.fail_after(3):
        with pytest.raises(Unavailable, match=rf"{broker.url}.*mesh up"):
            async with open_nats(broker.url, "test", within_s=1):
                pass
