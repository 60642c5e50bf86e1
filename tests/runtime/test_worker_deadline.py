"""A deadline ends a task: before it runs, or while it does."""

import logging
import time
from datetime import timedelta

import anyio
import pytest

from mesh.agent.context import Context
from mesh.agent.definition import Agent
from mesh.agent.outcome import Reply
from mesh.agent.ports import Limits
from mesh.core.task import State
from tests.runtime.rig import Rig, running
from tests.runtime.sample_agent import echo, failing, holding

pytestmark = pytest.mark.anyio


async def test_a_task_taken_up_too_late_never_runs() -> None:
    rig = Rig()
    task_id = await rig.submit("echo", "hi", deadline=rig.clock.now() - timedelta(seconds=1))
    async with running(rig.worker(failing())):
        task = await rig.until(task_id, State.FAILED)
        await rig.acked("echo")
    assert task.failure is not None
    assert task.failure.code == "guard.deadline"
    assert await rig.kinds(task_id) == ["submitted", "failed"]


async def test_a_handler_is_ended_at_the_deadline() -> None:
    rig, started = Rig(), anyio.Event()
    async with running(rig.worker(holding(started, anyio.Event()))):
        deadline = rig.clock.now() + timedelta(seconds=0.05)
        task_id = await rig.submit("echo", "hi", deadline=deadline)
        task = await rig.until(task_id, State.FAILED)
        await rig.acked("echo")
    assert task.failure is not None
    assert task.failure.details["deadline"] == deadline.isoformat()


async def test_a_task_in_time_is_not_touched() -> None:
    rig = Rig()
    async with running(rig.worker(echo())):
        deadline = rig.clock.now() + timedelta(seconds=60)
        await rig.until(await rig.submit("echo", "hi", deadline=deadline), State.COMPLETED)


async def test_a_handler_that_blocks_the_loop_is_named(caplog: pytest.LogCaptureFixture) -> None:
    agent, rig = Agent("echo"), Rig()

    @agent.on(str)
    async def run(ctx: Context, text: str) -> Reply:
        await anyio.lowlevel.checkpoint()
        time.sleep(1.6)  # noqa: ASYNC251  # the mistake under test
        return Reply(text)

    limits = Limits(claim_after_s=0.02)
    with caplog.at_level(logging.WARNING):
        async with running(rig.worker(agent, limits)):
            await rig.until(await rig.submit("echo", "hi"), State.COMPLETED)
    assert "a handler of `echo` blocks it" in caplog.text
