"""Steps, waits and children of a handler, on the in-process ports."""

from collections import Counter
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import anyio
import pytest

from mesh import Agent, ChildFailed, Context, Fail, Fatal, Reply, Retry, Retryable, StepFailed
from mesh.agent.outcome import Outcome
from mesh.agent.payload import encode_value
from mesh.core import event as e
from mesh.core.projection import timers_of
from mesh.core.task import State, Task
from tests.make import envelope
from tests.runtime.rig import FAST, Rig, running

pytestmark = pytest.mark.anyio


@dataclass
class Note:
    text: str
    score: int = 0


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
