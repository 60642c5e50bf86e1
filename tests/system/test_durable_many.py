"""Many at once: a thousand children, and a tree that is cancelled."""

import statistics
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest

from mesh.clock import SystemClock
from mesh.wire.v1.api_pb2 import Task
from tests.system.durable_agents import Order
from tests.system.durable_rig import DurableMesh, durable_mesh

pytestmark = [pytest.mark.anyio, pytest.mark.live]
TREE = {"trunk": 1, "branch": 1, "twig": 1}
REGISTERED = "task.compensation_registered"


async def test_the_cost_of_a_child_does_not_grow_with_their_number(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    bars = request.config.getoption("--bars")
    few, many, rounds = (100, 1000, 5) if bars else (20, 100, 1)
    ratios: list[float] = []
    async with durable_mesh(tmp_path, {"fan": 1, "chaff": 1}) as live:
        await joined(live, few)  # the first one pays for what the processes load
        for _ in range(rounds):
            # Before and behind, as the machine is not always equally fast.
            took = [await joined(live, few) for _ in range(many // few // 2)]
            whole = await joined(live, many)
            took += [await joined(live, few) for _ in range(many // few // 2)]
            each, of_many = statistics.mean(took) / few, whole / many
            ratios.append(of_many / each)
            print(  # noqa: T201
                f"\nms a child: {1000 * each:.1f} of {few}, {1000 * of_many:.1f} of {many}"
            )
        await live.check_store_is_log([])
    if bars:
        assert 0.8 <= statistics.median(ratios) <= 1.2


async def joined(live: DurableMesh, children: int) -> float:
    """Fan out and join; gives the seconds it took by the log's clock."""
    with anyio.fail_after(300):
        task = await live.client.submit("fan", Order("chaff", children))
        assert await task.result() == list(range(children))
        info = await task.info()
    return (info.closed_at.ToDatetime() - info.submitted_at.ToDatetime()).total_seconds()


async def test_a_cancelled_tree_ends_and_is_undone_in_reverse(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    async with durable_mesh(tmp_path, TREE) as live:
        last_s = await cancel_a_tree(live)
    if request.config.getoption("--bars"):
        assert last_s <= 3


async def cancel_a_tree(live: DurableMesh) -> float:
    """Cancel 1 + 5 + 25 tasks in the middle; gives the seconds until the last one had ended."""
    root = await live.client.submit("trunk", 5)
    tree = await grown(live, root.id)
    cancelled_at = SystemClock().now()
    await root.cancel("no more")
    ends = [await ended(live, task_id) for task_id in tree]
    last_s = max((end - cancelled_at).total_seconds() for end in ends)
    print(f"\n{len(tree)} tasks CANCELED within {last_s:.2f} s")  # noqa: T201
    await live.recorded()
    for task_id in tree:
        kinds = [e.kind async for e in live.client.events(task_id=task_id)]
        registered = [("a", "b")[n] for n in range(kinds.count(REGISTERED))]
        done = [d.what for d in live.done(task_id)]
        assert {each for each in done if len(each) == 1} <= set(registered)
        undone = [each for each in done if each.startswith("undo")]
        assert undone == [f"undo-{name}" for name in reversed(registered)]
    await live.check_store_is_log(tree)
    return last_s


async def grown(live: DurableMesh, root_id: str) -> list[str]:
    """Wait until the whole tree is there and half of its ends have begun; gives its tasks."""
    with anyio.fail_after(60):
        while True:
            await live.more_done()
            if sum(d.what == "a" for d in live.done()) < 6 + 13:
                continue
            await live.recorded()
            tree = [t.task_id async for t in live.client.tasks() if t.root_task_id == root_id]
            if len(tree) == 31:
                return tree


async def ended(live: DurableMesh, task_id: str) -> datetime:
    """When a task was cancelled, by the log's clock."""
    with anyio.fail_after(60):
        async for update in live.client.task(task_id).watch():
            if update.task.HasField("closed_at"):
                assert update.task.state == Task.CANCELED
                return update.task.closed_at.ToDatetime(UTC)
    raise AssertionError(f"{task_id} did not end")
