"""Undos whose processes die, on the in-process ports."""

from collections import Counter
from dataclasses import replace

import anyio
import pytest

from mesh import Agent, Context, Fail, Retry
from mesh.agent.outcome import Outcome
from mesh.core import event as e
from mesh.core.task import State
from tests.runtime.rig import FAST, Rig, run_worker, running

pytestmark = pytest.mark.anyio
AT_ONCE = replace(FAST, hold_s=0)


async def test_an_undo_that_failed_and_whose_process_died_runs_again() -> None:
    rig, ran, second = Rig(), Counter[str](), anyio.Event()
    agent = Agent("worker")

    async def undo() -> None:
        ran["undo"] += 1
        if ran["undo"] == 1:
            raise ValueError("not yet")
        if ran["undo"] == 2:
            second.set()
            await anyio.sleep_forever()

    @agent.on(str)
    async def handle(ctx: Context, text: str) -> Outcome:
        ctx.compensate(undo, retry=Retry(attempts=3))
        await ctx.step("do", str)
        return Fail("no")

    task_id = await rig.submit("worker", "x")
    with anyio.CancelScope() as killed:
        async with anyio.create_task_group() as tasks:
            await tasks.start(run_worker, rig.worker(agent, AT_ONCE))
            await second.wait()
            killed.cancel()
    async with running(rig.worker(agent, AT_ONCE)):
        await rig.until(task_id, State.FAILED)
    assert ran["undo"] == 3
    history = [record.envelope.event for record in await rig.history(task_id) if record.envelope]
    undone = [v for v in history if isinstance(v, e.StepRecorded) and v.undoes]
    assert [v.failure for v in undone] == [None]
