from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

import anyio
import pytest

from mesh.agent.payload import encode_value
from mesh.bus.inproc import InprocBus
from mesh.client import Mesh, TaskHandle, open_mesh
from mesh.core import event as e
from mesh.core.envelope import Record
from mesh.errors import Unavailable
from mesh.wire.v1.api_pb2 import Task
from tests.make import TENANT
from tests.services.door import Door


@pytest.fixture
def door() -> Door:
    return Door()


async def complete(door: Door, task: TaskHandle, value: object) -> None:
    await door.rig.act(task.id, e.WorkStarted(), e.Completed(result=encode_value(value)))


async def test_one_key_over_two_gateways_and_a_restart_is_one_task(door: Door) -> None:
    keys = [f"key-{n}" for n in range(25)]
    found: dict[str, set[str]] = {key: set() for key in keys}

    async def submit(mesh: Mesh, key: str) -> None:
        found[key].add((await mesh.submit("planner", {"n": 1}, key=key)).id)

    async with door.rig.agent("planner"):
        for _ in range(2):
            async with AsyncExitStack() as stack:
                meshes: list[Mesh] = []
                for _ in range(2):
                    address, _desk = await stack.enter_async_context(door.open_gateway())
                    meshes.append(await stack.enter_async_context(open_mesh(address)))
                async with anyio.create_task_group() as tasks:
                    for key in keys:
                        for mesh in meshes:
                            tasks.start_soon(submit, mesh, key)
    assert [len(ids) for ids in found.values()] == [1] * len(keys)
    (log,) = await door.rig.bus.info()
    assert log.last == len(keys)


async def test_a_watch_goes_on_through_a_restart_of_the_gateway(door: Door) -> None:
    events: list[int] = []
    states: list[int] = []

    async def follow(task: TaskHandle, begun: anyio.Event, ended: anyio.Event) -> None:
        async with aclosing(task.watch()) as updates:
            async for update in updates:
                states.append(update.task.state)
                if update.HasField("event"):
                    events.append(update.event.position)
                begun.set()
        ended.set()

    with anyio.fail_after(30):
        async with door.rig.agent("planner"), anyio.create_task_group() as tasks:
            first = await door.start_gateway(tasks)
            async with open_mesh(first.address) as mesh:
                task = await mesh.submit("planner", {})
                begun, ended = anyio.Event(), anyio.Event()
                tasks.start_soon(follow, task, begun, ended)
                await begun.wait()
                await door.rig.act(task.id, e.WorkStarted())
                await first.stop()
                await door.rig.act(task.id, e.StepRecorded(ordinal=1, name="s"))
                second = await door.start_gateway(tasks, first.address)
                await complete(door, task, "done")
                assert await task.result() == "done"
                await ended.wait()
                assert events == [r.position for r in await door.rig.bus.history(task.id)]
                await second.stop()
    assert len(states) == len(events) + 1  # the state now is told once, whatever was lost
    assert states[-1] == Task.COMPLETED


class FollowedBus(InprocBus):
    """A bus that tells when its log is followed, and when no longer."""

    def __init__(self) -> None:
        super().__init__(tenant=TENANT)
        self.opened, self.closed = anyio.Event(), anyio.Event()

    @asynccontextmanager
    async def tail(
        self, shard: str, *, after: int, batch: int = 500
    ) -> AsyncGenerator[AsyncIterator[list[Record]]]:
        async with super().tail(shard, after=after, batch=batch) as batches:
            self.opened.set()
            try:
                yield batches
            finally:
                self.closed.set()


async def test_a_watcher_that_leaves_is_forgotten_by_the_gateway(door: Door) -> None:
    bus = door.rig.bus = FollowedBus()
    async with (
        door.rig.agent("planner"),
        door.open_gateway() as (address, _),
        open_mesh(address) as mesh,
    ):
        task = await mesh.submit("planner", {})
        with anyio.fail_after(5):
            async with aclosing(task.watch()) as updates:
                await anext(updates)
                await bus.opened.wait()
            await bus.closed.wait()


async def test_a_call_outlasts_a_gateway_that_is_gone_for_a_moment(door: Door) -> None:
    with anyio.fail_after(30):
        async with door.rig.agent("planner"), anyio.create_task_group() as tasks:
            first = await door.start_gateway(tasks)
            async with open_mesh(first.address) as mesh:
                await first.stop()
                send, receive = anyio.create_memory_object_stream[TaskHandle](1)

                async def submit(mesh: Mesh) -> None:
                    with send:
                        await send.send(await mesh.submit("planner", {}))

                tasks.start_soon(submit, mesh)
                await anyio.wait_all_tasks_blocked()
                second = await door.start_gateway(tasks, first.address)
                with receive:
                    task = await receive.receive()
                assert (await door.rig.task(task.id)).owner == "planner"
                await second.stop()


async def test_a_gateway_that_is_not_there_is_named(door: Door) -> None:
    async with open_mesh("127.0.0.1:1", patience_s=0.3) as mesh:
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
            await mesh.status()


async def test_a_tail_gives_what_comes_and_survives_a_restart(door: Door) -> None:
    seen: list[int] = []

    with anyio.fail_after(30):
        async with door.rig.agent("planner"), anyio.create_task_group() as tasks:
            first = await door.start_gateway(tasks)
            async with open_mesh(first.address) as mesh, aclosing(mesh.tail(first=1)) as events:
                task = await mesh.submit("planner", {})
                seen.append((await anext(events)).position)
                await first.stop()
                await door.rig.act(task.id, e.WorkStarted(), e.StepRecorded(ordinal=1, name="s"))
                second = await door.start_gateway(tasks, first.address)
                seen += [(await anext(events)).position for _ in range(2)]
            await second.stop()
    assert seen == [1, 2, 3]


async def test_status_shows_log_and_ledger_and_says_when_that_is_gone(door: Door) -> None:
    async with (
        door.rig.agent("planner"),
        anyio.create_task_group() as tasks,
        AsyncExitStack() as stack,
    ):
        ledger = await door.start_ledger(tasks)
        address, _ = await stack.enter_async_context(door.open_gateway())
        mesh = await stack.enter_async_context(open_mesh(address, patience_s=0.3))
        task = await mesh.submit("planner", {})
        await door.recorded()
        (shard,) = (await mesh.status()).shards
        assert (shard.shard, shard.log_first, shard.log_last, shard.checkpoint) == ("s0", 1, 1, 1)
        await ledger.stop()
        status = await mesh.status()
        assert "the ledger" in status.ledger_error
        assert not status.shards[0].HasField("checkpoint")
        assert (await task.info()).state == Task.SUBMITTED
        with pytest.raises(Unavailable, match="the ledger"):
            await anext(mesh.tasks())


class HangingBus(InprocBus):
    """A bus that never answers a read."""

    async def history(
        self, task_id: str, *, root_task_id: str = "", after: int = 0
    ) -> list[Record]:
        await anyio.sleep_forever()
        return []


async def test_a_wait_on_a_gateway_that_hangs_times_out(door: Door) -> None:
    door.rig.bus = HangingBus(tenant=TENANT)
    async with door.open_gateway() as (address, _), open_mesh(address) as mesh:
        with pytest.raises(TimeoutError):
            await mesh.task("0" * 32).result(timeout_s=0.2)
        with anyio.move_on_after(0.2) as scope:
            await anext(mesh.task("0" * 32).watch())
        assert scope.cancelled_caught
