"""What careless authors write: each is told where, and none takes a process with it."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from mesh import Agent, Context, Fail, Reply, Retry
from mesh.agent.outcome import Outcome
from mesh.core.task import State, Task
from tests.runtime.rig import Rig, running

pytestmark = pytest.mark.anyio
ONCE = Retry(attempts=1)


async def ends(run: Callable[[Context], Awaitable[Any]], state: State = State.FAILED) -> Task:
    """How a task ends whose handler does this."""
    rig = Rig()
    agent = Agent("worker")

    @agent.on(str, retry=ONCE)
    async def handle(ctx: Context, text: str) -> Outcome:
        return Reply(await run(ctx))

    async with running(rig.worker(agent)):
        return await rig.until(await rig.submit("worker", "x"), state)


def leave() -> None:
    raise SystemExit(2)


async def leave_later() -> None:
    raise KeyboardInterrupt


async def leave_handler(ctx: Context) -> None:
    raise SystemExit(3)


MISTAKES: list[tuple[Callable[[Any], Any], str]] = [
    (lambda ctx: ctx.step("s", leave), "raised SystemExit(2)"),
    (lambda ctx: ctx.step("s", leave_later), "raised KeyboardInterrupt()"),
    (leave_handler, "raised SystemExit(3)"),
    (lambda ctx: ctx.emit(b"x"), "`ctx.emit` takes a str"),
    (lambda ctx: ctx.step(leave, "s"), "takes a function"),
    (lambda ctx: ctx.step("", leave), "takes a str"),
    (lambda ctx: ctx.delegate(Agent("other")), 'write "other"'),
    (lambda ctx: ctx.race(), "of nothing"),
    (lambda ctx: ctx.gather(failures="ignore"), '"raise" or "collect"'),
    (lambda ctx: ctx.ask("?", int, expires=1, default="x"), "no answer to `ask`"),
    (lambda ctx: ctx.ask("?", int, default=1), "when it `expires`"),
    (lambda ctx: ctx.ask("?", "bool"), "a type or a JSON Schema"),
    (lambda ctx: ctx.spend("tokens", 1.5), "whole numbers"),
    (lambda ctx: ctx.compensate(leave_later()), "takes a function"),
]


@pytest.mark.parametrize(("run", "said"), MISTAKES)
async def test_a_mistake_is_an_error_of_the_task_that_names_it(
    run: Callable[[Context], Awaitable[Any]], said: str
) -> None:
    task = await ends(run)
    assert task.failure is not None
    assert said in task.failure.message


async def test_what_is_never_awaited_is_named(caplog: pytest.LogCaptureFixture) -> None:
    async def forgets(ctx: Context) -> None:
        ctx.step("forgotten", leave)
        ctx.sleep(1)

    await ends(forgets, State.COMPLETED)
    assert "never awaited, and so dropped: step `forgotten`, sleep" in caplog.text


async def test_an_undo_that_fails_is_said_with_the_outcome() -> None:
    rig = Rig()
    agent = Agent("worker")

    def undo() -> None:
        raise ValueError("the door is shut")

    @agent.on(str)
    async def handle(ctx: Context, text: str) -> Outcome:
        ctx.compensate(undo, retry=ONCE)
        await ctx.step("a", str)
        return Fail("no")

    async with running(rig.worker(agent)):
        task = await rig.until(await rig.submit("worker", "x"), State.FAILED)
    assert task.failure is not None
    assert "the door is shut" in task.failure.message
    assert "did not undo" in task.failure.details["not_undone"]


def test_a_policy_without_an_attempt_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Retry(attempts=0)
