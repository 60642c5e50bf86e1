"""How durable handlers fail, are cancelled, park, and undo."""

from dataclasses import replace

import anyio
import pytest

from mesh import Agent, Context, Fail, Fatal, Reply, Retry, StepFailed
from mesh.agent.outcome import Outcome
from mesh.core import event as e
from mesh.core.task import State
from tests.make import envelope
from tests.runtime.durable import World, fire, resting
from tests.runtime.rig import FAST, Rig, running

pytestmark = pytest.mark.anyio


async def test_undos_run_in_reverse_when_the_task_fails() -> None:
    rig, world = Rig(), World()
    agent = Agent("worker")

    @agent.on(str)
    async def handle(ctx: Context, text: str) -> Outcome:
        for name in ("a", "b"):
            ctx.compensate(world.do(f"undo-{name}"))
            await ctx.step(name, world.do(name))
        return Fail("no")

    task_id = await rig.submit("worker", "x")
    async with running(rig.worker(agent)):
        await rig.until(task_id, State.FAILED)
    assert world.order == ["a", "b", "undo-b", "undo-a"]


async def test_a_cancel_of_a_waiting_task_undoes_and_goes_down() -> None:
    rig, world = Rig(), World()
    parent, child = Agent("parent"), Agent("child")

    @child.on(str)
    async def wait(ctx: Context, text: str) -> Outcome:
        ctx.compensate(world.do("undo-child"))
        await ctx.step("child", world.do("child"))
        await ctx.sleep(1000)
        return Reply()

    @parent.on(str)
    async def handle(ctx: Context, text: str) -> Outcome:
        ctx.compensate(world.do("undo"))
        await ctx.step("do", world.do("do"))
        return Reply(await ctx.delegate("child", text))

    async with running(rig.worker(child), rig.worker(parent)):
        task_id = await rig.submit("parent", "x")
        task = await resting(rig, task_id)
        assert task.leg is not None
        child_id = task.leg.children[0].id
        await resting(rig, child_id)
        await rig.cancel(task_id)
        await rig.until(task_id, State.CANCELED)
        await rig.until(child_id, State.CANCELED)
        await rig.acked("parent")
    assert world.ran == {"do": 1, "child": 1, "undo": 1, "undo-child": 1}
    assert (await rig.kinds(task_id))[-1] == "child_finished"


async def test_a_run_that_leaves_its_record_parks_and_a_mended_one_goes_on() -> None:
    rig, world = Rig(), World()

    def declared(second: str) -> Agent:
        agent = Agent("worker")

        @agent.on(str)
        async def handle(ctx: Context, text: str) -> Outcome:
            await ctx.step("a", world.do("a"))
            await ctx.step(second, world.do(second))
            await ctx.sleep(10)
            return Reply("done")

        return agent

    task_id = await rig.submit("worker", "x")
    async with running(rig.worker(declared("b"))):
        await resting(rig, task_id)
    await fire(rig, task_id)
    async with running(rig.worker(declared("c"))):
        task = await resting(rig, task_id, since=len(await rig.history(task_id)))
        await rig.acked("worker")
    assert task.leg is not None
    parked = task.leg.parked
    assert parked is not None
    assert (parked.ordinal, parked.recorded, parked.asked) == (2, "step `b`", "step `c`")
    async with running(rig.worker(declared("b"))):
        made = envelope(e.Unparked(), to="worker", task_id=task_id)
        await rig.bus.append([made], {task_id: task.moved})
        await rig.until(task_id, State.COMPLETED)
    assert world.ran == {"a": 1, "b": 1}


async def test_a_step_that_fails_is_tried_again_and_its_last_failure_can_be_caught() -> None:
    rig, world = Rig(), World()
    agent = Agent("worker")

    def broken() -> str:
        world.ran["broken"] += 1
        raise ValueError(f"no {world.ran['broken']}")

    @agent.on(str)
    async def handle(ctx: Context, text: str) -> Outcome:
        try:
            await ctx.step("broken", broken, retry=Retry(attempts=2, backoff=FAST_BACKOFF))
        except StepFailed as error:
            return Reply(str(error))
        return Reply()

    task_id = await rig.submit("worker", "x")
    async with running(rig.worker(agent, replace(FAST, hold_s=0))):
        await resting(rig, task_id)
        await fire(rig, task_id)
        task = await rig.until(task_id, State.COMPLETED)
    assert task.result is not None
    assert task.result.data == b"step `broken` failed: no 2"
    kinds = await rig.kinds(task_id)
    paused = ["attempt_failed", "timer_set", "suspended", "timer_fired", "resumed"]
    assert kinds == ["submitted", "work_started", *paused, "step_recorded", "completed"]


FAST_BACKOFF = replace(FAST.backoff, first_s=0.001)


async def test_a_step_that_is_fatal_fails_the_task_and_one_that_is_used_up_is_a_dead_letter() -> (
    None
):
    for error, state in ((Fatal("never"), False), (ValueError("no"), True)):
        rig = Rig()
        agent = Agent("worker")

        def broken(error: Exception = error) -> None:
            raise error

        @agent.on(str)
        async def handle(ctx: Context, text: str) -> Outcome:
            await ctx.step("broken", broken, retry=Retry(attempts=1))
            return Reply()

        task_id = await rig.submit("worker", "x")
        async with running(rig.worker(agent)):
            task = await rig.until(task_id, State.FAILED)
        assert (task.dead_letter is not None) == state


async def test_a_budget_is_reserved_down_the_tree_and_never_exceeded() -> None:
    rig = Rig()
    parent, child = Agent("parent"), Agent("child")

    @child.on(int)
    async def work(ctx: Context, n: int) -> Outcome:
        ctx.spend("tokens", n)
        return Reply(n)

    @parent.on(int)
    async def handle(ctx: Context, n: int) -> Outcome:
        await ctx.delegate("child", n, budget={"tokens": 60})
        await ctx.delegate("child", n, budget={"tokens": 60})
        parts = [ctx.delegate("child", 61, budget={"tokens": 30}), ctx.delegate("child", 1)]
        found = await ctx.gather(*parts, failures="collect")
        return Reply([error.failure_code for error in found])

    async with running(rig.worker(child), rig.worker(parent)):
        task_id = await rig.submit("parent", 30, budget={"tokens": 100})
        task = await rig.until(task_id, State.COMPLETED)
        assert task.result is not None
        assert task.result.data == b'["guard.budget","guard.budget"]'
        assert task.spent == {"tokens": 60}
        task_id = await rig.submit("parent", 60, budget={"tokens": 100})
        task = await rig.until(task_id, State.FAILED)
    assert task.failure is not None
    assert task.failure.code == "guard.budget"
    assert task.failure.details["spent"] == "60"


async def test_an_undo_that_ran_while_a_cancel_came_does_not_run_again() -> None:
    rig, world = Rig(), World()
    agent = Agent("worker")
    undoing, go_on = anyio.Event(), anyio.Event()

    async def undo() -> None:
        world.ran["undo"] += 1
        undoing.set()
        await go_on.wait()

    @agent.on(str)
    async def handle(ctx: Context, text: str) -> Outcome:
        ctx.compensate(undo)
        await ctx.step("a", world.do("a"))
        return Fail("no")

    task_id = await rig.submit("worker", "x")
    async with running(rig.worker(agent)):
        await undoing.wait()
        await rig.cancel(task_id)
        go_on.set()
        await rig.until(task_id, State.CANCELED)
    assert world.ran == {"a": 1, "undo": 1}


async def test_a_handler_that_does_not_take_its_input_any_more_parks_what_it_began() -> None:
    rig, world = Rig(), World()
    agent, changed = Agent("worker"), Agent("worker")

    @agent.on(str)
    async def handle(ctx: Context, text: str) -> Outcome:
        ctx.compensate(world.do("undo"))
        await ctx.step("a", world.do("a"))
        await ctx.sleep(10)
        return Reply()

    @changed.on(int)
    async def other(ctx: Context, n: int) -> Outcome:
        return Reply()

    task_id = await rig.submit("worker", "x")
    async with running(rig.worker(agent)):
        task = await resting(rig, task_id)
    await fire(rig, task_id)
    async with running(rig.worker(changed)):
        task = await resting(rig, task_id, since=task.version + 1)
    assert task.leg is not None
    assert task.leg.parked is not None
    assert "not accepted" in task.leg.parked.asked
    assert world.ran == {"a": 1}
