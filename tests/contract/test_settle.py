"""Settle: every way in which an append can end without an answer."""

import pytest

from mesh.bus.inproc import Fault, InprocBus
from mesh.bus.settle import settle
from mesh.core.envelope import Envelope
from mesh.errors import Fenced, Unavailable, Unresolved
from tests.contract.bus_rig import Events, new_task

TENANT = "acme"
make = Events(TENANT)


@pytest.fixture
def bus() -> InprocBus:
    return InprocBus(tenant=TENANT)


def batch_of(task: str, kind: str) -> tuple[list[Envelope], dict[str, int]]:
    if kind == "moving":
        return [make.submitted(task), make.step(task)], {task: 0}
    return [make.report(task)], {}


@pytest.mark.parametrize("kind", ["moving", "informing"])
@pytest.mark.parametrize(
    "faults",
    [
        [Fault.STORED],
        [Fault.LOST],
        [Fault.DOWN],
        [Fault.LOST, Fault.DOWN, Fault.STORED],
        [Fault.DOWN, Fault.LOST, Fault.LOST, Fault.STORED],
    ],
)
async def test_whatever_answer_is_lost_the_events_stand_once(
    bus: InprocBus, faults: list[Fault], kind: str
) -> None:
    task = new_task()
    envelopes, expected = batch_of(task, kind)
    bus.faults.extend(faults)
    positions = await settle(bus, envelopes, expected, deadline_s=10, jitter=lambda: 0.0)
    records = await bus.history(task)
    assert [r.position for r in records] == list(positions)
    assert [r.envelope.event_id for r in records if r.envelope] == [e.event_id for e in envelopes]


@pytest.mark.parametrize("fault", [Fault.STORED, Fault.LOST])
async def test_what_another_writer_moved_meanwhile_is_told_apart(
    bus: InprocBus, fault: Fault
) -> None:
    """Stored before the other one moved it: stored. Lost, and the other one was first: refused."""
    task = new_task()
    at = await settle(bus, [make.submitted(task)], {task: 0}, deadline_s=5)
    mine = make.started(task)
    bus.faults.append(fault)
    with pytest.raises(Unresolved):
        await bus.append([mine], {task: at[0]})
    head = (await bus.history(task))[-1].position
    await bus.append([Events(TENANT, "two").step(task)], {task: head})
    if fault is Fault.STORED:
        assert await settle(bus, [mine], {task: at[0]}, deadline_s=5) == (head,)
    else:
        with pytest.raises(Fenced):
            await settle(bus, [mine], {task: at[0]}, deadline_s=5)


async def test_when_the_time_is_up_it_says_whether_anything_was_sent(bus: InprocBus) -> None:
    task = new_task()
    bus.faults.extend([Fault.DOWN] * 50)
    with pytest.raises(Unavailable):
        await settle(bus, [make.report(task)], {}, deadline_s=0.2)
    bus.faults.clear()
    bus.faults.extend([Fault.LOST, *[Fault.DOWN] * 50])
    with pytest.raises(Unresolved):
        await settle(bus, [make.report(task)], {}, deadline_s=0.2)
    assert await bus.history(task) == []
