"""What authors write that is not as it should be: nothing is lost by it, and it is said."""

import gc
import warnings
from collections import Counter

import anyio
import pytest

from mesh import Agent, Context, Reply
from mesh.agent.outcome import Outcome
from mesh.core.task import State
from tests.runtime.durable import fire, resting
from tests.runtime.rig import Rig, running

pytestmark = pytest.mark.anyio


async def test_a_branch_that_was_never_started_is_closed_without_a_warning() -> None:
    rig, agent = Rig(), Agent("worker")

    @agent.on(str)
    async def handle(ctx: Context, text: str) -> Outcome:
        async def branch() -> None:
            await ctx.sleep(1)

        ctx.gather(branch(), branch())
        return Reply()

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        async with running(rig.worker(agent)):
            task_id = await rig.submit("worker", "x")
            await rig.until(task_id, State.COMPLETED)
        gc.collect()
    assert [w.message for w in warned] == []


async def test_a_gather_of_what_nobody_records_is_refused() -> None:
    rig, agent = Rig(), Agent("worker")

    @agent.on(str)
    async def handle(ctx: Context, text: str) -> Outcome:
        await ctx.gather(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        return Reply()

    async with running(rig.worker(agent)):
        task_id = await rig.submit("worker", "x")
        task = await rig.until(task_id, State.FAILED)
    assert task.failure is not None
    assert task.failure.code == "agent.handler_invalid"


async def test_what_a_handler_cleans_up_when_it_lets_go_does_not_end_its_task() -> None:
    rig, ran, agent = Rig(), Counter[str](), Agent("worker")

    @agent.on(str)
    async def handle(ctx: Context, text: str) -> Outcome:
        try:
            await ctx.sleep(10)
        finally:
            ran["finally"] += 1
            if ran["finally"] == 1:
                ctx.spend("tokens", 1000)
        return Reply("slept")

    async with running(rig.worker(agent)):
        task_id = await rig.submit("worker", "x", budget={"tokens": 100})
        await resting(rig, task_id)
        await rig.acked("worker")
        await fire(rig, task_id)
        task = await rig.until(task_id, State.COMPLETED, State.FAILED)
    assert (task.state, task.spent) == (State.COMPLETED, {})


async def test_what_is_asked_for_inside_a_step_is_refused() -> None:
    """It would not be asked for again when the step's result comes from the record."""
    rig, agent = Rig(), Agent("worker")

    @agent.on(str)
    async def handle(ctx: Context, text: str) -> Outcome:
        async def work() -> str:
            ctx.spend("tokens", 1)
            return "done"

        found = await ctx.step("work", work)
        await ctx.sleep(10)
        return Reply(found)

    async with running(rig.worker(agent)):
        task_id = await rig.submit("worker", "x")
        task = await rig.until(task_id, State.FAILED)
    assert task.failure is not None
    assert "in the handler itself" in task.failure.message


async def test_a_handler_that_swallows_everything_waits_all_the_same() -> None:
    rig, agent = Rig(), Agent("worker")

    @agent.on(str)
    async def handle(ctx: Context, text: str) -> Outcome:
        try:
            await ctx.sleep(10)
        except BaseException:  # noqa: BLE001  # as authors do
            return Reply("swallowed")
        return Reply("slept")

    async with running(rig.worker(agent)):
        task_id = await rig.submit("worker", "x")
        await resting(rig, task_id)
        await rig.acked("worker")
        await fire(rig, task_id)
        task = await rig.until(task_id, State.COMPLETED)
    assert task.result is not None
    assert task.result.data == b"slept"


async def test_one_operation_may_be_awaited_by_several_and_none_gathered() -> None:
    rig, ran, agent = Rig(), Counter[str](), Agent("worker")

    def work() -> int:
        ran["work"] += 1
        return ran["work"]

    @agent.on(str)
    async def handle(ctx: Context, text: str) -> Outcome:
        one = ctx.step("work", work)

        async def again() -> int:
            return await one

        found = await ctx.gather(one, one, again(), again(), ctx.gather(one))
        return Reply([*found, await one, await one, await ctx.gather()])

    async with running(rig.worker(agent)):
        task_id = await rig.submit("worker", "x")
        task = await rig.until(task_id, State.COMPLETED)
    assert task.result is not None
    assert task.result.data == b"[1,1,1,1,[1],1,1,[]]"


async def test_a_race_of_nothing_fails_with_its_reason() -> None:
    rig, agent = Rig(), Agent("worker")

    @agent.on(str)
    async def handle(ctx: Context, text: str) -> Outcome:
        await ctx.race()
        return Reply()

    async with running(rig.worker(agent)):
        task_id = await rig.submit("worker", "x")
        task = await rig.until(task_id, State.FAILED)
    assert task.failure is not None
    assert "of nothing" in task.failure.message


async def test_a_step_that_cancels_itself_failed_and_its_worker_goes_on() -> None:
    rig, agent = Rig(), Agent("worker")

    @agent.on(str)
    async def handle(ctx: Context, text: str) -> Outcome:
        async def work() -> None:
            raise anyio.get_cancelled_exc_class()

        if text == "bad":
            await ctx.step("work", work)
        return Reply()

    async with running(rig.worker(agent)):
        bad = await rig.submit("worker", "bad")
        await rig.until(bad, State.FAILED, version=3)
        good = await rig.submit("worker", "good")
        await rig.until(good, State.COMPLETED)
