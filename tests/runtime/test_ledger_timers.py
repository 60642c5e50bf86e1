"""Timers, expiries and deadlines, fired by the ledger: when due, never early, once."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import anyio
import pytest

from mesh.bus.draft import HEADERS_BYTES
from mesh.bus.inproc import Fault, InprocBus
from mesh.core import event as e
from mesh.core.leg import DEADLINE
from mesh.core.subject import INFORMING
from mesh.errors import Unavailable, Unresolved
from mesh.ledger.row import TIMER
from mesh.store.inproc import InprocStore
from mesh.store.surreal import open_surreal
from mesh.testing.clock import ManualClock
from mesh.wire.codec import encode
from tests.make import FAILURE, START, TENANT, TEXT
from tests.runtime.ledger_rig import Rig, task_id
from tests.runtime.sleeper import DUE, NAP, asleep, fired, submitted, told

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture(params=["inproc", pytest.param("surreal", marks=pytest.mark.live)])
async def rig(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    clock: ManualClock,
) -> AsyncGenerator[Rig]:
    bus = InprocBus(tenant=TENANT, clock=clock)
    if request.param == "inproc":
        yield Rig(store=InprocStore(), bus=bus, clock=clock)
        return
    monkeypatch.setenv("SURREAL_SYNC_DATA", "true")
    async with open_surreal(str(tmp_path / "store"), tenant=TENANT) as store:
        yield Rig(store=store, bus=bus, clock=clock)


async def addressees(rig: Rig, number: int = 1) -> list[str]:
    return [r.envelope.to for r in await fired(rig, number) if r.envelope]


async def test_a_timer_fires_when_it_is_due_never_early_and_once(
    rig: Rig, clock: ManualClock
) -> None:
    due = DUE + timedelta(microseconds=400)
    setter = asleep(due=due)
    await rig.tell(*setter)
    async with rig.ledger().running() as ledger:
        assert ledger.timers.next_due() == due
        assert await ledger.fire() == 0
        clock.advance(60.0003)  # within the millisecond that the row is ordered by
        assert await ledger.fire() == 0
        clock.advance(0.0002)
        assert await ledger.fire() == 1
        assert await ledger.fire() == 0
        assert ledger.timers.next_due() is None
    (record,) = await fired(rig)
    assert record.stored_at >= due
    made = record.envelope
    assert made is not None
    assert (made.event, made.to) == (e.TimerFired(timer_id=NAP), "sleeper")
    assert made.event.event_class == INFORMING
    assert (made.sender.agent, made.sender.instance) == ("ledger", "ledger-1")
    assert (made.causation_id, made.occurred_at) == (setter[1].event_id, clock.now())
    task = await rig.reader.task(task_id(1))
    assert task is not None
    assert task.turn is not None
    assert task.turn.delivery_id == made.event_id
    assert await rig.store.rows(TIMER, tags={}) == []


async def test_what_becomes_due_while_no_ledger_runs_fires_once_when_one_does(
    rig: Rig, clock: ManualClock
) -> None:
    await rig.tell(*asleep(1), *asleep(2, due=DUE + timedelta(hours=1)))
    async with rig.ledger().running():
        pass
    clock.advance(61)
    for _ in range(2):
        async with rig.ledger().running() as ledger:
            await ledger.fire()
            assert ledger.timers.next_due() == DUE + timedelta(hours=1)
    assert (len(await fired(rig, 1)), len(await fired(rig, 2))) == (1, 0)


async def test_thousands_due_in_the_same_millisecond_survive_a_restart(
    rig: Rig, clock: ManualClock
) -> None:
    count = 2300  # more than two pages of rows
    sooner, later = DUE - timedelta(seconds=1), DUE + timedelta(seconds=1)
    for number in range(1, count + 1):
        due = {1: sooner, 2: later}.get(number, DUE)
        await rig.bus.append(asleep(number, due=due), {task_id(number): 0})
    async with rig.ledger().running():
        pass
    clock.advance(60)
    async with rig.ledger().running() as ledger:
        assert ledger.timers.next_due() == sooner
        assert await ledger.fire() == count - 1
        clock.advance(1)
        assert await ledger.fire() == 1
    assert [len(await fired(rig, number)) for number in range(1, count + 1)] == [1] * count


async def test_what_was_fired_and_not_yet_recorded_is_not_fired_again_after_a_restart(
    rig: Rig, clock: ManualClock
) -> None:
    await rig.tell(*asleep())
    first = rig.ledger()
    async with first.running():
        await first.timers.fire_due()
    clock.advance(61)
    assert await first.timers.fire_due() == 1
    async with rig.ledger(instance="ledger-2").running() as second:
        assert await second.fire() == 0
    assert len(await fired(rig)) == 1


async def test_a_task_that_went_on_before_the_ledger_caught_up_gets_no_timer(
    rig: Rig, clock: ManualClock
) -> None:
    await rig.tell(*asleep())
    async with rig.ledger().running():
        pass
    for _ in range(20):
        await rig.tell(told(e.ProgressReported(text="dreaming")))
    await rig.tell(told(e.Completed(result=TEXT)))
    clock.advance(61)
    behind = rig.ledger(batch=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(behind.recorder.run, "s0")
        while behind.timers.next_due() is None:
            await anyio.lowlevel.checkpoint()
        assert await behind.timers.fire_due() == 0
        tasks.cancel_scope.cancel()
    assert await fired(rig) == []


async def test_the_late_append_of_a_killed_ledger_does_not_keep_the_others_from_firing(
    rig: Rig, clock: ManualClock
) -> None:
    later = DUE + timedelta(seconds=1)
    await rig.tell(*asleep(1, due=later), *asleep(2), *asleep(3, due=later))
    killed, ledger = rig.ledger(), rig.ledger(instance="ledger-2")
    for each in (killed, ledger):
        async with each.running():
            assert await each.timers.fire_due() == 0  # both are certain of the log
    clock.advance(60)
    assert await killed.timers.fire_due() == 1
    clock.advance(1)
    assert await ledger.timers.fire_due() == 2  # it has not heard of the first one
    assert [len(await fired(rig, number)) for number in (1, 2, 3)] == [1, 1, 1]
    async with rig.ledger(instance="ledger-3").running() as third:
        assert await third.fire() == 0


@pytest.mark.parametrize("again", ["same", "restarted"])
async def test_a_deadline_reaches_the_new_owner_when_the_task_changed_hands_meanwhile(
    rig: Rig, clock: ManualClock, again: str
) -> None:
    await rig.tell(submitted(deadline=DUE))
    ledger = rig.ledger()
    async with ledger.running():
        assert await ledger.fire() == 0
        assert ledger.timers.next_due() == DUE
    await rig.tell(told(e.HandedOff(input=TEXT), to="writer"))
    clock.advance(61)
    assert await ledger.timers.fire_due() == 1  # its recorder has not seen the hand-off
    assert await addressees(rig) == ["sleeper"]
    ledger = ledger if again == "same" else rig.ledger(instance="ledger-2")
    async with ledger.running():
        assert await ledger.fire() == 1
        assert await ledger.fire() == 0
    assert await addressees(rig) == ["sleeper", "writer"]
    assert len({r.envelope.event_id for r in await fired(rig) if r.envelope}) == 2
    task = await rig.reader.task(task_id(1))
    assert task is not None
    assert task.overdue


async def test_a_deadline_that_fired_does_not_fire_again_for_the_next_owner(
    rig: Rig, clock: ManualClock
) -> None:
    await rig.tell(submitted(deadline=DUE))
    async with rig.ledger().running() as ledger:
        clock.advance(61)
        assert await ledger.fire() == 1
        await rig.tell(told(e.HandedOff(input=TEXT), to="writer"))
        assert await ledger.fire() == 0
    assert await addressees(rig) == ["sleeper"]


async def test_a_timer_of_a_leg_goes_with_it_when_the_task_is_handed_off(
    rig: Rig, clock: ManualClock
) -> None:
    await rig.tell(*asleep()[:2])
    async with rig.ledger().running() as ledger:
        assert await ledger.fire() == 0
        await rig.tell(told(e.HandedOff(input=TEXT), to="writer"))
        clock.advance(61)
        assert await ledger.fire() == 0
        assert ledger.timers.next_due() is None


async def test_an_open_question_expires_and_an_answered_one_does_not(
    rig: Rig, clock: ManualClock
) -> None:
    for number in (1, 2):
        asked = e.InputRequested(ordinal=1, request_id="q1", prompt="ok?", expires_at=DUE)
        waits = e.Suspended(waits=(e.Wait(what="input", id="q1"),))
        await rig.tell(submitted(number), told(asked, number), told(waits, number))
    async with rig.ledger().running() as ledger:
        assert await ledger.fire() == 0
        answer = e.InputReceived(request_id="q1", answer=TEXT)
        await rig.bus.append([told(answer, 2, by="gateway", to="sleeper")], {})
        clock.advance(61)
        assert await ledger.fire() == 1
    (record,) = await fired(rig)
    assert record.envelope is not None
    assert record.envelope.event == e.TimerFired(timer_id="q1")
    assert await fired(rig, 2) == []


async def test_a_closed_task_has_no_timers_until_it_is_redriven(
    rig: Rig, clock: ManualClock
) -> None:
    submit = submitted(deadline=DUE)
    position = await rig.tell(submit)
    await rig.tell(asleep()[1])
    dead = e.DeadLettered(
        delivery_id=submit.event_id, delivery_position=position, attempts=5, failure=FAILURE
    )
    await rig.tell(told(dead))
    clock.advance(61)
    async with rig.ledger().running() as ledger:
        assert await ledger.fire() == 0
        assert ledger.timers.next_due() is None
        redriven = e.Redriven(delivery_id=submit.event_id, input=TEXT)
        await rig.tell(told(redriven, by="gateway", to="sleeper"))
        assert await ledger.fire() == 2
    events = [r.envelope.event for r in await fired(rig) if r.envelope]
    assert {e.TimerFired(timer_id=NAP), e.TimerFired(timer_id=DEADLINE)} == set(events)
    assert await rig.store.rows(TIMER, tags={}) == []


@pytest.mark.parametrize(
    ("fault", "error", "again"),
    [(Fault.STORED, Unresolved, 0), (Fault.LOST, Unresolved, 1), (Fault.DOWN, Unavailable, 1)],
)
async def test_an_append_that_fails_is_made_again_unless_it_was_stored(
    rig: Rig, clock: ManualClock, fault: Fault, error: type[Exception], again: int
) -> None:
    await rig.tell(*asleep(1), *asleep(2))
    async with rig.ledger().running() as ledger:
        assert await ledger.fire() == 0
        clock.advance(61)
        rig.bus.faults.append(fault)
        with pytest.raises(error):
            await ledger.fire()
        assert await ledger.fire() == 2 * again
        assert ledger.timers.next_due() is None
    assert [len(await fired(rig, number)) for number in (1, 2)] == [1, 1]


async def test_after_an_append_without_an_answer_the_record_tells_what_was_stored(
    rig: Rig, clock: ManualClock
) -> None:
    await rig.tell(*asleep())
    ledger = rig.ledger()
    async with ledger.running():
        assert await ledger.fire() == 0
    clock.advance(61)
    rig.bus.faults.append(Fault.STORED)
    with pytest.raises(Unresolved):
        await ledger.timers.fire_due()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ledger.recorder.run, "s0")
        assert await ledger.timers.fire_due() == 0
        tasks.cancel_scope.cancel()
    assert len(await fired(rig)) == 1


async def test_a_timer_that_cannot_be_written_does_not_keep_the_others_from_firing(
    rig: Rig, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    bare = replace(told(e.TaskSubmitted(), by="gateway", to="sleeper"), deadline=DUE)
    room = 1024 * 1024 - HEADERS_BYTES - len(encode(replace(bare, labels={"note": ""}))) - 8
    # Its submit has just room enough; what fires names its cause, and has not.
    await rig.tell(replace(bare, labels={"note": "x" * room}), *asleep(2))
    async with rig.ledger().running() as ledger:
        clock.advance(61)
        assert await ledger.fire() == 1
        assert await ledger.fire() == 0
    assert (len(await fired(rig, 1)), len(await fired(rig, 2))) == (0, 1)
    assert f"timer {task_id(1)}/deadline cannot be fired" in caplog.text
