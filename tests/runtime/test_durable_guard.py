"""What keeps tasks from going round, going deep and going on without end."""

from datetime import timedelta

import anyio
import pytest

from mesh import Agent, ChildFailed, Context, Handoff, Reply, Retry
from mesh.agent.outcome import Outcome
from mesh.agent.payload import encode_value
from mesh.core import event as e
from mesh.core.guards import MAX_DEPTH, MAX_SWAPS
from mesh.core.task import State
from tests.make import envelope
from tests.runtime.durable import World, fire, resting
from tests.runtime.rig import Rig, running

pytestmark = pytest.mark.anyio


async def test_a_cycle_of_agents_that_wait_for_one_another_fails_with_its_chain() -> None:
    rig = Rig()
    one, two = Agent("one"), Agent("two")

    @one.on(str)
    async def ask_two(ctx: Context, text: str) -> Outcome:
        return Reply(await ctx.delegate("two", text))

    @two.on(str)
    async def ask_one(ctx: Context, text: str) -> Outcome:
        return Reply(await ctx.delegate("one", text))

    async with running(rig.worker(one), rig.worker(two)):
        task_id = await rig.submit("one", "x")
        task = await rig.until(task_id, State.FAILED)
        assert task.failure is not None
        assert task.failure.code == ChildFailed.code
        assert task.failure.details["failure_code"] == "guard.cycle"
        assert "one -> two -> one" in task.failure.message


def descending(n: int) -> Agent:
    """An agent that delegates to the next one."""
    agent = Agent(f"a{n}")

    @agent.on(str)
    async def handle(ctx: Context, text: str) -> Outcome:
        return Reply(await ctx.delegate(f"a{n + 1}", text))

    return agent


async def test_children_may_go_so_deep_and_no_deeper() -> None:
    rig = Rig()
    workers = [rig.worker(descending(n)) for n in range(MAX_DEPTH + 2)]
    async with running(*workers):
        task = await rig.until(await rig.submit("a0", "x"), State.FAILED)
    assert task.failure is not None
    assert f"delegated {MAX_DEPTH + 1} deep already" in task.failure.message


async def test_two_agents_that_swap_a_task_without_progress_are_stopped() -> None:
    rig = Rig()
    one, two = Agent("one"), Agent("two")

    @one.on(str)
    async def there(ctx: Context, text: str) -> Outcome:
        return Handoff("two", text)

    @two.on(str)
    async def back(ctx: Context, text: str) -> Outcome:
        return Handoff("one", text)

    async with running(rig.worker(one), rig.worker(two)):
        task = await rig.until(await rig.submit("one", "x"), State.FAILED)
    assert task.failure is not None
    assert task.failure.code == "guard.swap"
    assert task.failure.details["swaps"] == str(MAX_SWAPS)
    assert task.hops == MAX_SWAPS + 1


async def test_a_child_at_an_agent_nobody_ever_registered_fails_the_task_by_name() -> None:
    rig = Rig()
    agent = Agent("worker")

    @agent.on(str)
    async def handle(ctx: Context, text: str) -> Outcome:
        try:
            await ctx.delegate("nobody", text)
        except Exception:  # noqa: BLE001  # what ends a task cannot be caught
            return Reply("caught")
        return Reply()

    async with running(rig.worker(agent)):
        task = await rig.until(await rig.submit("worker", "x"), State.FAILED)
    assert task.failure is not None
    assert "nobody" in task.failure.message


@pytest.mark.parametrize("ends", ["cancel", "deadline"])
async def test_a_parked_task_can_be_cancelled_and_its_deadline_passes(ends: str) -> None:
    rig, world = Rig(), World()

    def declared(name: str) -> Agent:
        agent = Agent("worker")

        @agent.on(str)
        async def handle(ctx: Context, text: str) -> Outcome:
            ctx.compensate(world.do("undo"))
            await ctx.step(name, world.do(name))
            await ctx.sleep(10)
            return Reply()

        return agent

    deadline = rig.clock.now() + timedelta(seconds=100)
    task_id = await rig.submit("worker", "x", deadline=deadline)
    async with running(rig.worker(declared("a"))):
        task = await resting(rig, task_id)
    await fire(rig, task_id)
    async with running(rig.worker(declared("b"))):
        task = await resting(rig, task_id, since=task.version + 1)
        assert task.leg is not None
        assert task.leg.parked is not None
        if ends == "cancel":
            await rig.cancel(task_id)
            await rig.until(task_id, State.CANCELED)
        else:
            await fire(rig, task_id)
            task = await rig.until(task_id, State.FAILED)
            assert task.failure is not None
            assert task.failure.code == "guard.deadline"
    assert world.ran == {"a": 1, "undo": 1}


async def test_a_handler_and_a_step_may_take_so_long_and_no_longer() -> None:
    rig = Rig()
    agent = Agent("worker")

    @agent.on(str, retry=Retry(attempts=1, timeout_s=0.05))
    async def handle(ctx: Context, text: str) -> Outcome:
        await anyio.sleep(60)
        return Reply()

    @agent.on(int)
    async def step(ctx: Context, n: int) -> Outcome:
        await ctx.step("slow", anyio.sleep, 60, retry=Retry(attempts=1, timeout_s=0.05))
        return Reply()

    async with running(rig.worker(agent)):
        for value, said in (("x", "the handler took longer"), (1, "`slow` took longer")):
            task = await rig.until(await rig.submit("worker", value), State.FAILED)
            assert task.failure is not None
            assert said in task.failure.message
            assert task.dead_letter is not None


async def test_an_undo_that_kills_its_process_each_time_is_left_out_and_the_others_run() -> None:
    rig, world = Rig(), World()
    agent = Agent("worker")

    @agent.on(str)
    async def handle(ctx: Context, text: str) -> Outcome:
        ctx.compensate(world.do("good"))
        ctx.compensate(world.do("deadly"))
        await ctx.step("a", world.do("a"))
        await ctx.sleep(10)
        return Reply()

    task_id = await rig.submit("worker", "x")
    async with running(rig.worker(agent)):
        await resting(rig, task_id)
    await rig.cancel(task_id)
    task = await rig.task(task_id)
    # Claims without an end, as processes leave them that die in the undo.
    for n in range(5):
        claim = envelope(e.Resumed(wake_position=n), sender="worker", task_id=task_id)
        await rig.bus.append([claim], {task_id: (await rig.task(task_id)).moved})
    async with rig.bus.inbox("worker", max_held=1) as inbox:
        async for delivery in inbox:
            await delivery.nak(0)
            break
    assert task.turn is not None
    async with running(rig.worker(agent)):
        await rig.until(task_id, State.CANCELED)
    assert world.ran == {"a": 1, "good": 1}
    undone = [r.envelope.event for r in await rig.history(task_id) if r.envelope]
    failures = [x.failure for x in undone if isinstance(x, e.StepRecorded) and x.failure]
    assert [failure.code for failure in failures] == ["agent.attempts_exhausted"]


async def test_a_submit_that_comes_again_as_if_it_were_new_does_not_run_its_steps_again() -> None:
    rig, world = Rig(), World()
    agent = Agent("worker")

    @agent.on(str)
    async def handle(ctx: Context, text: str) -> Outcome:
        await ctx.step("a", world.do("a"))
        return Reply()

    task_id = await rig.submit("worker", "x")
    # Another process ran the step and recorded it; then a broker was killed, and lost the count.
    by = {"sender": "worker", "task_id": task_id, "instance": "other"}
    claim, done = (
        envelope(e.WorkStarted(), **by),
        envelope(e.StepRecorded(ordinal=1, name="a", value=encode_value("x")), **by),
    )
    moved = (await rig.task(task_id)).moved
    await rig.bus.append([claim, done], {task_id: moved})
    async with running(rig.worker(agent)):
        with anyio.fail_after(5):
            while not (await rig.bus.backlog("worker")).held:
                await anyio.wait_all_tasks_blocked()
        await anyio.wait_all_tasks_blocked()
        assert world.ran == {}
        rig.clock.advance(11)  # its lease runs out: now it comes as a redelivery
        await rig.until(task_id, State.COMPLETED)
    assert world.ran == {}
