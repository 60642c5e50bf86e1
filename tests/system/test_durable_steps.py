"""Processes die at any moment: steps run once, and what is joined is whole."""

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest

from tests.system.durable_agents import STEPS, Order
from tests.system.durable_rig import BROKER, DurableMesh, durable_mesh

pytestmark = [pytest.mark.anyio, pytest.mark.live]
SEED = 20261122


def victims(kills: int, *agents: str) -> list[str]:
    """Agents, broker and ledger in turn."""
    return [(*agents, BROKER, "ledger")[n % (len(agents) + 2)] for n in range(kills)]


async def steps_through_a_storm(live: DurableMesh, whom: Sequence[str]) -> None:
    """Tasks of twenty steps, one after another, until all of these were killed."""
    calm = await live.client.submit("stepper", "x")
    expected = await calm.result(timeout_s=60)
    task_ids = [calm.id]
    over = anyio.Event()

    async def strike() -> None:
        await live.storm(whom, random.Random(SEED))
        over.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(strike)
        while not over.is_set():
            task = await live.client.submit("stepper", "x")
            task_ids.append(task.id)
            assert await task.result(timeout_s=300) == expected
    again = await live.check_steps(task_ids)
    for task_id in task_ids:
        kinds = [e.kind async for e in live.client.events(task_id=task_id)]
        assert kinds.count("task.step_recorded") == STEPS
    events = await live.check_store_is_log(task_ids)
    print(  # noqa: T201
        f"\n{len(live.killed)} kills, {len(task_ids)} tasks of {STEPS} steps, {events} events;"
        f" {again} steps ran once more because their first run was not recorded"
    )


async def test_each_step_runs_once_whoever_is_killed(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    kills = 50 if request.config.getoption("--bars") else 6
    async with durable_mesh(tmp_path, {"stepper": 2}) as live:
        await steps_through_a_storm(live, victims(kills, "stepper"))


async def test_children_are_joined_whole_whoever_is_killed(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    children, kills = (50, 24) if request.config.getoption("--bars") else (12, 4)
    async with durable_mesh(tmp_path, {"fan": 1, "leaf": 2}) as live:
        await join_through_a_storm(live, children, victims(kills, "leaf", "fan"))


async def join_through_a_storm(live: DurableMesh, children: int, whom: Sequence[str]) -> None:
    """Fan out again and again, until all of these were killed; each join is whole."""
    over = anyio.Event()
    chance = random.Random(SEED)

    async def strike() -> None:
        await live.storm(whom, chance)
        over.set()

    parents: list[str] = []
    steps: list[str] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(strike)
        while not over.is_set():
            task = await live.client.submit("fan", Order("leaf", children))
            parents.append(task.id)
            found: list[tuple[int, str, str]] = await task.result(timeout_s=300)
            assert [n for n, _, _ in found] == list(range(children))
            assert [said for _, _, said in found] == [f"{n}.work" for n in range(children)]
            child_ids = [child_id for _, child_id, _ in found]
            assert len(set(child_ids)) == children
            steps += child_ids
    await live.recorded()
    for parent in parents:
        events = [e async for e in live.client.events(task_id=parent)]
        kinds = Counter(e.kind for e in events)
        assert (kinds["task.delegated"], kinds["task.completed"]) == (children, 1)
    again = await live.check_steps(steps)
    count = await live.check_store_is_log([*parents, *steps])
    print(  # noqa: T201
        f"\n{len(live.killed)} kills, {len(parents)} joins of {children} children, {count} events;"
        f" {again} steps ran once more because their first run was not recorded"
    )
