"""Holders whose lease ran out: they run nothing that somebody else may have recorded."""

import logging
from collections import Counter
from dataclasses import replace

import anyio
import pytest

from mesh import Agent, Context, Fail, Reply, Retry
from mesh.agent.outcome import Outcome
from mesh.core.task import State
from tests.runtime.quick_loop import FlowingClock, run_quickly
from tests.runtime.rig import FAST, Rig, running

ALONE = replace(FAST, concurrency=1)


def test_a_holder_that_lost_its_lease_in_a_pause_does_not_try_the_step_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL, "mesh")
    ran: Counter[str] = Counter()

    def declared(rig: Rig, other: anyio.Event) -> Agent:
        agent = Agent("worker")

        def flaky() -> None:
            ran["flaky"] += 1
            if ran["flaky"] == 1:
                rig.clock.advance(11)  # its lease has run out when it pauses
                raise ValueError("on purpose")

        @agent.on(str)
        async def handle(ctx: Context, text: str) -> Outcome:
            await ctx.step("before", str)
            await ctx.step("flaky", flaky, retry=Retry(attempts=3))
            other.set()
            await anyio.sleep(5)  # beyond the pause of the first holder
            return Reply()

        return agent

    async def scenario() -> None:
        rig, recorded = Rig(FlowingClock()), anyio.Event()
        agent = declared(rig, recorded)
        task_id = await rig.submit("worker", "x")
        async with running(rig.worker(agent, ALONE), rig.worker(agent, ALONE)):
            await recorded.wait()
            await rig.until(task_id, State.COMPLETED)

    run_quickly(scenario)
    assert ran["flaky"] == 2


def test_a_holder_that_lost_its_lease_in_a_pause_does_not_undo_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL, "mesh")
    ran: Counter[str] = Counter()

    async def scenario() -> None:
        rig, agent, undone = Rig(FlowingClock()), Agent("worker"), anyio.Event()

        async def second() -> None:
            ran["second"] += 1
            if ran["second"] == 1:
                rig.clock.advance(11)
                raise ValueError("on purpose")

        async def first() -> None:
            undone.set()
            await anyio.sleep(5)

        @agent.on(str)
        async def handle(ctx: Context, text: str) -> Outcome:
            ctx.compensate(first)
            ctx.compensate(second, retry=Retry(attempts=3))
            await ctx.step("do", str)
            return Fail("no")

        task_id = await rig.submit("worker", "x")
        limits = replace(ALONE, hold_s=1)
        async with running(rig.worker(agent, limits), rig.worker(agent, limits)):
            await undone.wait()
            await rig.until(task_id, State.FAILED)

    run_quickly(scenario)
    assert ran["second"] == 2
