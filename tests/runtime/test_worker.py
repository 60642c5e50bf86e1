import logging
from dataclasses import dataclass, replace
from itertools import pairwise

import anyio
import pytest

from mesh.agent.context import Context
from mesh.agent.definition import Agent
from mesh.agent.outcome import Fail, Handoff, Outcome, Reject, Reply
from mesh.agent.payload import decode_value
from mesh.bus.inproc import Fault
from mesh.core import event as e
from mesh.core.payload import INLINE_LIMIT
from mesh.core.task import State
from mesh.errors import Fatal, Retryable
from tests.make import TENANT
from tests.runtime.rig import FAST, Rig, running

pytestmark = pytest.mark.anyio


@dataclass
class Order:
    item: str
    count: int


def echo(name: str = "echo") -> Agent:
    agent = Agent(name)

    @agent.on(str)
    async def reply(ctx: Context, text: str) -> Reply:
        return Reply(text.upper())

    return agent


def chain(name: str, to: str) -> Agent:
    agent = Agent(name)

    @agent.on(str)
    async def pass_on(ctx: Context, text: str) -> Handoff:
        ctx.decide(f"{name}-{ctx.hop}", f"{name} saw {text}", why="test")
        ctx.constraint("be kind")
        return Handoff(to, f"{text}>{name}", next_task=f"for {to}")

    return agent


def failing(*errors: Exception | Outcome) -> Agent:
    """An agent that raises or returns one after the other."""
    agent = Agent("echo")
    left = list(errors)

    @agent.on(str)
    async def run(ctx: Context, text: str) -> Outcome:
        end = left.pop(0)
        if isinstance(end, Exception):
            raise end
        return end

    return agent


async def test_a_reply_completes_the_task() -> None:
    rig = Rig()
    async with running(rig.worker(echo())):
        task_id = await rig.submit("echo", "hi")
        task = await rig.until(task_id, State.COMPLETED)
        await rig.acked("echo")
    assert task.result is not None
    assert decode_value(task.result, str) == "HI"
    assert await rig.kinds(task_id) == ["submitted", "completed"]


async def test_a_relay_carries_packet_and_hops() -> None:
    rig = Rig()
    workers = [rig.worker(chain("a", "b")), rig.worker(chain("b", "echo")), rig.worker(echo())]
    async with running(*workers):
        task_id = await rig.submit("a", "x")
        task = await rig.until(task_id, State.COMPLETED)
    assert task.result is not None
    assert decode_value(task.result, str) == "X>A>B"
    assert [(h.source, h.target) for h in task.handoffs] == [("a", "b"), ("b", "echo")]
    records = [r.envelope for r in await rig.history(task_id) if r.envelope]
    last = [v for v in records if isinstance(v.event, e.HandedOff)][-1]
    assert isinstance(last.event, e.HandedOff)
    packet = last.event.packet
    assert packet is not None
    assert [d.id for d in packet.decisions] == ["a-0", "b-1"]
    assert (packet.constraints, packet.next_task) == (("be kind",), "for echo")
    for before, after in pairwise(records):
        assert after.hop in (before.hop, before.hop + 1)
    assert {v.sender.agent: v.sender.instance for v in records[1:]} == {
        "a": "1-test",
        "b": "2-test",
        "echo": "3-test",
    }


async def test_a_failed_attempt_is_recorded_and_runs_again_after_its_delay() -> None:
    rig = Rig()
    async with running(rig.worker(failing(ValueError("first"), Reply("ok")))):
        task_id = await rig.submit("echo", "hi")
        await rig.until(task_id, version=2)
        rig.clock.advance(0.1)
        await anyio.sleep(0.05)
        assert await rig.kinds(task_id) == ["submitted", "attempt_failed"]
        rig.clock.advance(2)
        await rig.until(task_id, State.COMPLETED)
    kinds = await rig.kinds(task_id)
    assert kinds == ["submitted", "attempt_failed", "work_started", "completed"]
    failed = (await rig.history(task_id))[1].envelope
    assert failed is not None
    assert isinstance(failed.event, e.AttemptFailed)
    assert failed.event.failure is not None
    assert (failed.event.failure.code, failed.event.failure.message) == (
        "python.ValueError",
        "first",
    )
    attempts = [r.envelope.attempt for r in await rig.history(task_id) if r.envelope]
    assert attempts == [0, 1, 2, 2]


async def test_a_handler_may_say_when_to_come_again() -> None:
    rig = Rig()
    async with running(rig.worker(failing(Retryable("later", after=500.0), Reply("ok")))):
        task_id = await rig.submit("echo", "hi")
        await rig.until(task_id, version=2)
        rig.clock.advance(499)
        await anyio.sleep(0.05)
        assert len(await rig.kinds(task_id)) == 2
        rig.clock.advance(2)
        await rig.until(task_id, State.COMPLETED)


async def test_the_attempt_limit_ends_in_a_dead_letter_with_the_last_error() -> None:
    rig = Rig()
    errors = [ValueError("one"), ValueError("two"), ValueError("three")]
    async with running(rig.worker(failing(*errors))):
        task_id = await rig.submit("echo", "hi")
        for version in (2, 4):
            await rig.until(task_id, version=version)
            rig.clock.advance(60)
        task = await rig.until(task_id, State.FAILED)
        await rig.acked("echo")
    assert task.failure is not None
    assert task.failure.message == "three"
    assert task.dead_letter is not None
    assert (task.dead_letter.attempts, task.dead_letter.agent) == (3, "echo")
    assert (await rig.kinds(task_id))[-2:] == ["attempt_failed", "dead_lettered"]


@pytest.mark.parametrize(
    ("end", "state", "code"),
    [
        (Fail("no", code="x.no"), State.FAILED, "x.no"),
        (Fatal("never"), State.FAILED, "agent.fatal"),
        (Reject("not this", field="item"), State.REJECTED, "agent.rejected"),
        (Handoff("nobody"), State.FAILED, "agent.unknown"),
        (Handoff("No Name"), State.FAILED, "core.name_invalid"),
        ("a plain value", State.FAILED, "agent.outcome_invalid"),
        (Reply(object()), State.FAILED, "agent.payload_invalid"),
    ],
)
async def test_how_a_task_ends(end: Outcome, state: State, code: str) -> None:
    rig = Rig()
    async with running(rig.worker(failing(end))):
        task_id = await rig.submit("echo", "hi")
        task = await rig.until(task_id, state)
        await rig.acked("echo")
    assert task.failure is not None
    assert task.failure.code == code


async def test_input_that_does_not_fit_is_rejected_with_the_field() -> None:
    agent, rig = Agent("echo"), Rig()

    @agent.on(Order)
    async def run(ctx: Context, order: Order) -> Reply:
        return Reply(order)

    async with running(rig.worker(agent)):
        task_id = await rig.submit("echo", {"item": "tea", "count": "many"})
        task = await rig.until(task_id, State.REJECTED)
        good = await rig.submit("echo", {"item": "tea", "count": 2})
        await rig.until(good, State.COMPLETED)
    assert task.failure is not None
    assert task.failure.details["field"] == "count"


async def test_the_hop_limit_ends_the_task_with_its_figures() -> None:
    rig = Rig()
    async with running(rig.worker(chain("a", "b")), rig.worker(chain("b", "a"))):
        task_id = await rig.submit("a", "x", max_hops=4)
        task = await rig.until(task_id, State.FAILED)
    assert task.failure is not None
    assert task.failure.code == "guard.max_hops"
    assert (task.hops, task.failure.details["max_hops"]) == (4, "4")


async def test_a_large_payload_travels_as_a_claim_check() -> None:
    rig = Rig()
    async with running(rig.worker(chain("a", "echo")), rig.worker(echo())):
        text = "x" * INLINE_LIMIT
        task_id = await rig.submit("a", text)
        task = await rig.until(task_id, State.COMPLETED)
    assert task.result is not None
    assert task.result.blob is not None
    assert await rig.blobs.open(task.result.blob) == f"{text}>a".upper().encode()


def holding(started: anyio.Event, release: anyio.Event) -> Agent:
    """An agent that works until it is told to end."""
    agent = Agent("echo")

    @agent.on(str)
    async def run(ctx: Context, text: str) -> Reply:
        started.set()
        await release.wait()
        return Reply(text)

    return agent


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
            await tasks.start(_run, worker)
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


async def _run(worker: object, *, task_status: anyio.abc.TaskStatus[None]) -> None:
    await worker.run(task_status=task_status)  # type: ignore[attr-defined]


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


async def test_a_redriven_delivery_runs_with_its_own_payload() -> None:
    rig = Rig()
    async with running(rig.worker(failing(*[ValueError("x")] * 3))):
        task_id = await rig.submit("echo", "hi")
        for version in (2, 4):
            await rig.until(task_id, version=version)
            rig.clock.advance(60)
        dead = await rig.until(task_id, State.FAILED)
    first = (await rig.history(task_id))[0].envelope
    assert first is not None
    assert isinstance(first.event, e.TaskSubmitted)
    assert dead.dead_letter is not None
    again = replace(
        first,
        event_id="f" * 32,
        event=e.Redriven(delivery_id=dead.dead_letter.delivery_id, input=first.event.input),
        source=b"",
    )
    await rig.bus.append([again], {task_id: dead.moved})
    async with running(rig.worker(echo())):
        task = await rig.until(task_id, State.COMPLETED)
    assert task.result is not None
    assert decode_value(task.result, str) == "HI"


async def test_deliveries_run_side_by_side_up_to_the_limit() -> None:
    agent, rig, release = Agent("echo"), Rig(), anyio.Event()
    running_now, most = 0, 0

    @agent.on(str)
    async def run(ctx: Context, text: str) -> Reply:
        nonlocal running_now, most
        running_now += 1
        most = max(most, running_now)
        if running_now == 3:
            release.set()
        await release.wait()
        running_now -= 1
        return Reply(text)

    async with running(rig.worker(agent, replace(FAST, concurrency=3))):
        ids = [await rig.submit("echo", str(n)) for n in range(12)]
        for task_id in ids:
            await rig.until(task_id, State.COMPLETED)
    assert most == 3
