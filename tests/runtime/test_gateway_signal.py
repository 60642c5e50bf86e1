"""Signals and releases at the front door: who has the task when they come."""

from collections.abc import AsyncGenerator

import anyio
import pytest

from mesh.bus.inproc import Fault
from mesh.core import event as e
from mesh.core.subject import MOVING
from mesh.errors import (
    Contested,
    Invalid,
    NameInvalid,
    NotParked,
    TaskClosed,
    TaskUnknown,
)
from mesh.gateway.desk import Desk
from tests.runtime.gateway_rig import HELLO, OTHER, GatewayRig, kinds, submission
from tests.runtime.interrupted_bus import InterruptedBus, interrupted

REQUEST = "cd" * 16


@pytest.fixture
async def rig() -> AsyncGenerator[GatewayRig]:
    made = GatewayRig(bus=InterruptedBus)
    async with made.agent("planner"), made.agent("writer"):
        yield made


@pytest.fixture
async def desk(rig: GatewayRig) -> AsyncGenerator[Desk]:
    async with rig.desks(1) as (made,):
        yield made


async def signals(rig: GatewayRig, task_id: str) -> list[tuple[str, str]]:
    """To whom each signal went, and its name."""
    return [
        (record.envelope.to, record.envelope.event.name)
        for record in await rig.bus.history(task_id)
        if record.envelope and isinstance(record.envelope.event, e.Signaled)
    ]


async def test_a_signal_reaches_the_owner_once_a_request(rig: GatewayRig, desk: Desk) -> None:
    task_id = (await desk.submit(submission())).task.task_id
    async with rig.bus.hints("look.*") as hints:
        for _ in range(2):
            await desk.signal(task_id, "go-on", HELLO, request_id=REQUEST)
        with anyio.fail_after(2):
            assert (await anext(hints)).topic == f"look.{task_id}"
    reading = await desk.signal(task_id, "go-on")
    assert await signals(rig, task_id) == [("planner", "go-on")] * 2
    assert reading.task.leg is not None
    assert reading.task.leg.signals == {"go-on": 2}
    with pytest.raises(Invalid, match="something else"):
        await desk.signal(task_id, "stop", request_id=REQUEST)


@pytest.mark.parametrize("name", ["", "Go", "go on", "go.on", "x" * 64])
async def test_a_signal_has_a_name(desk: Desk, name: str) -> None:
    task_id = (await desk.submit(submission())).task.task_id
    with pytest.raises(NameInvalid):
        await desk.signal(task_id, name)


async def test_a_closed_or_unknown_task_takes_no_signal(rig: GatewayRig, desk: Desk) -> None:
    task_id = (await desk.submit(submission())).task.task_id
    await rig.act(task_id, e.Completed(result=HELLO))
    with pytest.raises(TaskClosed):
        await desk.signal(task_id, "go")
    dead = await rig.dead_lettered(desk)
    with pytest.raises(TaskClosed):
        await desk.signal(dead, "go")
    with pytest.raises(TaskUnknown):
        await desk.signal("0" * 32, "go")


async def test_a_signal_that_missed_the_owner_is_said_to_the_next_one_once(
    rig: GatewayRig, desk: Desk
) -> None:
    task_id = (await desk.submit(submission())).task.task_id

    async def hand_off() -> None:
        await rig.act(task_id, e.HandedOff(input=OTHER), to="writer")

    interrupted(rig.bus).before = hand_off
    await desk.signal(task_id, "go", request_id=REQUEST)
    reading = await desk.signal(task_id, "go", request_id=REQUEST)
    assert await signals(rig, task_id) == [("planner", "go"), ("writer", "go")]
    assert reading.task.leg is not None
    assert reading.task.leg.signals == {"go": 1}


async def test_a_signal_that_its_owner_had_is_not_said_to_the_next_one(
    rig: GatewayRig, desk: Desk
) -> None:
    task_id = (await desk.submit(submission())).task.task_id

    async def hand_off() -> None:
        await rig.act(task_id, e.HandedOff(input=OTHER), to="writer")

    # It may be this very signal that made the planner hand off; the writer waits for its own.
    interrupted(rig.bus).after = hand_off
    reading = await desk.signal(task_id, "go", request_id=REQUEST)
    assert await signals(rig, task_id) == [("planner", "go")]
    assert reading.task.leg is None


async def test_a_signal_that_came_after_the_end_is_refused(rig: GatewayRig, desk: Desk) -> None:
    task_id = (await desk.submit(submission())).task.task_id

    async def complete() -> None:
        await rig.act(task_id, e.Completed(result=HELLO))

    interrupted(rig.bus).before = complete
    with pytest.raises(TaskClosed):
        await desk.signal(task_id, "go")


async def test_a_task_that_never_stands_still_is_given_up_on(rig: GatewayRig, desk: Desk) -> None:
    task_id = (await desk.submit(submission())).task.task_id
    owners = iter(["writer", "planner"] * 10)

    async def hand_off() -> None:
        await rig.act(task_id, e.HandedOff(input=OTHER), to=next(owners))
        interrupted(rig.bus).before = hand_off

    interrupted(rig.bus).before = hand_off
    with pytest.raises(Contested):
        await desk.signal(task_id, "go")
    interrupted(rig.bus).before = None
    assert len(await signals(rig, task_id)) == 8


async def parked(rig: GatewayRig, desk: Desk) -> str:
    """A task of the writer that is held."""
    task_id = (await desk.submit(submission())).task.task_id
    await rig.act(task_id, e.HandedOff(input=OTHER), to="writer")
    await rig.act(task_id, e.WorkStarted(), e.Parked(ordinal=2, recorded="step a", asked="step b"))
    leg = (await rig.task(task_id)).leg
    assert leg is not None
    assert leg.parked is not None
    return task_id


async def test_a_parked_task_is_released_to_its_owner_once(rig: GatewayRig, desk: Desk) -> None:
    task_id = await parked(rig, desk)
    for _ in range(2):
        reading = await desk.unpark(task_id, reason="mended", request_id=REQUEST)
        assert reading.task.turn is not None
        assert reading.task.turn.delivery_id == reading.last.event_id
        assert (reading.last.to, reading.last.hop) == ("writer", 1)
        assert reading.last.event == e.Unparked(reason="mended")
        assert reading.last.event.event_class == MOVING
    with pytest.raises(NotParked) as refused:
        await desk.unpark(task_id)
    assert (refused.value.task_id, refused.value.state) == (task_id, "WORKING")
    assert kinds(await rig.bus.history(task_id)).count("unparked") == 1


async def test_of_two_releases_at_once_one_is_refused(rig: GatewayRig) -> None:
    async with rig.desks(2) as desks:
        task_id = await parked(rig, desks[0])
        refused: list[NotParked] = []

        async def unpark(desk: Desk) -> None:
            try:
                await desk.unpark(task_id)
            except NotParked as error:
                refused.append(error)

        async with anyio.create_task_group() as tasks:
            for desk in desks:
                tasks.start_soon(unpark, desk)
        assert len(refused) == 1
        assert kinds(await rig.bus.history(task_id)).count("unparked") == 1


async def test_a_release_whose_confirmation_was_lost_is_stored_once(
    rig: GatewayRig, desk: Desk
) -> None:
    task_id = await parked(rig, desk)
    rig.bus.faults.extend([Fault.STORED, Fault.LOST])
    await desk.unpark(task_id)
    assert kinds(await rig.bus.history(task_id)).count("unparked") == 1


async def test_what_is_not_held_is_not_released(rig: GatewayRig, desk: Desk) -> None:
    task_id = (await desk.submit(submission())).task.task_id
    with pytest.raises(NotParked):
        await desk.unpark(task_id)
    await rig.act(task_id, e.Completed(result=HELLO))
    with pytest.raises(NotParked, match="COMPLETED"):
        await desk.unpark(task_id)
    with pytest.raises(TaskUnknown):
        await desk.unpark("0" * 32)
