from dataclasses import dataclass, replace
from itertools import pairwise

import anyio
import pytest

from mesh.agent.context import Context
from mesh.agent.definition import Agent
from mesh.agent.outcome import Fail, Handoff, Outcome, Reject, Reply
from mesh.agent.payload import decode_value
from mesh.core import event as e
from mesh.core.payload import INLINE_LIMIT
from mesh.core.task import State
from mesh.errors import Fatal, Retryable
from tests.runtime.rig import FAST, Rig, running
from tests.runtime.sample_agent import echo, failing

pytestmark = pytest.mark.anyio


@dataclass
class Order:
    item: str
    count: int


def chain(name: str, to: str) -> Agent:
    agent = Agent(name)

    @agent.on(str)
    async def pass_on(ctx: Context, text: str) -> Handoff:
        ctx.decide(f"{name}-{ctx.hop}", f"{name} saw {text}", why="test")
        ctx.constraint("be kind")
        return Handoff(to, f"{text}>{name}", next_task=f"for {to}")

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
