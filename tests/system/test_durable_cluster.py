"""What holds on one broker holds on three, with three replicas of each stream."""

import random
from pathlib import Path

import anyio
import pytest

from tests.system.durable_rig import durable_mesh
from tests.system.test_durable_many import TREE, cancel_a_tree
from tests.system.test_durable_poison import poison_among
from tests.system.test_durable_programs import programs_through_a_storm
from tests.system.test_durable_sleep import sleep_through_a_restart
from tests.system.test_durable_steps import (
    join_through_a_storm,
    steps_through_a_storm,
    victims,
)
from tests.system.test_kill import REQUEST, SEED, VICTIMS, counts, strike

pytestmark = [pytest.mark.anyio, pytest.mark.live]
NODES = 3


@pytest.fixture(autouse=True)
def bars(request: pytest.FixtureRequest) -> None:
    """These run once, before a release."""
    if not request.config.getoption("--bars"):
        pytest.skip(
            "on a cluster only with `make bars`; the same runs on one broker in every check"
        )


async def test_each_step_runs_once(tmp_path: Path) -> None:
    async with durable_mesh(tmp_path, {"stepper": 2}, nodes=NODES) as live:
        await steps_through_a_storm(live, victims(15, "stepper"))


async def test_children_are_joined_whole(tmp_path: Path) -> None:
    async with durable_mesh(tmp_path, {"fan": 1, "leaf": 2}, nodes=NODES) as live:
        await join_through_a_storm(live, 50, victims(12, "leaf", "fan"))


async def test_programs_end_as_if_nobody_had_been_killed(tmp_path: Path) -> None:
    async with durable_mesh(tmp_path, {"upper": 2, "lower": 2}, nodes=NODES) as live:
        await programs_through_a_storm(live, count=20, kills=10)


async def test_a_cancelled_tree_ends(tmp_path: Path) -> None:
    async with durable_mesh(tmp_path, TREE, nodes=NODES) as live:
        await cancel_a_tree(live)


async def test_a_poison_is_a_dead_letter(tmp_path: Path) -> None:
    async with durable_mesh(tmp_path, {"eater": 1}, nodes=NODES) as live:
        await poison_among(live, count=200)


async def test_sleepers_wake_after_everything_was_killed(tmp_path: Path) -> None:
    async with durable_mesh(tmp_path, {"sleeper": 1}, nodes=NODES) as live:
        await sleep_through_a_restart(live, count=500, ahead_s=60)


async def test_every_brief_completes_whoever_is_killed(tmp_path: Path) -> None:
    """The kill test of the hand-over chain."""
    chance = random.Random(SEED)
    agents: dict[str, int] = {"planner": 1, "reader": 1, "writer": 1, "critic": 1}
    module = "tests.system.slow.slow"
    task_ids: list[str] = []
    counted = 0
    async with durable_mesh(tmp_path, agents, nodes=NODES, module=module) as live:
        for victim in chance.sample(VICTIMS, len(VICTIMS)):
            with anyio.fail_after(120):
                task = await live.client.submit("planner", REQUEST)
                task_ids.append(task.id)
                claim = await strike(live, task.id, victim, chance)
                result = await task.result()
            assert result["stats"]["quotes"] > 0
            await live.recorded()
            if claim and await counts(live, claim, victim):
                counted += 1
        await live.check_store_is_log(task_ids)
    print(f"\n{counted} of {len(VICTIMS)} kills counted")  # noqa: T201
    assert counted * 3 >= len(VICTIMS) * 2
