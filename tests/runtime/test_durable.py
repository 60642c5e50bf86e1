"""Steps, waits and children of a handler, on the in-process ports."""

from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from mesh import Agent, ChildFailed, Context, Fail, Reply, Retryable
from mesh.agent.outcome import Outcome
from mesh.agent.payload import encode_value
from mesh.core import event as e
from mesh.core.task import State
from tests.make import envelope
from tests.runtime.durable import World, fire, resting
from tests.runtime.rig import FAST, Rig, running

pytestmark = pytest.mark.anyio


@dataclass
class Note:
    text: str
    score: int = 0


async def test_steps_run_once_and_come_back_as_their_types() -> None:
    rig, world = Rig(), World()
    agent = Agent("worker")

    def score(text: str) -> Note:
        world.ran["score"] += 1
        return Note(text, len(text))

    @agent.on(str)
    async def handle(ctx: Context, text: str) -> Outcome:
        first = await ctx.step("first", world.do("first"), text)
        note = await ctx.step("score", score, first)
        assert isinstance(note, Note)
        a, b = await ctx.gather(ctx.step("a", world.do("a")), ctx.step("b", world.do("b")))
        if world.ran["crash"] == 0:
            world.ran["crash"] += 1
            raise Retryable("once more", after=0)
        return Reply([first, note.score, a, b])

    task_id = await rig.submit("worker", "x")
    async with running(rig.worker(agent)):
        task = await rig.until(task_id, State.COMPLETED)
    assert task.result is not None
    assert task.result.data == b'["first(x)",8,"a()","b()"]'
    assert world.ran == {"first": 1, "score": 1, "a": 1, "b": 1, "crash": 1}


async def test_children_are_joined_and_their_failures_collected() -> None:
    rig = Rig()
    parent, child = Agent("parent"), Agent("child")

    @child.on(int)
    async def work(ctx: Context, n: int) -> Outcome:
        return Fail("odd") if n % 2 else Reply(n * 10)

    @parent.on(int)
    async def handle(ctx: Context, n: int) -> Outcome:
        parts = [ctx.delegate("child", i) for i in range(n)]
        found = await ctx.gather(*parts, failures="collect")
        return Reply([str(x) if isinstance(x, ChildFailed) else x for x in found])

    async with running(rig.worker(child), rig.worker(parent)):
        task_id = await rig.submit("parent", 5)
        task = await rig.until(task_id, State.COMPLETED)
        await rig.acked("parent")
        await rig.acked("child")
    assert task.result is not None
    assert task.result.data.count(b"odd") == 2
    assert await rig.kinds(task_id) == [
        "submitted",
        "work_started",
        *["delegated"] * 5,
        "suspended",
        *["child_finished"] * 5,
        "completed",
    ]


async def test_a_sleeper_holds_nothing_and_goes_on_elsewhere() -> None:
    rig, world = Rig(), World()
    agent = Agent("worker")

    @agent.on(str)
    async def handle(ctx: Context, text: str) -> Outcome:
        before = ctx.now()
        await ctx.step("a", world.do("a"))
        await ctx.sleep(timedelta(days=3))
        await ctx.step("b", world.do("b"))
        return Reply((ctx.now() - before).total_seconds())

    task_id = await rig.submit("worker", "x")
    async with running(rig.worker(agent)):
        await resting(rig, task_id)
        await rig.acked("worker")
    async with running(rig.worker(agent)):
        await fire(rig, task_id)
        task = await rig.until(task_id, State.COMPLETED)
    assert task.result is not None
    assert float(task.result.data) == 3 * 86400
    assert world.ran == {"a": 1, "b": 1}


async def test_a_question_is_answered_or_takes_its_default() -> None:
    for answered in (True, False):
        rig = Rig()
        agent = Agent("worker")

        @agent.on(str)
        async def handle(ctx: Context, text: str) -> Outcome:
            return Reply(await ctx.ask("sure?", bool, expires=60, default=False))

        task_id = await rig.submit("worker", "x")
        async with running(rig.worker(agent)):
            task = await resting(rig, task_id)
            assert task.state is State.INPUT_REQUIRED
            assert task.leg is not None
            if answered:
                event = e.InputReceived(
                    request_id=task.leg.questions[0].id, answer=encode_value(True)
                )
                await rig.bus.append([envelope(event, to="worker", task_id=task_id)], {})
            else:
                await fire(rig, task_id)
            task = await rig.until(task_id, State.COMPLETED)
        assert task.result is not None
        assert task.result.data == (b"true" if answered else b"false")


async def test_a_signal_is_kept_for_the_agent_that_has_the_task() -> None:
    rig = Rig()
    agent = Agent("worker")

    @agent.on(str)
    async def handle(ctx: Context, text: str) -> Outcome:
        return Reply([await ctx.signal("go"), await ctx.signal("go")])

    task_id = await rig.submit("worker", "x")
    async with running(rig.worker(agent)):
        await resting(rig, task_id)
        for n in (1, 2):
            event = e.Signaled(name="go", value=encode_value(n))
            await rig.bus.append([envelope(event, to="worker", task_id=task_id)], {})
        task = await rig.until(task_id, State.COMPLETED)
    assert task.result is not None
    assert task.result.data == b"[1,2]"


@pytest.mark.parametrize("always_replay", [False, True])
async def test_a_race_is_won_by_the_lowest_position(always_replay: bool) -> None:
    rig, world = Rig(), World()
    agent, child = Agent("worker"), Agent("child")

    @child.on(str)
    async def quick(ctx: Context, text: str) -> Outcome:
        return Reply("child")

    @agent.on(str)
    async def handle(ctx: Context, text: str) -> Outcome:
        index, value = await ctx.race(ctx.sleep(1000), ctx.delegate("child", "x"))
        later = await ctx.step("later", world.do("later"), index, value)

        async def two(name: str) -> str:
            await ctx.step(name, world.do(name))
            return await ctx.step(name + "2", world.do(name + "2"))

        both = await ctx.gather(two("p"), two("q"))
        return Reply([later, *both])

    limits = replace(FAST, always_replay=always_replay)
    async with running(rig.worker(agent, limits), rig.worker(child)):
        task_id = await rig.submit("worker", "x")
        task = await rig.until(task_id, State.COMPLETED)
    assert task.result is not None
    assert task.result.data == b'["later(1, child)","p2()","q2()"]'
    assert set(world.ran.values()) == {1}


async def test_a_gather_raises_the_first_failure_though_it_is_suspended() -> None:
    rig = Rig()
    parent, child = Agent("parent"), Agent("child")

    @child.on(str)
    async def work(ctx: Context, text: str) -> Outcome:
        return Fail("no")

    @parent.on(str)
    async def handle(ctx: Context, text: str) -> Outcome:
        try:
            await ctx.gather(ctx.delegate("child", "x"), ctx.signal("never"))
        except ChildFailed as error:
            return Reply(error.reason)
        return Reply()

    async with running(rig.worker(child), rig.worker(parent)):
        task = await rig.until(await rig.submit("parent", "x"), State.COMPLETED)
    assert task.result is not None
    assert task.result.data == b"no"
