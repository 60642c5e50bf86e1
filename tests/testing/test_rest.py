"""At rest means that nothing is left to do, whatever happens while that is found out."""

from dataclasses import replace

import anyio
import pytest

from mesh.bus.port import Backlog, Delivery
from mesh.core.envelope import Envelope
from mesh.testing.bus import WatchedBus
from mesh.testing.clock import ManualClock
from tests.make import submitted

pytestmark = pytest.mark.anyio


def work(to: str, number: int) -> Envelope:
    task_id = f"{number:032x}"
    made = submitted(to, task_id=task_id)
    return replace(made, tenant="default", root_task_id=task_id)


@pytest.mark.parametrize("late", range(8))
async def test_work_that_one_gives_to_another_is_not_overlooked(late: int) -> None:
    """The second holds something; it gives work to the first, who was asked already, and ends."""
    bus = WatchedBus(clock=ManualClock())
    await bus.append([work("second", 1)], {f"{1:032x}": 0})

    async def give(delivery: Delivery) -> None:
        for _ in range(late):
            await anyio.lowlevel.checkpoint()
        await bus.append([work("first", 2)], {f"{2:032x}": 0})
        await delivery.ack()

    async with bus.inbox("second", max_held=1) as inbox, anyio.create_task_group() as tasks:
        tasks.start_soon(give, await anext(aiter(inbox)))
        with anyio.move_on_after(0.05) as patience:
            await bus.at_rest(["first", "second"])
        assert patience.cancelled_caught
        assert await bus.backlog("first") == Backlog(waiting=1)


async def test_what_waits_for_the_clock_is_at_rest_until_it_moves() -> None:
    clock = ManualClock()
    bus = WatchedBus(clock=clock)
    async with bus.inbox("first", max_held=2) as inbox:
        for number, after_s in ((1, 5.0), (2, 10.0)):
            await bus.append([work("first", number)], {f"{number:032x}": 0})
            delivery = await anext(aiter(inbox))
            if number == 1:
                await delivery.nak(after_s)
            else:
                delivery.drop()
        await bus.at_rest(["first"])
        for seconds, seen in ((5, 1), (5, 2)):
            due = bus.next_due()
            assert due is not None
            assert (due - clock.now()).total_seconds() == seconds
            clock.advance(due - clock.now())
            bus.tell()
            with anyio.move_on_after(0.01) as patience:
                await bus.at_rest(["first"])
            assert patience.cancelled_caught
            delivery = await anext(aiter(inbox))
            assert delivery.record.position == seen
            await delivery.ack()
            await bus.at_rest(["first"])


async def test_what_a_killed_process_held_comes_again_at_once() -> None:
    bus = WatchedBus(clock=ManualClock())
    await bus.append([work("first", 1)], {f"{1:032x}": 0})
    async with bus.inbox("first", max_held=1) as inbox:
        await anext(aiter(inbox))
        assert [held.agent for held in bus.held()] == ["first"]
    assert bus.held() == []
    assert bus.next_due() is None
    async with bus.inbox("first", max_held=1) as inbox:
        again = await anext(aiter(inbox))
        assert again.redelivered
        await again.ack()
        await bus.at_rest(["first"])


async def test_who_lost_its_lease_and_still_works_is_not_at_rest() -> None:
    clock = ManualClock()
    bus = WatchedBus(clock=clock)
    await bus.append([work("first", 1)], {f"{1:032x}": 0})
    async with bus.inbox("first", max_held=2) as inbox:
        late = await anext(aiter(inbox))
        clock.advance(10)
        (await anext(aiter(inbox))).drop()
        with anyio.move_on_after(0.01) as patience:
            await bus.at_rest(["first"])
        assert patience.cancelled_caught
        await late.ack()
        with anyio.fail_after(1):
            await bus.at_rest(["first"])
