"""Random programs end as they would have ended, whoever is killed meanwhile."""

import random
from pathlib import Path
from typing import Any

import anyio
import pytest

from mesh.client import TaskHandle
from mesh.errors import Unsuccessful
from tests.system.durable_agents import Program
from tests.system.durable_rig import BROKER, DurableMesh, durable_mesh

pytestmark = [pytest.mark.anyio, pytest.mark.live]
SEED = 20261122
TOGETHER = 10
"""Programs that run side by side."""
DEPTH = 2
Operation = dict[str, Any]


class Author:
    """Writes programs at random; no two steps of a task have one name."""

    def __init__(self, seed: int) -> None:
        self._chance, self._names = random.Random(seed), 0

    def program(self, depth: int = DEPTH) -> list[Operation]:
        """Some operations, of which the last may be to fail."""
        parts = [self._operation(depth) for _ in range(self._chance.randint(1, 4))]
        return [*parts, {"op": "fail"}] if self._chance.random() < 0.2 else parts

    def _operation(self, depth: int) -> Operation:
        chance = self._chance
        kinds = ["step", "step", "sleep", "flaw"]
        if depth == DEPTH:
            kinds += ["child", "child"]  # `lower` may not wait for itself
        if depth:
            kinds += ["together"]
        match chance.choice(kinds):
            case "sleep":
                return {"op": "sleep", "s": chance.uniform(0.01, 1.0)}
            case "child":
                return {"op": "child", "program": self.program(depth - 1)}
            case "together":
                count = chance.randint(2, 4)
                # What a part may be is what a child may be, and children where they may be.
                below = depth - 1 if depth < DEPTH or chance.random() < 0.5 else DEPTH
                return {"op": "together", "parts": [self._part(below) for _ in range(count)]}
            case kind:
                self._names += 1
                return {"op": kind, "name": f"{kind}{self._names}"}

    def _part(self, depth: int) -> Operation:
        while True:
            part = self._operation(depth)
            if part["op"] != "together":
                return part


async def test_programs_end_as_if_nobody_had_been_killed(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    count, kills = (100, 60) if request.config.getoption("--bars") else (10, 5)
    async with durable_mesh(tmp_path, {"upper": 2, "lower": 2}) as live:
        await programs_through_a_storm(live, count, kills)


async def programs_through_a_storm(live: DurableMesh, count: int, kills: int) -> None:
    """Run each program in peace, then again while processes die; each ends the same."""
    programs = [Author(SEED + n).program() for n in range(count)]
    calm = await played(live, programs)
    expected = [await end(task) for task in calm]
    victims = [("upper", BROKER, "lower", "ledger", "gateway")[n % 5] for n in range(kills)]
    tasks: list[TaskHandle] = []
    rounds = 0
    async with anyio.create_task_group() as group:
        over = anyio.Event()

        async def strike() -> None:
            await live.storm(victims, random.Random(SEED))
            over.set()

        group.start_soon(strike)
        while not over.is_set() or not rounds:
            rounds += 1
            for n in range(0, count, TOGETHER):
                part = await played(live, programs[n : n + TOGETHER])
                tasks += part
                for task, program, wanted in zip(part, programs[n:], expected[n:], strict=False):
                    with anyio.fail_after(300):
                        assert await end(task) == wanted, f"{task.id}: {program}"
    await live.recorded()
    everything = [t.task_id async for t in live.client.tasks()]
    states = {t.state async for t in live.client.tasks()}
    assert len(everything) >= 2 * len(programs)
    again = await live.check_steps(everything)
    events = await live.check_store_is_log(everything)
    failed = sum(state == "FAILED" for state, _ in expected)
    print(  # noqa: T201
        f"\n{count} programs ({failed} that fail), {rounds} rounds, {len(live.killed)} kills,"
        f" {len(everything)} tasks, {events} events, final states {states};"
        f" {again} steps ran once more because their first run was not recorded"
    )


async def played(live: DurableMesh, programs: list[list[Operation]]) -> list[TaskHandle]:
    """Submit programs, all at once."""
    return [await live.client.submit("upper", Program(each)) for each in programs]


async def end(task: TaskHandle) -> tuple[str, Any]:
    """The state in which a task ends, and its result or its reason."""
    try:
        return "COMPLETED", await task.result()
    except Unsuccessful as error:
        return error.state, (error.failure_code, error.reason)
