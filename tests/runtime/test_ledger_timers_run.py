"""Timers left to themselves, in several shards, and behind a store that does not answer."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import anyio
import pytest

from mesh.bus.inproc import Fault, InprocBus
from mesh.clock import SystemClock
from mesh.core import event as e
from mesh.errors import Unavailable
from mesh.ledger.recorder import Recorder
from mesh.ledger.timers import Timers
from mesh.store.inproc import InprocStore
from mesh.testing.clock import ManualClock
from tests.make import START, TENANT
from tests.runtime.ledger_rig import Rig, task_id
from tests.runtime.sleeper import asleep, fired

if TYPE_CHECKING:
    from mesh.core.envelope import Record
    from mesh.store.port import Checkpoint, Commit


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
def rig(clock: ManualClock) -> Rig:
    return Rig(store=InprocStore(), bus=InprocBus(tenant=TENANT, clock=clock), clock=clock)


async def test_each_shard_fires_its_own(rig: Rig, clock: ManualClock) -> None:
    rig.bus = InprocBus(tenant=TENANT, shards=3, clock=clock)
    timers: dict[str, Timers] = {}
    for number in range(1, 31):
        await rig.bus.append(asleep(number), {task_id(number): 0})
    for _ in range(2):
        parts = rig.parts()
        recorder = Recorder(parts)
        timers = {
            log.shard: Timers(parts, recorder, shard=log.shard) for log in await rig.bus.info()
        }
        async with anyio.create_task_group() as tasks:
            for shard in timers:
                tasks.start_soon(recorder.run, shard)
            assert [await each.fire_due() for each in timers.values()] == [0, 0, 0]
            tasks.cancel_scope.cancel()
    clock.advance(60)
    counts = [await each.fire_due() for each in timers.values()]
    assert (sum(counts), min(counts) > 0) == (30, True)
    assert [len(await fired(rig, number)) for number in range(1, 31)] == [1] * 30


class Doubtful(InprocStore):
    """A store whose every commit is written but has no answer the first time."""

    def __init__(self) -> None:
        super().__init__()
        self.commits = 0

    async def commit(self, commit: Commit, *, expected: Checkpoint) -> None:
        self.commits += 1
        await super().commit(commit, expected=expected)
        if self.commits % 2:
            raise Unavailable("written, but nobody knows")


async def test_timers_of_a_commit_without_an_answer_are_known(rig: Rig, clock: ManualClock) -> None:
    rig.store = Doubtful()
    async with rig.ledger().running() as ledger:
        for number in (1, 2, 3):
            await rig.tell(*asleep(number))
            await ledger.recorded()
        clock.advance(61)
        assert await ledger.fire() == 3
        assert await ledger.fire() == 0
        assert ledger.timers.next_due() is None


async def wait_until_fired(rig: Rig, number: int) -> Record:
    with anyio.fail_after(10):
        async with rig.bus.tail("s0", after=0) as batches:
            async for records in batches:
                for record in records:
                    made = record.envelope
                    if made and made.kind == e.TimerFired.kind and made.task_id == task_id(number):
                        return record
    raise AssertionError("unreachable")


async def test_left_alone_it_fires_on_time_whatever_the_bus_does() -> None:
    rig = Rig(store=InprocStore())
    now = SystemClock().now()
    ledger = rig.ledger()
    await rig.tell(*asleep(1, due=now - timedelta(days=1)))
    async with ledger.running(), anyio.create_task_group() as tasks:
        tasks.start_soon(ledger.timers.run)
        await wait_until_fired(rig, 1)
        due = SystemClock().now() + timedelta(seconds=0.2)
        await rig.tell(*asleep(2, due=due))
        await ledger.recorded()
        rig.bus.faults.extend([Fault.DOWN, Fault.LOST, Fault.STORED])
        record = await wait_until_fired(rig, 2)
        assert record.stored_at >= due
        await rig.tell(*asleep(3, due=now))
        await wait_until_fired(rig, 3)
        tasks.cancel_scope.cancel()
    assert [len(await fired(rig, number)) for number in (1, 2, 3)] == [1, 1, 1]


async def test_a_clock_that_jumps_is_noticed(rig: Rig, clock: ManualClock) -> None:
    ledger = rig.ledger()
    await rig.tell(*asleep(due=START + timedelta(days=3)))
    async with ledger.running(), anyio.create_task_group() as tasks:
        tasks.start_soon(ledger.timers.run)
        await anyio.wait_all_tasks_blocked()
        assert await fired(rig) == []
        clock.advance(3 * 86400)
        await wait_until_fired(rig, 1)
        tasks.cancel_scope.cancel()
