"""What tried to break a worker, and must not."""

from dataclasses import replace

import anyio
import pytest

from mesh.agent.context import Context
from mesh.agent.outcome import Outcome, Reply
from mesh.bus.inproc import Fault, InprocBus
from mesh.core import event as e
from mesh.core.subject import shard_of
from mesh.core.task import State
from tests.make import TENANT, envelope
from tests.runtime.faulty_bus import FaultyBus, Gate, Settled
from tests.runtime.rig import FAST, Rig, run_worker, running
from tests.runtime.sample_agent import doing, echo, failing, holding, lives

pytestmark = pytest.mark.anyio
ALONE = replace(FAST, concurrency=1)


def faulty() -> tuple[Rig, FaultyBus]:
    rig = Rig()
    bus = FaultyBus(tenant=TENANT, clock=rig.clock).equip()
    rig.bus = bus
    return rig, bus


async def writers(rig: Rig, task_id: str) -> list[str]:
    """Who wrote each event, by instance."""
    return [r.envelope.sender.instance if r.envelope else "?" for r in await rig.history(task_id)]


async def held_before(rig: Rig) -> None:
    """Somebody had what waits, and gave it back unclaimed: from here on it is a redelivery."""
    started = anyio.Event()
    async with running(rig.worker(holding(started, anyio.Event()), replace(ALONE, drain_s=0.01))):
        await started.wait()


@pytest.mark.parametrize("what", [Settled.DONE, Settled.LOST])
@pytest.mark.parametrize("error", [None, ValueError("once")])
async def test_a_settlement_that_is_not_confirmed_harms_nothing(
    what: Settled, error: Exception | None
) -> None:
    rig, bus = faulty()
    ends = [error, Reply("ok")] if error else [Reply("ok")]
    async with running(rig.worker(failing(*ends, Reply("good")))):
        bus.settlements.append(what)
        task_id = await rig.submit("echo", "hi")
        if error:
            await rig.until(task_id, version=2)
        await anyio.wait_all_tasks_blocked()
        rig.clock.advance(11)
        await rig.until(task_id, State.COMPLETED)
        await lives(rig)
        await rig.acked("echo")


@pytest.mark.parametrize("cancel", [False, True])
async def test_a_hint_does_not_let_a_zombie_move_the_task(cancel: bool) -> None:
    rig, started, release = Rig(), anyio.Event(), anyio.Event()
    async with running(rig.worker(holding(started, release), ALONE)):
        task_id = await rig.submit("echo", "hi")
        await started.wait()
        rig.clock.advance(11)
        taken, finish = anyio.Event(), anyio.Event()
        async with running(rig.worker(holding(taken, finish), ALONE)):
            await taken.wait()
            if cancel:
                await rig.cancel(task_id)
            else:
                await rig.bus.hint(f"cancel.{task_id}")
            await anyio.wait_all_tasks_blocked()
            release.set()
            await anyio.wait_all_tasks_blocked()
            finish.set()
            await rig.until(task_id, State.COMPLETED, State.CANCELED)
            await rig.acked("echo")
    assert "1-test" not in await writers(rig, task_id)


async def test_a_zombie_told_of_the_end_of_its_task_lives_on() -> None:
    rig, started, release = Rig(), anyio.Event(), anyio.Event()
    async with running(rig.worker(holding(started, release), ALONE)):
        task_id = await rig.submit("echo", "hi")
        await started.wait()
        rig.clock.advance(11)
        async with running(rig.worker(echo(), ALONE)):
            await rig.until(task_id, State.COMPLETED)
            await rig.acked("echo")
        await rig.bus.hint(f"cancel.{task_id}")
        await anyio.wait_all_tasks_blocked()
        release.set()
        await lives(rig)


async def test_a_claim_is_no_right_once_another_claimed_after_it() -> None:
    rig, bus = faulty()
    task_id = await rig.submit("echo", "hi")
    await held_before(rig)
    gate, release = Gate(), anyio.Event()
    first, second = anyio.Event(), anyio.Event()
    async with running(rig.worker(holding(first, release), ALONE)):
        bus.faults.append(Fault.STORED)
        bus.gates.append(Gate())
        bus.gates[0].opened.set()
        bus.gates.append(gate)
        await gate.reached.wait()
        rig.clock.advance(11)
        async with running(rig.worker(holding(second, release), ALONE)):
            await second.wait()
            gate.opened.set()
            await anyio.wait_all_tasks_blocked()
            assert not first.is_set()
            release.set()
            await rig.until(task_id, State.COMPLETED)


async def test_a_cancel_between_a_claim_and_its_answer_is_heeded() -> None:
    rig, bus = faulty()
    task_id = await rig.submit("echo", "hi")
    await held_before(rig)
    before, after = Gate(), Gate()
    bus.gates.extend([before, after])
    bus.faults.append(Fault.STORED)
    before.opened.set()
    async with running(rig.worker(echo(), ALONE)):
        await after.reached.wait()
        await rig.cancel(task_id, hint=False)
        after.opened.set()
        await rig.until(task_id, State.CANCELED, State.COMPLETED)
    assert (await rig.task(task_id)).state is State.CANCELED


async def test_a_cancel_read_while_the_handler_ends_is_heeded() -> None:
    rig, bus = faulty()
    started, release = anyio.Event(), anyio.Event()
    async with running(rig.worker(holding(started, release))):
        task_id = await rig.submit("echo", "hi")
        await started.wait()
        await rig.cancel(task_id, hint=False)
        gate = Gate()
        bus.gates.append(gate)
        await bus.hint(f"cancel.{task_id}")
        await gate.reached.wait()
        release.set()
        await anyio.wait_all_tasks_blocked()
        gate.opened.set()
        await rig.until(task_id, State.CANCELED, State.COMPLETED)
    assert (await rig.task(task_id)).state is State.CANCELED


async def exhausted(rig: Rig) -> str:
    """A task all of whose attempts ended without a word; its delivery is free."""
    task_id = ""
    for _ in range(FAST.attempts + 1):
        started = anyio.Event()
        async with anyio.create_task_group() as tasks:
            await tasks.start(run_worker, rig.worker(holding(started, anyio.Event())))
            task_id = task_id or await rig.submit("echo", "poison")
            await started.wait()
            tasks.cancel_scope.cancel()
    return task_id


async def test_a_cancel_that_meets_a_dead_letter_is_not_lost() -> None:
    rig, bus = faulty()
    task_id = await exhausted(rig)
    read, refused = Gate(), Gate()
    bus.gates.extend([read, refused])
    bus.faults.append(Fault.LOST)
    async with running(rig.worker(echo())):
        read.opened.set()
        await refused.reached.wait()
        await rig.cancel(task_id, hint=False)
        refused.opened.set()
        await anyio.wait_all_tasks_blocked()
        rig.clock.advance(11)
        task = await rig.until(task_id, State.CANCELED, State.FAILED)
        await rig.acked("echo")
    assert task.state is State.CANCELED


async def test_a_task_cancelled_after_its_last_attempt_ends_canceled() -> None:
    rig = Rig()
    task_id = await exhausted(rig)
    await rig.cancel(task_id)
    async with running(rig.worker(echo())):
        task = await rig.until(task_id, State.CANCELED, State.FAILED)
    assert task.state is State.CANCELED


async def test_a_message_on_a_subject_of_no_task_is_let_go() -> None:
    rig = Rig()
    async with running(rig.worker(echo())):
        rig.bus.put(f"mesh.{TENANT}.s0.echo.task.m.gateway", b"\xff")
        rig.bus.put(f"mesh.{TENANT}.s0.echo.{'a' * 32}.m.Nobody", b"\xff")
        await rig.acked("echo")
        await lives(rig)


async def test_a_stranger_on_a_tasks_subject_does_not_block_it() -> None:
    rig, started, release = Rig(), anyio.Event(), anyio.Event()
    async with running(rig.worker(holding(started, release))):
        task_id = await rig.submit("echo", "hi")
        await started.wait()
        rig.bus.put(f"mesh.{TENANT}.s0.log.{task_id}.m.Some_One", b"\xff")
        release.set()
        await rig.until(task_id, State.COMPLETED)


async def test_what_is_unreadable_is_told_of_in_its_own_shard() -> None:
    rig = Rig()
    rig.bus = InprocBus(tenant=TENANT, clock=rig.clock, shards=2)
    root, child = (
        "1" * 32,
        next(f"{n:032x}" for n in range(99) if shard_of(f"{n:032x}", 2) != shard_of("1" * 32, 2)),
    )
    home = shard_of(root, 2)
    made = replace(envelope(e.TaskSubmitted(), to="other", task_id=child), root_task_id=root)
    await rig.bus.append([made], {child: 0})
    rig.bus.put(f"mesh.{TENANT}.{home}.echo.{child}.m.gateway", b"\xff")
    async with running(rig.worker(echo())):
        await rig.acked("echo")
    there = await rig.bus.history(child, root_task_id=root)
    assert [r.envelope.kind if r.envelope else "?" for r in there] == [
        "task.submitted",
        "?",
        "task.dead_lettered",
    ]


async def test_a_redelivery_to_the_same_process_does_not_run_beside_itself() -> None:
    rig, bus = faulty()
    runs, release = 0, anyio.Event()

    async def act(ctx: Context, text: str) -> Outcome:
        nonlocal runs
        runs += 1
        await release.wait()
        return Reply(text)

    async with running(rig.worker(doing(act))):
        task_id = await rig.submit("echo", "hi")
        with anyio.fail_after(5):
            while bus.handed_out < 3:
                await anyio.sleep(0.01)
                rig.clock.advance(11)
        release.set()
        await rig.until(task_id, State.COMPLETED)
        rig.clock.advance(11)
        await rig.acked("echo")
    assert runs == 1
    assert await rig.kinds(task_id) == ["submitted", "completed"]


async def test_what_is_still_being_read_when_a_drain_ends_is_not_run() -> None:
    rig, bus = faulty()
    task_id = await rig.submit("echo", "hi")
    await held_before(rig)
    gate, started = Gate(), anyio.Event()
    bus.gates.append(gate)
    worker = rig.worker(holding(started, anyio.Event()), replace(ALONE, drain_s=0.05))
    async with running(worker):
        await gate.reached.wait()
        worker.stop()
        await anyio.sleep(0.1)
        gate.opened.set()
    assert not started.is_set()
    assert await rig.kinds(task_id) == ["submitted", "work_started", "work_released"]
