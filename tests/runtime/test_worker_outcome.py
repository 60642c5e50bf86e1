"""What a handler may do to its worker, and must not break it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import anyio
import pytest

from mesh.agent.context import Context
from mesh.agent.outcome import Fail, Handoff, Outcome, Reply
from mesh.core.task import State
from mesh.errors import Fatal, HistoryCorrupt, MeshError, Retryable
from tests.runtime.rig import FAST, Rig, running
from tests.runtime.sample_agent import doing, failing, lives

pytestmark = pytest.mark.anyio
ALONE = replace(FAST, concurrency=1)


async def test_a_cancelled_error_of_the_handlers_own_is_a_failed_attempt() -> None:
    async def act(ctx: Context, text: str) -> Outcome:
        raise asyncio.CancelledError("of a task that the handler itself cancelled")

    rig = Rig()
    async with running(rig.worker(doing(act))):
        task_id = await rig.submit("echo", "hi")
        await rig.until(task_id, version=2)
        await lives(rig)
    assert await rig.kinds(task_id) == ["submitted", "attempt_failed"]


@pytest.mark.parametrize("error", [ExceptionGroup("g", [Fatal("never")])])
async def test_a_groups_only_error_counts_as_itself(error: Exception) -> None:
    rig = Rig()
    async with running(rig.worker(failing(error))):
        task = await rig.until(await rig.submit("echo", "hi"), State.FAILED)
    assert task.failure is not None
    assert task.failure.code == "agent.fatal"


async def test_an_error_that_halts_lets_the_others_finish_and_leaves_as_itself() -> None:
    rig, started, release = Rig(), anyio.Event(), anyio.Event()

    async def act(ctx: Context, text: str) -> Outcome:
        if text == "halt":
            raise HistoryCorrupt("two truths")
        started.set()
        await release.wait()
        return Reply(text)

    ended: list[MeshError] = []
    slow = bad = ""

    async def live() -> None:
        try:
            await rig.worker(doing(act)).run()
        except MeshError as error:
            ended.append(error)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(live)
            slow = await rig.submit("echo", "slow")
            await started.wait()
            bad = await rig.submit("echo", "halt")
            await anyio.wait_all_tasks_blocked()
            release.set()
    assert [type(error) for error in ended] == [HistoryCorrupt]
    assert (await rig.task(slow)).state is State.COMPLETED
    assert await rig.kinds(bad) == ["submitted"]


async def noting(ctx: Context, text: str) -> Outcome:
    ctx.decide("big", "x" * 2_000_000)
    return Reply("ok")


async def ruling(ctx: Context, text: str) -> Outcome:
    ctx.constraint("x" * 2_000_000)
    return Handoff("echo", "on")


async def unspeakable(ctx: Context, text: str) -> Outcome:
    return Fail("half a \ud800 character")


async def mistaken(ctx: Context, text: str) -> Outcome:
    ctx.decide("id", 5)  # type: ignore[arg-type]  # what an author without a checker may do
    return Reply("ok")


@pytest.mark.parametrize("act", [noting, ruling, unspeakable, mistaken])
async def test_an_outcome_the_log_cannot_take_fails_the_task(
    act: Callable[[Context, str], Awaitable[Outcome]],
) -> None:
    rig = Rig()
    async with running(rig.worker(doing(act))):
        task_id = await rig.submit("echo", "hi")
        task = await rig.until(task_id, State.FAILED)
        await lives(rig)
        await rig.acked("echo")
    assert task.failure is not None
    assert task.failure.code == "wire.envelope_invalid"


class Wordless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x" * 3_000_000),
        ValueError("half a \ud800 character"),
        Retryable("later", after=float("inf")),
        Retryable("later", after=float("nan")),
        Retryable("later", after=-5.0),
        Retryable("later", after=1e300),
        Wordless(),
    ],
)
async def test_any_error_is_recorded_as_a_failed_attempt(error: Exception) -> None:
    rig = Rig()
    async with running(rig.worker(failing(error, Reply("good"), Reply("good")))):
        task_id = await rig.submit("echo", "hi")
        await rig.until(task_id, version=2)
        await lives(rig)
    assert (await rig.kinds(task_id))[:2] == ["submitted", "attempt_failed"]
