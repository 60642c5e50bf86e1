"""What tests of durable handlers share."""

from collections import Counter
from typing import Any

import anyio

from mesh.core import event as e
from mesh.core.projection import timers_of
from mesh.core.task import Task
from tests.make import envelope
from tests.runtime.rig import Rig


class World:
    """What the functions of steps did, counted."""

    def __init__(self) -> None:
        self.ran: Counter[str] = Counter()
        self.order: list[str] = []

    def do(self, name: str) -> Any:
        def run(*args: Any) -> str:
            self.ran[name] += 1
            self.order.append(name)
            return f"{name}({', '.join(map(str, args))})"

        run.__qualname__ = name
        return run


async def fire(rig: Rig, task_id: str) -> None:
    """Fire what is due next, as the ledger would."""
    task = await rig.task(task_id)
    due = timers_of(task)
    timer_id = min(due, key=lambda name: due[name])
    rig.clock.advance(max(0.0, (due[timer_id] - rig.clock.now()).total_seconds()))
    made = envelope(
        e.TimerFired(timer_id=timer_id), to=task.owner, sender="ledger", task_id=task_id
    )
    await rig.bus.append([made], {})


async def resting(rig: Rig, task_id: str, *, since: int = 0) -> Task:
    """Wait until a leg is suspended or parked, after a version."""
    with anyio.fail_after(10):
        async with rig.bus.tail("s0", after=0) as batches:
            async for _ in batches:
                task = await rig.task(task_id)
                if task.version > since and task.leg and task.leg.idle:
                    return task
    raise AssertionError
