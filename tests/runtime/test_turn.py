"""A claim that comes too late for its own turn."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest

from mesh.agent.turn import Turn
from mesh.core import decide
from mesh.core import event as e
from mesh.core.carrier import Next
from mesh.core.packet import RelayPacket
from tests.make import FAILURE, TEXT
from tests.runtime.rig import Rig
from tests.runtime.sample_agent import echo

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def judged(rig: Rig) -> AsyncGenerator[Turn]:
    """A turn that is about to run."""
    await rig.submit("echo", "hi")
    async with rig.bus.inbox("echo", max_held=1) as inbox:
        async for delivery in inbox:
            assert delivery.record.envelope is not None
            turn = Turn(echo(), rig.ports(), delivery, delivery.record.envelope)
            assert await turn.judge() is Next.AGAIN
            yield turn
            break


@pytest.mark.parametrize(("end", "kind"), [("hand off", "handed_off"), ("fail", "attempt_failed")])
async def test_a_claim_that_waits_behind_the_end_of_its_run_is_not_made(
    end: str, kind: str
) -> None:
    rig = Rig()
    async with judged(rig) as turn:
        ends = {
            "hand off": decide.hand_off(turn.task, to="x", input=TEXT, packet=RelayPacket()),
            "fail": decide.fail_attempt(turn.task, FAILURE),
        }
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(turn.commit, ends[end])
            await anyio.lowlevel.checkpoint()  # it holds the lock now, and waits for the log
            tasks.start_soon(turn.claim_running)
        assert await rig.kinds(turn.cause.task_id) == ["submitted", kind]


async def test_two_holds_of_one_delivery_by_one_process_never_write_the_same_ids() -> None:
    rig = Rig()
    ports = rig.ports()
    task_id = await rig.submit("echo", "hi")
    async with rig.bus.inbox("echo", max_held=1) as inbox:
        async for delivery in inbox:
            assert delivery.record.envelope is not None
            for name in ("first", "second"):
                # A delivery whose count was lost comes back as if it were new, and reads nothing.
                turn = Turn(echo(), ports, delivery, delivery.record.envelope)
                assert await turn.judge() is Next.AGAIN
                await turn.record(e.StepRecorded(ordinal=1, name=name))
            break
    records = await rig.history(task_id)
    ids = [r.envelope.event_id for r in records if r.envelope]
    events = [r.envelope.event for r in records if r.envelope]
    names = [event.name for event in events if isinstance(event, e.StepRecorded)]
    assert len(set(ids)) == len(ids)
    assert names == ["first"], "the second hold lost the turn to the first one's claim"
