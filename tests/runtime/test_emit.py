"""What a handler emits is recorded once, in order, however often it runs over its record."""

from dataclasses import replace
from typing import Any

import anyio
import pytest

from mesh import Agent, Context, Fatal, Reply, Retryable
from mesh.agent.outcome import Outcome
from mesh.agent.payload import encode_value
from mesh.core import event as e
from mesh.core.task import State
from tests.make import envelope
from tests.runtime.rig import FAST, Rig, running

pytestmark = pytest.mark.anyio


async def shown(rig: Rig, task_id: str) -> list[e.ProgressReported]:
    events = [r.envelope.event for r in await rig.history(task_id) if r.envelope]
    found = [event for event in events if isinstance(event, e.ProgressReported)]
    runs: dict[str, int] = {}
    for event in found:
        # The chunks of a run are recorded without a gap, from the first one on.
        assert event.first_number == runs.get(event.run, 0) + 1
        assert event.last_number >= event.first_number
        runs[event.run] = event.last_number
    return found


async def text_of(rig: Rig, task_id: str) -> str:
    return "".join(event.text for event in await shown(rig, task_id))


async def test_each_of_many_branches_that_come_back_together_is_heard() -> None:
    rig, gate = Rig(), anyio.Event()
    parent, child = Agent("parent"), Agent("child")

    @child.on(int)
    async def work(ctx: Context, n: int) -> Outcome:
        await gate.wait()
        return Reply(n)

    @parent.on(int)
    async def handle(ctx: Context, n: int) -> Outcome:
        async def one(i: int) -> int:
            found: int = await ctx.delegate("child", i)
            ctx.emit(f"{found},")
            return found

        return Reply(await ctx.gather(*(one(i) for i in range(n))))

    limits = replace(FAST, concurrency=20)
    task_id = await rig.submit("parent", 20)
    async with running(rig.worker(child, limits)), running(rig.worker(parent, limits)):
        await rig.until(task_id, State.WORKING, version=22)
        gate.set()  # all of them report before the parent reads again
        await rig.until(task_id, State.COMPLETED)
    said = (await text_of(rig, task_id)).rstrip(",").split(",")
    assert sorted(map(int, said)) == list(range(20))


@pytest.mark.parametrize("always_replay", [False, True])
async def test_a_run_says_again_nothing_that_is_recorded(always_replay: bool) -> None:
    rig, agent = Rig(), Agent("worker")
    runs = 0

    @agent.on(str)
    async def handle(ctx: Context, text: str) -> Outcome:
        nonlocal runs
        runs += 1
        ctx.emit("a")
        await ctx.signal("go")  # asks for nothing that has an ordinal
        ctx.emit("b")
        await ctx.step("step", ctx.emit, "[step]")
        ctx.emit("c")
        await ctx.signal("go")
        ctx.emit("d")
        return Reply(text)

    task_id = await rig.submit("worker", "x")
    limits = replace(FAST, always_replay=always_replay)
    for _ in range(2):
        async with running(rig.worker(agent, limits)):
            await suspended(rig, task_id)
            await rig.acked("worker")
        signal = envelope(
            e.Signaled(name="go", value=encode_value(1)),
            to="worker",
            task_id=task_id,
            event_id=f"{runs:032x}",
        )
        await rig.bus.append([signal], {})
    async with running(rig.worker(agent, limits)):
        await rig.until(task_id, State.COMPLETED)
    assert runs >= 3
    events = await shown(rig, task_id)
    assert [(event.text, event.by_step) for event in events] == [
        ("a", False),
        ("b", False),
        ("[step]", True),
        ("c", False),
        ("d", False),
    ]


async def suspended(rig: Rig, task_id: str) -> None:
    with anyio.fail_after(10):
        async with rig.bus.tail("s0", after=0) as batches:
            async for _ in batches:
                leg = (await rig.task(task_id)).leg
                if leg is not None and leg.idle:
                    return


async def test_a_failed_run_says_its_part_once_and_a_failed_step_says_its_again() -> None:
    rig, agent = Rig(), Agent("worker")
    tried = 0

    @agent.on(str)
    async def handle(ctx: Context, text: str) -> Outcome:
        nonlocal tried
        ctx.emit("begin ")

        def flaky() -> None:
            nonlocal tried
            tried += 1
            ctx.emit(f"try {tried} ")
            if tried == 1:
                raise Retryable("not yet", after=0)

        await ctx.step("flaky", flaky)
        ctx.emit("middle ")
        if tried < 3:
            tried += 1
            raise Retryable("once more", after=0)
        ctx.emit("end")
        return Reply(text)

    task_id = await rig.submit("worker", "x")
    async with running(rig.worker(agent)):
        await rig.until(task_id, State.COMPLETED)
    assert await text_of(rig, task_id) == "begin try 1 try 2 middle end"


async def test_what_a_run_said_before_it_failed_for_good_is_recorded_and_undos_say_nothing() -> (
    None
):
    rig, agent = Rig(), Agent("worker")
    undone: list[str] = []

    @agent.on(str)
    async def handle(ctx: Context, text: str) -> Outcome:
        def undo(name: str) -> None:
            ctx.emit("from the undo")
            undone.append(name)

        ctx.emit("begin ")
        ctx.compensate(undo, "x")
        await ctx.step("step", ctx.emit, "step ")
        ctx.emit("last words")
        raise Fatal("no")

    task_id = await rig.submit("worker", "x")
    async with running(rig.worker(agent)):
        await rig.until(task_id, State.FAILED)
    assert undone == ["x"]
    assert await text_of(rig, task_id) == "begin step last words"


async def test_a_long_text_is_recorded_in_pieces_of_one_source_each() -> None:
    rig, agent = Rig(), Agent("worker")
    long: list[Any] = ["x" * 200_000, "ß" * 70_000]

    @agent.on(str)
    async def handle(ctx: Context, text: str) -> Outcome:
        ctx.emit("")
        ctx.emit(long[0])
        await ctx.step("step", ctx.emit, long[1])
        return Reply(text)

    task_id = await rig.submit("worker", "x")
    async with running(rig.worker(agent)):
        await rig.until(task_id, State.COMPLETED)
    events = await shown(rig, task_id)
    assert "".join(event.text for event in events if not event.by_step) == long[0]
    assert "".join(event.text for event in events if event.by_step) == long[1]
    assert max(len(event.text) for event in events) <= 64 * 1024
    assert len(events) == 6
