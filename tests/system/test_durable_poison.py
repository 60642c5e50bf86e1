"""What kills its process each time ends as a dead letter; its neighbours do not."""

from pathlib import Path

import anyio
import pytest

from mesh.client import TaskHandle
from mesh.clock import SystemClock
from tests.system.durable_agents import POISON
from tests.system.durable_rig import DurableMesh, durable_mesh

pytestmark = [pytest.mark.anyio, pytest.mark.live]


async def test_a_poison_is_a_dead_letter_and_all_others_are_done(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if not request.config.getoption("--bars"):
        pytest.skip("six leases of 10 s: `make bars`; test_worker_suspect.py has it in one process")
    async with durable_mesh(tmp_path, {"eater": 1}) as live:
        await poison_among(live, 1000)


async def poison_among(live: DurableMesh, count: int) -> None:
    """So many good tasks and one that kills its process, until that is mended and redriven."""
    began = SystemClock().monotonic()
    meals = [f"meal {n}" for n in range(count)]
    meals.insert(count // 2, POISON)
    tasks = {meal: await live.client.submit("eater", meal) for meal in meals}
    bad = tasks.pop(POISON)
    for meal, task in tasks.items():
        assert await task.result(timeout_s=240) == f"ate {meal}"
    good_s = SystemClock().monotonic() - began
    await dead(bad)
    dead_s = SystemClock().monotonic() - began
    await live.recorded()
    (letter,) = [each async for each in live.client.dead_letters()]
    assert letter.task_id == bad.id
    assert letter.error.code == "agent.attempts_exhausted"
    assert letter.attempts == 5
    # One that dies before it is slow enough to claim leaves no trace of its first run.
    assert len(live.done(bad.id)) in (5, 6)
    print(  # noqa: T201
        f"\n{count} good ones done after {good_s:.1f} s, the poison dead-lettered after"
        f" {dead_s:.1f} s: {letter.error.message}"
    )
    (live.folder / "mended").touch()
    await live.run("dlq", "redrive", bad.id)
    assert await bad.result(timeout_s=60) == f"ate {POISON}"
    await live.recorded()
    assert [each async for each in live.client.dead_letters()] == []
    await live.check_store_is_log([bad.id, *(task.id for task in tasks.values())])


async def dead(task: TaskHandle) -> None:
    """Wait until a task is dead-lettered."""
    with anyio.fail_after(240):
        async for update in task.watch():
            if update.task.dead_lettered:
                return
    raise AssertionError("it ended otherwise")
