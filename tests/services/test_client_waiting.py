"""Tasks that wait for people and for time, through a client and over gRPC."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import timedelta

import anyio
import pytest
from google.protobuf.json_format import MessageToDict

from mesh.client import Mesh, TaskHandle, open_mesh
from mesh.core import event as e
from mesh.core.payload import Payload
from mesh.errors import (
    AnswerInvalid,
    Invalid,
    NameInvalid,
    NotParked,
    PayloadTooLarge,
    QuestionClosed,
    TaskClosed,
    TaskUnknown,
    Unavailable,
)
from mesh.wire.v1.api_pb2 import RedriveOutcome, Task
from tests.make import START
from tests.runtime.gateway_rig import FAILURE
from tests.services.door import Door, Running

SCHEMA = '{"enum": ["yes", "no"], "minLength": 2}'
ASKED, CHILD = "a1" * 16, "c1" * 16
DUE = START + timedelta(days=3)


@pytest.fixture
def door() -> Door:
    return Door()


@pytest.fixture
async def mesh(door: Door) -> AsyncGenerator[Mesh]:
    async with door.connected() as made:
        yield made


async def waiting(door: Door, mesh: Mesh, schema: str = SCHEMA) -> TaskHandle:
    """A task that waits for a person, a child and a signal, or else for a timer."""
    task = await mesh.submit("planner", {"a": 1}, budget={"tokens": 100, "calls": 3})
    waits = (
        e.Wait(what="timer", id="t1", group=1),
        e.Wait(what="input", id=ASKED),
        e.Wait(what="child", id=CHILD),
        e.Wait(what="signal", id="go/1"),
    )
    await door.rig.act(
        task.id,
        e.WorkStarted(),
        e.InputRequested(
            ordinal=1, request_id=ASKED, prompt="Send it?", json_schema=schema, expires_at=DUE
        ),
        e.Delegated(ordinal=2, child_task_id=CHILD, agent="writer", budget={"tokens": 40}),
        e.TimerSet(ordinal=3, timer_id="t1", fires_at=DUE),
        e.Spent(counter="tokens", amount=7, ordinal=4),
        e.Suspended(waits=waits),
    )
    return task


async def test_a_task_shows_what_it_waits_for_and_what_it_may_spend(door: Door, mesh: Mesh) -> None:
    task = await waiting(door, mesh)
    shown = MessageToDict(await task.info())
    due = "2026-01-04T00:00:00Z"
    assert shown["state"] == "INPUT_REQUIRED"
    assert shown["questions"] == [
        {
            "id": ASKED,
            "prompt": "Send it?",
            "jsonSchema": {"enum": ["yes", "no"], "minLength": 2},
            "expiresAt": due,
        }
    ]
    assert shown["waits"] == [
        {"what": "input", "id": ASKED, "dueAt": due},
        {"what": "child", "id": CHILD, "agent": "writer"},
        {"what": "signal", "id": "go/1"},
        {"what": "timer", "id": "t1", "group": 1, "dueAt": due},
    ]
    assert shown["children"] == [{"taskId": CHILD, "agent": "writer", "budget": {"tokens": "40"}}]
    assert (shown["budget"], shown["spent"]) == (
        {"tokens": "100", "calls": "3"},
        {"tokens": "47"},
    )
    assert "parked" not in shown


async def test_lists_leave_out_what_may_be_much(door: Door, mesh: Mesh) -> None:
    task = await waiting(door, mesh)
    await door.recorded()
    async with aclosing(mesh.tasks()) as tasks:
        (listed,) = [one async for one in tasks]
    assert listed.task_id == task.id
    assert listed.state == Task.INPUT_REQUIRED
    assert (len(listed.questions), len(listed.waits), len(listed.children)) == (0, 0, 0)
    assert dict(listed.budget) == {"tokens": 100, "calls": 3}
    async with aclosing(task.watch()) as updates:
        first = await anext(updates)
        last = first
        while last.event.kind != "task.suspended":
            last = await anext(updates)
    assert len(first.task.waits) == 4
    assert [one.id for one in last.task.questions] == [ASKED]
    assert (len(last.task.waits), len(last.task.children)) == (0, 0)


@pytest.mark.parametrize("text", ["{", "[" * 40 + "]" * 40])
async def test_a_schema_that_is_none_is_shown_as_text(door: Door, mesh: Mesh, text: str) -> None:
    task = await waiting(door, mesh, schema=text)
    (question,) = (await task.info()).questions
    assert question.json_schema.string_value == text


async def test_a_question_is_answered_once(door: Door, mesh: Mesh) -> None:
    task = await waiting(door, mesh)
    with pytest.raises(AnswerInvalid, match="'perhaps' is not one of") as unfit:
        await task.answer("perhaps")
    assert unfit.value.field == ""
    answered = await task.answer("yes", question_id=ASKED)
    assert not answered.questions
    assert [one.what for one in answered.waits] == ["child", "signal", "timer"]
    with pytest.raises(QuestionClosed) as closed:
        await task.answer("no", question_id=ASKED)
    assert (closed.value.request_id, closed.value.reason) == (ASKED, "was answered already")
    (record,) = [
        record
        for record in await door.rig.bus.history(task.id)
        if record.envelope and isinstance(record.envelope.event, e.InputReceived)
    ]
    assert record.envelope is not None
    assert record.envelope.event == e.InputReceived(
        request_id=ASKED, answer=Payload(content_type="application/json", data=b'"yes"')
    )


async def test_a_signal_wakes_only_who_has_the_rest(door: Door, mesh: Mesh) -> None:
    task = await waiting(door, mesh)
    await task.answer("no")
    shown = await task.signal("go", {"by": "ada"})
    assert [one.what for one in shown.waits] == ["child", "timer"]
    with pytest.raises(NameInvalid):
        await task.signal("Go!")
    with pytest.raises(PayloadTooLarge):
        await task.signal("go", b"x" * (64 * 1024 * 1024 + 1))
    await door.rig.act(task.id, e.CancelRequested(), e.Canceled())
    with pytest.raises(TaskClosed):
        await task.signal("go")
    with pytest.raises(TaskUnknown):
        await mesh.task("0" * 32).signal("go")


async def test_a_held_task_shows_why_and_is_released_once(door: Door, mesh: Mesh) -> None:
    task = await mesh.submit("planner")
    await door.rig.act(
        task.id, e.WorkStarted(), e.Parked(ordinal=3, recorded="step `a`", asked="step `b`")
    )
    shown = MessageToDict(await task.info())
    assert shown["parked"] == {"ordinal": 3, "recorded": "step `a`", "asked": "step `b`"}
    assert not (await task.unpark("mended")).HasField("parked")
    with pytest.raises(NotParked):
        await task.unpark()


@pytest.mark.parametrize("limit", [-1, 2**63])
async def test_a_budget_that_none_can_be_is_refused(mesh: Mesh, limit: int) -> None:
    with pytest.raises(Invalid, match=f"budget of `tokens` is {limit}"):
        await mesh.submit("planner", budget={"tokens": limit})


async def dead_letters(door: Door, mesh: Mesh, count: int) -> list[str]:
    """So many tasks of the planner that nobody could run, a second apart."""
    dead: list[str] = []
    for n in range(count):
        task = await mesh.submit("planner", {"n": n})
        turn = (await door.rig.task(task.id)).turn
        assert turn is not None
        letter = e.DeadLettered(
            delivery_id=turn.delivery_id,
            delivery_position=turn.delivery_position,
            attempts=5,
            failure=FAILURE,
        )
        await door.rig.act(task.id, e.WorkStarted(), letter)
        dead.append(task.id)
    await door.recorded()
    return dead


async def test_many_are_redriven_and_the_refused_do_not_hold_the_others_back(
    door: Door, mesh: Mesh
) -> None:
    dead = await dead_letters(door, mesh, 40)
    working = (await mesh.submit("planner")).id
    asked = [working, *dead, dead[0], "0" * 32, "junk"]
    async with aclosing(mesh.redrive_all(asked)) as outcomes:
        found = [outcome async for outcome in outcomes]
    assert [one.task_id for one in found] == [working, *dead, "0" * 32, "junk"]
    refused = {one.task_id: one.error.code for one in found if one.HasField("error")}
    assert refused == {
        working: "task.not_dead_lettered",
        "0" * 32: "task.unknown",
        "junk": "core.name_invalid",
    }
    assert {one.task.state for one in found if one.HasField("task")} == {Task.SUBMITTED}
    await door.recorded()
    async with aclosing(mesh.dead_letters()) as entries:
        assert [entry async for entry in entries] == []


async def test_dead_letters_are_listed_from_an_instant_on(door: Door, mesh: Mesh) -> None:
    dead = await dead_letters(door, mesh, 6)
    async with aclosing(mesh.dead_letters()) as entries:
        all_ = [entry async for entry in entries]
    since = all_[3].occurred_at.ToDatetime(START.tzinfo)
    async with aclosing(mesh.dead_letters(agent="planner", since=since)) as entries:
        assert [entry.task_id async for entry in entries] == dead[3:]


async def test_a_gateway_that_goes_ends_the_redrive_with_its_error(door: Door, mesh: Mesh) -> None:
    dead = await dead_letters(door, mesh, 40)
    found: list[RedriveOutcome] = []

    async def redrive(impatient: Mesh, gateway: Running) -> None:
        async with aclosing(impatient.redrive_all(dead)) as outcomes:
            async for outcome in outcomes:
                found.append(outcome)
                await gateway.stop()

    async with anyio.create_task_group() as tasks:
        gateway = await door.start_gateway(tasks)
        async with open_mesh(gateway.address, patience_s=0.2) as impatient:
            with pytest.raises(Unavailable):
                await redrive(impatient, gateway)
    assert [one.task_id for one in found] == dead[: len(found)]
    assert 0 < len(found) < len(dead)
    # Whoever asks again is told which were done.
    async with aclosing(mesh.redrive_all(dead)) as outcomes:
        again = [outcome.error.code async for outcome in outcomes]
    assert again == ["task.not_dead_lettered"] * len(found) + [""] * (len(dead) - len(found))
