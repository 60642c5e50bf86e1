"""Live output at a gateway: beside the events, never in their way."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

import anyio
import pytest

from mesh.bus.inproc import InprocBus
from mesh.bus.port import Hint
from mesh.core import event as e
from mesh.errors import Unavailable
from mesh.gateway.desk import Desk
from mesh.gateway.live import Chunk, LiveOrder
from mesh.gateway.watch import Update, watch_live
from tests.runtime.gateway_rig import GatewayRig, submission

pytestmark = pytest.mark.anyio
Seen = list[Update | Chunk]


async def say(bus: InprocBus, task_id: str, *numbers: int) -> None:
    for number in numbers:
        chunk = {"run": "r", "number": number, "texts": [f"{number},"], "after": 1}
        await bus.hint(f"emit.{task_id}", json.dumps(chunk).encode())


def numbers(seen: Seen) -> list[int]:
    return [update.number for update in seen if isinstance(update, Chunk)]


def positions(seen: Seen) -> list[int]:
    return [u.record.position for u in seen if isinstance(u, Update) and u.record is not None]


async def next_into(updates: AsyncGenerator[Update | Chunk], seen: Seen) -> None:
    seen.append(await anext(updates))


async def rest_into(updates: AsyncGenerator[Update | Chunk], seen: Seen) -> None:
    async for update in updates:
        seen.append(update)


async def read_to(updates: AsyncGenerator[Update | Chunk], seen: Seen, number: int) -> None:
    with anyio.fail_after(20):
        while number not in numbers(seen[-1:]):
            await next_into(updates, seen)


@asynccontextmanager
async def watching(
    desk: Desk, bus: InprocBus, task_id: str, seen: Seen
) -> AsyncGenerator[AsyncGenerator[Update | Chunk]]:
    """A watch that has read what there is, and has heard the first chunk."""
    async with aclosing(watch_live(desk, task_id, after=0, order=LiveOrder())) as updates:
        await next_into(updates, seen)
        await next_into(updates, seen)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(next_into, updates, seen)
            await anyio.wait_all_tasks_blocked()
            await say(bus, task_id, 1)
        assert numbers(seen) == [1]
        yield updates


async def begun(desk: Desk) -> str:
    return (await desk.submit(submission())).task.task_id


async def test_a_slow_watcher_loses_live_output_and_no_event() -> None:
    rig, seen = GatewayRig(), Seen()
    async with rig.agent("planner"), rig.desks(1) as (desk,):
        task_id = await begun(desk)
        async with watching(desk, rig.bus, task_id, seen) as updates:
            for number in range(2, 3_000):
                await say(rig.bus, task_id, number)
                if number % 10 == 0:
                    await rig.act(task_id, e.StepRecorded(ordinal=number, name="s"))
                    await anyio.wait_all_tasks_blocked()
            await read_to(updates, seen, 2_999)
            await rig.act(task_id, e.Completed())
            await rest_into(updates, seen)
        assert positions(seen) == [r.position for r in await rig.bus.history(task_id)]
    assert numbers(seen) == sorted(numbers(seen))
    assert 1 < len(numbers(seen)) <= 300


async def test_what_is_missing_is_asked_for_and_put_in_its_place() -> None:
    rig, seen = GatewayRig(), Seen()
    async with (
        rig.agent("planner"),
        rig.desks(1) as (desk,),
        rig.bus.hints("resend.*") as asked,
    ):
        task_id = await begun(desk)
        async with (
            watching(desk, rig.bus, task_id, seen) as updates,
            anyio.create_task_group() as tasks,
        ):
            with anyio.fail_after(5):
                assert (await anext(asked)).topic == f"resend.{task_id}"  # as it begins
            tasks.start_soon(rest_into, updates, seen)
            await say(rig.bus, task_id, 2, 4, 6, 5)
            with anyio.fail_after(5):
                assert (await anext(asked)).topic == f"resend.{task_id}"  # for the gap
            await say(rig.bus, task_id, 3, 4, 1, 7)
            await anyio.wait_all_tasks_blocked()
            assert numbers(seen) == [1, 2, 3, 4, 5, 6, 7]
            await rig.act(task_id, e.Completed())


async def test_a_chunk_that_stays_away_does_not_keep_the_others() -> None:
    rig, seen = GatewayRig(), Seen()
    async with rig.agent("planner"), rig.desks(1) as (desk,):
        task_id = await begun(desk)
        async with watching(desk, rig.bus, task_id, seen) as updates:
            await say(rig.bus, task_id, 3, 4)
            with anyio.fail_after(5):
                await next_into(updates, seen)
                await next_into(updates, seen)
    assert numbers(seen) == [1, 3, 4]


class DeafBus(InprocBus):
    """Cannot be listened to at first, as while its broker is away."""

    deaf = True

    @asynccontextmanager
    async def hints(self, topic: str) -> AsyncGenerator[AsyncIterator[Hint]]:
        if self.deaf:
            raise Unavailable("the broker is away")
        async with super().hints(topic) as hints:
            yield hints


async def test_events_come_though_live_output_cannot_be_heard_and_later_it_is() -> None:
    rig, seen = GatewayRig(bus=DeafBus), Seen()
    assert isinstance(rig.bus, DeafBus)
    async with rig.agent("planner"), rig.desks(1) as (desk,):
        task_id = await begun(desk)
        async with (
            aclosing(watch_live(desk, task_id, after=0, order=LiveOrder())) as updates,
            anyio.create_task_group() as tasks,
        ):
            await next_into(updates, seen)
            await next_into(updates, seen)
            await rig.act(task_id, e.WorkStarted())
            with anyio.fail_after(5):
                await next_into(updates, seen)
            assert positions(seen) == [1, 2]
            tasks.start_soon(rest_into, updates, seen)
            async with InprocBus.hints(rig.bus, "resend.*") as asked:
                rig.bus.deaf = False
                with anyio.fail_after(10):
                    await anext(asked)  # it listens now
            await say(rig.bus, task_id, 1)
            await anyio.wait_all_tasks_blocked()
            assert numbers(seen) == [1]
            await rig.act(task_id, e.Completed())
        assert positions(seen) == [1, 2, 3]


async def test_a_task_of_the_same_gateway_hears_only_its_own() -> None:
    rig, seen, others = GatewayRig(), Seen(), Seen()
    async with rig.agent("planner"), rig.desks(1) as (desk,):
        task_id, other = await begun(desk), await begun(desk)
        async with (
            watching(desk, rig.bus, task_id, seen) as updates,
            watching(desk, rig.bus, other, others) as other_updates,
        ):
            await say(rig.bus, task_id, 2)
            await rig.bus.hint(f"emit.{task_id}", b"nonsense")
            await read_to(updates, seen, 2)
            for each, watcher, into in ((task_id, updates, seen), (other, other_updates, others)):
                await rig.act(each, e.Completed())
                await rest_into(watcher, into)
    assert numbers(seen) == [1, 2]
    assert numbers(others) == [1]
