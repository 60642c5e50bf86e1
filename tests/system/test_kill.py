"""Any process of the mesh may be killed at any moment: the work goes on, nothing is lost."""

import os
import random
import signal
from pathlib import Path

import anyio
import pytest

from mesh.client import TaskHandle
from mesh.wire.v1.api_pb2 import Event, Task
from tests.services.sample import DOCS, QUESTION
from tests.system.mesh_rig import LiveMesh, live_mesh

pytestmark = [pytest.mark.anyio, pytest.mark.live]

AGENTS = ("planner", "reader", "writer", "critic")
VICTIMS = (*AGENTS, "ledger", "gateway", "nats-server")
SEED = 20261122
REQUEST = {"question": QUESTION, "docs": DOCS}


async def strike(live: LiveMesh, task_id: str, victim: str, chance: random.Random) -> Event | None:
    """Kill the victim while an agent works on the task or on a child of it.

    Returns:
        The claim of that agent; None if the task was too fast.
    """
    moment = victim if victim in AGENTS else chance.choice(AGENTS)
    with anyio.move_on_after(30):
        async for event in live.client.tail(first=1):
            if event.root_task_id != task_id:
                continue
            if event.kind == "task.work_started" and getattr(event, "from") == moment:
                pid = pid_of(event) if victim in AGENTS else await live.pid(victim)
                os.kill(pid, signal.SIGKILL)
                return event
            if event.task_id == task_id and event.kind == "task.completed":
                return None
    return None


async def counts(live: LiveMesh, claim: Event, victim: str) -> bool:
    """Whether the agent's work on the task was unfinished when the victim died."""
    events = [e async for e in live.client.events(task_id=claim.task_id)]
    if victim not in AGENTS:
        return events[-1].position > claim.position
    mine = [e for e in events if getattr(e, "from") == victim and e.kind == "task.work_started"]
    return len({e.instance for e in mine}) == 2 and not _wrote_more(events, claim)


def _wrote_more(events: list[Event], claim: Event) -> bool:
    return any(e.instance == claim.instance and e.position > claim.position for e in events)


async def test_every_task_completes_whoever_is_killed(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    chance = random.Random(SEED)
    victims = [*VICTIMS] * (5 if pytestconfig.getoption("--bars") else 1)
    victims = victims[:30]
    chance.shuffle(victims)
    task_ids: list[str] = []
    counted: list[str] = []
    async with live_mesh(tmp_path / "data") as live:
        for victim in victims:
            with anyio.fail_after(120):
                task = await live.client.submit("planner", REQUEST)
                task_ids.append(task.id)
                claim = await strike(live, task.id, victim, chance)
                result = await task.result()
            assert result["stats"]["quotes"] > 0
            await live.recorded()
            if claim and await counts(live, claim, victim):
                counted.append(victim)
        await live.check_nothing_lost_or_doubled(task_ids)
        tasks = [t async for t in live.client.tasks()]
        assert {t.state for t in tasks} == {Task.State.COMPLETED}
        assert {t.task_id for t in tasks if not t.parent_task_id} == set(task_ids)
    print(f"{len(counted)} of {len(victims)} kills counted")  # noqa: T201
    assert set(counted) == set(VICTIMS)
    assert len(counted) * 3 >= len(victims) * 2


async def test_a_paused_agent_cannot_move_a_task_that_another_finished(tmp_path: Path) -> None:
    manifest = tmp_path / "mesh.toml"
    slow = Path(__file__).parent / "slow"
    (tmp_path / "slow.py").write_text((slow / "slow.py").read_text())
    manifest.write_text((slow / "mesh.toml").read_text() + "replicas = 2\n")
    async with live_mesh(tmp_path / "data", manifest, {"SLOW_S": "3"}) as live:
        with anyio.fail_after(90):
            task = await live.client.submit("planner", REQUEST)
            zombie = await paused(task, "critic")
            try:
                await task.result()
                before = [e async for e in live.client.events(task_id=task.id)]
            finally:
                os.kill(zombie, signal.SIGCONT)
            assert before[-1].kind == "task.completed"
            assert pid_of(before[-1]) != zombie
            # It goes on where it stood, and reads before it writes: nothing of it is to be seen.
            await said(live, zombie, "the event loop stood still")
            after_it = await live.client.submit("planner", REQUEST)
            await after_it.result()
        await live.check_nothing_lost_or_doubled([task.id])
        after = [e async for e in live.client.events(task_id=task.id)]
        assert [e.event_id for e in after] == [e.event_id for e in before]
        assert (await task.info()).state == Task.State.COMPLETED


async def paused(task: TaskHandle, agent: str) -> int:
    """Pause the process in which an agent works on a task; gives its pid."""
    async for update in task.watch():
        event = update.event
        if event.kind == "task.work_started" and getattr(event, "from") == agent:
            os.kill(pid_of(event), signal.SIGSTOP)
            return pid_of(event)
    raise AssertionError("the task ended before the agent was slow enough to claim it")


def pid_of(event: Event) -> int:
    """The process that wrote an event."""
    return int(event.instance.partition("-")[0])


async def said(live: LiveMesh, pid: int, word: str) -> None:
    """Wait for a word in the log of a process."""
    path = anyio.Path(next(s["log"] for s in await live.services() if int(s["pid"]) == pid))
    while word not in await path.read_text():  # noqa: ASYNC110  # nobody tells
        await anyio.sleep(0.05)
