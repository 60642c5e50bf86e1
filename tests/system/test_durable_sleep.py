"""Tasks that wait cost nothing, and wake in time whatever was restarted meanwhile."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest

from mesh.clock import SystemClock
from tests.system.durable_rig import DurableMesh, durable_mesh

pytestmark = [pytest.mark.anyio, pytest.mark.live]
AT_ONCE = 16
"""Submits side by side."""


async def test_sleepers_cost_no_memory_and_wake_in_time_after_everything_was_killed(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    bars = request.config.getoption("--bars")
    count, ahead_s = (10_000, 360) if bars else (1_000, 30)
    async with durable_mesh(tmp_path, {"sleeper": 1}) as live:
        cost_mb, late_s = await sleep_through_a_restart(live, count, ahead_s)
    if bars:
        assert cost_mb < 100
        assert late_s <= 2


async def sleep_through_a_restart(
    live: DurableMesh, count: int, ahead_s: float
) -> tuple[float, float]:
    """So many sleepers, due within a second, and everything killed once they sleep.

    Returns:
        MB that the agent's process has more than an idle one, and seconds that the last timer was
        stored after its time.
    """
    now = SystemClock().now()
    await asleep(live, [now] * 50)  # what a process loads with its first work
    await woken(live, 50)
    idle_mb = memory_mb(await live.pid("sleeper"))
    first = SystemClock().now() + timedelta(seconds=ahead_s)
    due = await asleep(live, [first + timedelta(seconds=n / count) for n in range(count)])
    await waiting(live, set(due))
    waiting_mb = memory_mb(await live.pid("sleeper"))
    slept_s = ahead_s - (first - SystemClock().now()).total_seconds()
    await live.kill_everything()
    back_s = (first - SystemClock().now()).total_seconds()
    assert back_s > 0, "set the timers later: they were due before all was back"
    await woken(live, 50 + count)
    await live.recorded()
    late = await stored_late(live, due)
    ends = [t.closed_at.ToDatetime(UTC) async for t in live.client.tasks()]
    resumed_s = (max(ends) - first).total_seconds()
    await live.check_store_is_log([])
    print(  # noqa: T201
        f"\n{count} sleepers: {idle_mb:.0f} MB idle, {waiting_mb:.0f} MB while they wait, asleep"
        f" after {slept_s:.0f} s; all killed and back {back_s:.0f} s before the first was due;"
        f" TimerFired stored {late[count // 2]:.2f} s late in the middle, {late[-1]:.2f} s at most;"
        f" the last handler was done after {resumed_s:.1f} s"
    )
    assert late[0] >= 0
    return waiting_mb - idle_mb, late[-1]


async def asleep(live: DurableMesh, due: Sequence[datetime]) -> dict[str, datetime]:
    """Submit a sleeper for each instant; gives when each task is due."""
    task_ids: dict[str, datetime] = {}
    left = list(due)

    async def submit() -> None:
        while left:
            until = left.pop()
            task = await live.client.submit("sleeper", until.timestamp())
            task_ids[task.id] = until

    async with anyio.create_task_group() as tasks:
        for _ in range(AT_ONCE):
            tasks.start_soon(submit)
    return task_ids


async def waiting(live: DurableMesh, task_ids: set[str]) -> None:
    """Until all of them are suspended."""
    left = set(task_ids)
    with anyio.fail_after(300):
        async for event in live.client.tail(first=1, kind="task.suspended"):
            left.discard(event.task_id)
            if not left:
                return


async def woken(live: DurableMesh, count: int) -> None:
    """Until so many tasks are done."""
    seen = 0
    with anyio.fail_after(600):
        async for _ in live.client.tail(first=1, kind="task.completed"):
            seen += 1
            if seen == count:
                return


async def stored_late(live: DurableMesh, due: Mapping[str, datetime]) -> list[float]:
    """How late each timer was stored, seconds, ascending; each of them fired once."""
    fired = [e async for e in live.client.events(kind="task.timer_fired") if e.task_id in due]
    assert Counter(e.task_id for e in fired) == Counter(due.keys())
    return sorted((e.stored_at.ToDatetime(UTC) - due[e.task_id]).total_seconds() for e in fired)


def memory_mb(pid: int) -> float:
    """Resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024
