import logging
from dataclasses import replace

import anyio
import pytest

from mesh.agent.payload import decode_value
from mesh.bus.inproc import Fault
from mesh.core import event as e
from mesh.core.task import State
from tests.make import TENANT
from tests.runtime.rig import FAST, Rig, run_worker, running
from tests.runtime.sample_agent import echo, failing, holding

pytestmark = pytest.mark.anyio


async def test_a_slow_handler_records_that_it_started() -> None:
    rig, started, release = Rig(), anyio.Event(), anyio.Event()
    limits = replace(FAST, claim_after_s=0.01)
    async with running(rig.worker(holding(started, release), limits)):
        task_id = await rig.submit("echo", "hi")
        assert (await rig.until(task_id, State.WORKING)).version == 2
        release.set()
        await rig.until(task_id, State.COMPLETED)
    assert await rig.kinds(task_id) == ["submitted", "work_started", "completed"]


@pytest.mark.parametrize("claim_after_s", [0.01, 30.0])
async def test_a_cancel_stops_a_running_handler(claim_after_s: float) -> None:
    rig, started = Rig(), anyio.Event()
    limits = replace(FAST, claim_after_s=claim_after_s)
    async with running(rig.worker(holding(started, anyio.Event()), limits)):
        task_id = await rig.submit("echo", "hi")
        await started.wait()
        if claim_after_s < 1:
            await rig.until(task_id, State.WORKING)
        await rig.cancel(task_id)
        await rig.until(task_id, State.CANCELED)
        await rig.acked("echo")


async def test_a_cancel_without_a_hint_is_met_at_the_next_append() -> None:
    rig, started, release = Rig(), anyio.Event(), anyio.Event()
    async with running(rig.worker(holding(started, release))):
        task_id = await rig.submit("echo", "hi")
        await started.wait()
        await rig.cancel(task_id, hint=False)
        release.set()
        await rig.until(task_id, State.CANCELED)
    assert await rig.kinds(task_id) == ["submitted", "cancel_requested", "canceled"]


async def test_a_task_cancelled_while_it_waits_never_runs() -> None:
    rig = Rig()
    task_id = await rig.submit("echo", "hi")
    await rig.cancel(task_id)
    async with running(rig.worker(failing())):
        await rig.until(task_id, State.CANCELED)
        await rig.acked("echo")


@pytest.mark.parametrize("faults", [[Fault.STORED], [Fault.LOST], [Fault.DOWN], [Fault.LOST] * 3])
async def test_an_outcome_whose_answer_is_lost_is_stored_once(faults: list[Fault]) -> None:
    rig = Rig()
    started, release = anyio.Event(), anyio.Event()
    async with running(rig.worker(holding(started, release))):
        task_id = await rig.submit("echo", "hi")
        await started.wait()
        rig.bus.faults.extend(faults)
        release.set()
        await rig.until(task_id, State.COMPLETED)
        await rig.acked("echo")
    assert await rig.kinds(task_id) == ["submitted", "completed"]


@pytest.mark.parametrize("fault", [Fault.STORED, Fault.LOST, Fault.DOWN])
async def test_a_claim_whose_answer_is_lost_harms_nothing(fault: Fault) -> None:
    rig, started, release = Rig(), anyio.Event(), anyio.Event()
    limits = replace(FAST, claim_after_s=0.01)
    async with running(rig.worker(holding(started, release), limits)):
        task_id = await rig.submit("echo", "hi")
        rig.bus.faults.append(fault)
        await rig.until(task_id, State.WORKING)
        release.set()
        await rig.until(task_id, State.COMPLETED)
    assert await rig.kinds(task_id) == ["submitted", "work_started", "completed"]


async def test_a_zombie_cannot_move_a_task_that_another_took_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rig, started, release = Rig(), anyio.Event(), anyio.Event()
    zombie = rig.worker(holding(started, release))
    async with running(zombie):
        task_id = await rig.submit("echo", "hi")
        await started.wait()
        rig.clock.advance(11)  # past its lease, before it can be extended
        async with running(rig.worker(echo())):
            await rig.until(task_id, State.COMPLETED)
        before = await rig.history(task_id)
        with caplog.at_level(logging.WARNING):
            release.set()
            await rig.acked("echo")
    assert await rig.history(task_id) == before
    assert "refused" in caplog.text
    task = await rig.task(task_id)
    assert task.result is not None
    assert decode_value(task.result, str) == "HI"


async def test_a_process_that_dies_again_and_again_ends_in_a_dead_letter() -> None:
    rig = Rig()
    task_id = ""
    for _ in range(FAST.attempts + 1):
        started = anyio.Event()
        worker = rig.worker(holding(started, anyio.Event()))
        async with anyio.create_task_group() as tasks:
            await tasks.start(run_worker, worker)
            task_id = task_id or await rig.submit("echo", "poison")
            await started.wait()
            tasks.cancel_scope.cancel()  # as a kill would: nothing is given back by the worker
    async with running(rig.worker(echo())):
        task = await rig.until(task_id, State.FAILED)
        good = await rig.submit("echo", "good")
        await rig.until(good, State.COMPLETED)
    assert task.dead_letter is not None
    assert task.dead_letter.attempts == FAST.attempts
    assert task.failure is not None
    assert task.failure.code == "agent.attempts_exhausted"


@pytest.mark.parametrize("claim_after_s", [0.01, 30.0])
async def test_a_drain_gives_back_what_does_not_finish(claim_after_s: float) -> None:
    rig, started = Rig(), anyio.Event()
    limits = replace(FAST, claim_after_s=claim_after_s, drain_s=0.05)
    async with running(rig.worker(holding(started, anyio.Event()), limits)):
        task_id = await rig.submit("echo", "hi")
        await started.wait()
        if claim_after_s < 1:
            await rig.until(task_id, State.WORKING)
    async with running(rig.worker(echo())):
        await rig.until(task_id, State.COMPLETED)
    kinds = await rig.kinds(task_id)
    released = ["work_started", "work_released"] if claim_after_s < 1 else []
    assert kinds == ["submitted", *released, "work_started", "completed"]
    completed = (await rig.history(task_id))[-1].envelope
    assert completed is not None
    assert completed.attempt == 1


async def test_a_drain_lets_a_handler_finish() -> None:
    rig, started, release = Rig(), anyio.Event(), anyio.Event()
    worker = rig.worker(holding(started, release))
    async with running(worker, stop=False):
        task_id = await rig.submit("echo", "hi")
        await started.wait()
        worker.stop()
        release.set()
    assert await rig.kinds(task_id) == ["submitted", "completed"]
    assert await rig.registry.presences("echo") == []
    assert [c.name for c in await rig.registry.cards()] == ["echo"]


async def test_an_unreadable_message_is_dead_lettered_once_and_harms_no_task() -> None:
    rig = Rig()
    async with running(rig.worker(echo()), rig.worker(echo())):
        task_id = await rig.submit("echo", "hi")
        await rig.until(task_id, State.COMPLETED)
        before = await rig.task(task_id)
        rig.bus.put(f"mesh.{TENANT}.s0.echo.{task_id}.m.gateway", b"\xffnot an envelope")
        rig.bus.put(f"mesh.{TENANT}.s0.echo.{'e' * 32}.m.gateway", b"\xff")
        await rig.until(task_id, version=before.version + 2)
        await rig.acked("echo")
        good = await rig.submit("echo", "good")
        await rig.until(good, State.COMPLETED)
    after = await rig.task(task_id)
    assert (after.state, after.result) == (before.state, before.result)
    assert (await rig.kinds(task_id))[-2:] == ["?", "dead_lettered"]
    assert await rig.kinds("e" * 32) == ["?", "dead_lettered"]
    notice = (await rig.history("e" * 32))[-1].envelope
    assert notice is not None
    assert isinstance(notice.event, e.DeadLettered)
    assert notice.event.failure is not None
    assert "not a relay envelope" in notice.event.failure.message
