"""An agent whose clock is behind the ledger's."""

from collections import Counter
from dataclasses import replace

import pytest

from mesh import Agent, Context, Reply, Retry
from mesh.agent.outcome import Outcome
from mesh.core import event as e
from mesh.core.backoff import Backoff
from mesh.core.projection import timers_of
from mesh.core.task import State
from tests.make import envelope
from tests.runtime.durable import resting
from tests.runtime.rig import FAST, Rig, running

pytestmark = pytest.mark.anyio


async def test_a_step_is_tried_again_when_its_timer_fired_whatever_the_clock_says() -> None:
    rig, ran, agent = Rig(), Counter[str](), Agent("worker")

    def work() -> None:
        ran["work"] += 1
        if ran["work"] == 1:
            raise ValueError("on purpose")

    @agent.on(str)
    async def handle(ctx: Context, text: str) -> Outcome:
        await ctx.step("work", work, retry=Retry(backoff=Backoff(first_s=100, limit_s=100)))
        return Reply()

    task_id = await rig.submit("worker", "x")
    async with running(rig.worker(agent, replace(FAST, hold_s=0))):
        (timer_id,) = timers_of(await resting(rig, task_id))
        fired = e.TimerFired(timer_id=timer_id)
        made = envelope(fired, to="worker", sender="ledger", task_id=task_id)
        await rig.bus.append([made], {})
        await rig.until(task_id, State.COMPLETED)
    assert ran["work"] == 2
