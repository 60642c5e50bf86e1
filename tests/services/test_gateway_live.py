"""Two gateways, as two processes would be, on a real broker."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import anyio
import pytest

from mesh.agent.payload import encode_value
from mesh.client import Mesh, TaskHandle
from mesh.core import event as e
from mesh.core.fold import fold
from mesh.errors import KeyConflict
from mesh.testing.broker import Broker, open_broker
from tests.services.live_gateway import act, open_gateway

pytestmark = pytest.mark.live


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncGenerator[Broker]:
    async with open_broker(tmp_path) as running:
        yield running


async def test_one_key_is_one_task_from_two_gateways_at_once_and_after_a_restart(
    broker: Broker,
) -> None:
    keys = [f"key-{n}" for n in range(60)]
    answers: dict[str, list[TaskHandle]] = {key: [] for key in keys}

    async def submit(mesh: Mesh, key: str) -> None:
        answers[key].append(await mesh.submit("planner", {"for": key}, key=key))

    for _ in range(2):
        async with open_gateway(broker) as (one, bus), open_gateway(broker) as (other, _):
            async with anyio.create_task_group() as tasks:
                for key in keys:
                    for mesh in (one, other, one):
                        tasks.start_soon(submit, mesh, key)
            for mesh in (one, other):
                with pytest.raises(KeyConflict) as conflict:
                    await mesh.submit("planner", {"for": "another"}, key=keys[0])
                assert conflict.value.task_id == answers[keys[0]][0].id
            (log,) = await bus.info()
            assert log.last == len(keys)
    assert {len({task.id for task in tasks}) for tasks in answers.values()} == {1}
    # The very first answer of a key says that it is new, and nobody else's does.
    assert {sum(not task.duplicate for task in tasks) for tasks in answers.values()} == {1}


async def test_what_one_gateway_took_the_other_knows_at_once(broker: Broker) -> None:
    async with open_gateway(broker) as (one, _), open_gateway(broker) as (other, _):
        for n in range(50):
            task = await one.submit("planner", {"n": n})
            assert (await other.task(task.id).info()).version == 1


async def test_a_broker_that_is_killed_under_submits_costs_no_task_and_doubles_none(
    broker: Broker,
) -> None:
    taken: list[TaskHandle] = []

    async def submit(mesh: Mesh, n: int) -> None:
        taken.append(await mesh.submit("planner", {"n": n}))

    async with open_gateway(broker) as (mesh, bus):
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                for n in range(200):
                    tasks.start_soon(submit, mesh, n)
                while len(taken) < 20:
                    await anyio.lowlevel.checkpoint()
                await broker.restart()
        (log,) = await bus.info()
        assert len({task.id for task in taken}) == log.last == 200


async def test_a_watch_sees_every_event_in_order(broker: Broker) -> None:
    seen: list[int] = []

    async def follow(task: TaskHandle) -> None:
        async with aclosing(task.watch()) as updates:
            async for update in updates:
                if update.HasField("event"):
                    seen.append(update.event.position)

    async with open_gateway(broker) as (mesh, _), open_gateway(broker) as (_, bus):
        task = await mesh.submit("planner", {})
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(follow, task)
                for ordinal in range(100):
                    await act(bus, task.id, e.StepRecorded(ordinal=ordinal, name="s"))
                await act(bus, task.id, e.Completed(result=encode_value("done")))
        assert seen == [record.position for record in await bus.history(task.id)]
        assert await task.result() == "done"


async def test_a_large_payload_goes_through_the_object_store(broker: Broker) -> None:
    data = bytes(3_000_000)
    async with open_gateway(broker) as (mesh, bus):
        task = await mesh.submit("planner", data)
        begun = fold(await bus.history(task.id)).input
        assert begun is not None
        assert begun.blob is not None
        assert begun.blob.size == len(data)
        await act(bus, task.id, e.Completed(result=begun))
        assert await task.result() == data
