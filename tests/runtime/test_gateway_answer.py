"""Answers at the front door: who is first, who came too late, and what does not fit."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from datetime import timedelta

import anyio
import pytest

from mesh.bus.inproc import Fault
from mesh.core import event as e
from mesh.core.leg import INPUT
from mesh.core.payload import Payload
from mesh.core.task import State
from mesh.errors import (
    AnswerInvalid,
    Invalid,
    PayloadInvalid,
    QuestionClosed,
    Refused,
    TaskClosed,
    TaskUnknown,
)
from mesh.gateway.desk import Desk
from tests.make import START
from tests.runtime.gateway_rig import FAILURE, HELLO, OTHER, GatewayRig, kinds, submission
from tests.runtime.interrupted_bus import InterruptedBus, interrupted

REQUEST = "cd" * 16
ASKED, SECOND = "a1" * 16, "a2" * 16
SCHEMA = '{"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}'
YES = Payload(content_type="application/json", data=b'{"ok": true}')
NO = Payload(content_type="application/json", data=b'{"ok": false}')
MAYBE = Payload(content_type="application/json", data=b'{"ok": "maybe"}')


@pytest.fixture
async def rig() -> AsyncGenerator[GatewayRig]:
    made = GatewayRig(bus=InterruptedBus)
    async with made.agent("planner"), made.agent("writer"):
        yield made


@pytest.fixture
async def desk(rig: GatewayRig) -> AsyncGenerator[Desk]:
    async with rig.desks(1) as (made,):
        yield made


def question(
    request_id: str = ASKED, *, ordinal: int = 1, schema: str = SCHEMA
) -> e.InputRequested:
    return e.InputRequested(
        ordinal=ordinal,
        request_id=request_id,
        prompt="May it go out?",
        json_schema=schema,
        expires_at=START + timedelta(days=3),
    )


async def asked(rig: GatewayRig, desk: Desk, *questions: e.InputRequested) -> str:
    """A task of the planner that waits for a person."""
    task_id = (await desk.submit(submission())).task.task_id
    waits = tuple(e.Wait(what=INPUT, id=one.request_id) for one in questions)
    await rig.act(task_id, e.WorkStarted(), *questions, e.Suspended(waits=waits))
    assert (await rig.task(task_id)).state is State.INPUT_REQUIRED
    return task_id


async def answers(rig: GatewayRig, task_id: str) -> list[tuple[str, Payload | None]]:
    """To whom each answer went, and what it was."""
    return [
        (record.envelope.to, record.envelope.event.answer)
        for record in await rig.bus.history(task_id)
        if record.envelope and isinstance(record.envelope.event, e.InputReceived)
    ]


async def expire(rig: GatewayRig, task_id: str, question_id: str = ASKED) -> None:
    await rig.act(task_id, e.TimerFired(timer_id=question_id), to="planner")


async def test_an_answer_goes_to_the_owner_closes_the_question_and_hints(
    rig: GatewayRig, desk: Desk
) -> None:
    task_id = await asked(rig, desk, question())
    async with rig.bus.hints("look.*") as hints:
        reading = await desk.answer(task_id, YES)
        with anyio.fail_after(2):
            assert (await anext(hints)).topic == f"look.{task_id}"
    assert await answers(rig, task_id) == [("planner", YES)]
    assert reading.task.leg is not None
    assert reading.task.leg.questions == ()
    assert reading.task.turn is not None  # it was waited for: somebody carries the task now
    assert reading.last.sender.agent == "gateway"


async def test_an_answer_that_does_not_fit_leaves_the_question_open(
    rig: GatewayRig, desk: Desk
) -> None:
    task_id = await asked(rig, desk, question())
    with pytest.raises(AnswerInvalid, match="`ok`: 'maybe' is not of type 'boolean'") as refused:
        await desk.answer(task_id, MAYBE, question_id=ASKED)
    assert refused.value.field == "ok"
    assert await answers(rig, task_id) == []
    assert (await desk.answer(task_id, NO)).task.turn is not None


async def test_a_schema_of_no_use_is_said_so_and_nothing_is_written(
    rig: GatewayRig, desk: Desk
) -> None:
    task_id = await asked(rig, desk, question(schema='{"type": 1}'))
    with pytest.raises(Refused, match="JSON Schema that cannot be used"):
        await desk.answer(task_id, YES)
    assert await answers(rig, task_id) == []


async def test_a_second_answer_is_refused(rig: GatewayRig, desk: Desk) -> None:
    task_id = await asked(rig, desk, question())
    await desk.answer(task_id, YES, question_id=ASKED)
    with pytest.raises(QuestionClosed) as refused:
        await desk.answer(task_id, NO, question_id=ASKED)
    assert refused.value.reason == "was answered already"
    assert (refused.value.task_id, refused.value.request_id) == (task_id, ASKED)
    assert await answers(rig, task_id) == [("planner", YES)]
    with pytest.raises(Refused, match="no open question"):
        await desk.answer(task_id, NO)


async def test_an_expired_an_unknown_and_an_abandoned_question_are_refused(
    rig: GatewayRig, desk: Desk
) -> None:
    task_id = await asked(rig, desk, question())
    await expire(rig, task_id)
    with pytest.raises(QuestionClosed, match="has expired"):
        await desk.answer(task_id, YES, question_id=ASKED)
    with pytest.raises(QuestionClosed, match="is not open"):
        await desk.answer(task_id, YES, question_id=SECOND)
    await rig.act(task_id, question(SECOND, ordinal=2))
    await rig.act(task_id, e.HandedOff(input=OTHER), to="writer")
    with pytest.raises(QuestionClosed, match="is not open"):
        await desk.answer(task_id, YES, question_id=SECOND)
    assert await answers(rig, task_id) == []


async def test_a_question_whose_expiry_is_due_but_not_stored_is_answered(
    rig: GatewayRig, desk: Desk
) -> None:
    task_id = await asked(rig, desk, question())
    rig.clock.advance(4 * 86400)
    await desk.answer(task_id, YES)
    await expire(rig, task_id)
    assert await answers(rig, task_id) == [("planner", YES)]


async def test_of_several_questions_one_must_be_named(rig: GatewayRig, desk: Desk) -> None:
    task_id = await asked(rig, desk, question(), question(SECOND, ordinal=2))
    with pytest.raises(Invalid, match=f"2 open questions.*{ASKED}.*{SECOND}"):
        await desk.answer(task_id, YES)
    await desk.answer(task_id, YES, question_id=SECOND)
    reading = await desk.answer(task_id, NO)
    assert reading.task.leg is not None
    assert reading.task.leg.questions == ()


async def race(task_id: str, desks: Sequence[Desk]) -> tuple[list[Payload], list[str]]:
    """One gateway is told yes and the other no, at once: what was taken, and why what was not."""
    taken: list[Payload] = []
    refused: list[str] = []

    async def give(desk: Desk, answer: Payload) -> None:
        try:
            await desk.answer(task_id, answer)
        except QuestionClosed as error:
            refused.append(error.reason)
        else:
            taken.append(answer)

    async with anyio.create_task_group() as tasks:
        for desk, answer in zip(desks, (YES, NO), strict=True):
            tasks.start_soon(give, desk, answer)
    return taken, refused


async def test_of_two_answers_at_once_one_is_taken_and_the_other_is_told(rig: GatewayRig) -> None:
    async with rig.desks(2) as desks:
        for _ in range(20):
            task_id = await asked(rig, desks[0], question())
            taken, refused = await race(task_id, desks)
            stored = await answers(rig, task_id)
            assert len(taken) == 1
            assert refused == ["was answered already"]
            assert stored[0] == ("planner", taken[0])


@pytest.mark.parametrize("named", ["", ASKED])
@pytest.mark.parametrize("rival", ["answer", "expiry"])
async def test_an_answer_behind_another_or_the_expiry_is_told_that_it_lost(
    rig: GatewayRig, desk: Desk, named: str, rival: str
) -> None:
    task_id = await asked(rig, desk, question())

    async def forestall() -> None:
        if rival == "answer":
            await desk.answer(task_id, NO, question_id=ASKED)
        else:
            await expire(rig, task_id)

    reason = "was answered already" if rival == "answer" else "has expired"
    interrupted(rig.bus).before = forestall
    for _ in range(2):
        with pytest.raises(QuestionClosed, match=reason):
            await desk.answer(task_id, YES, question_id=named, request_id=REQUEST)
    stored = await answers(rig, task_id)
    assert stored.count(("planner", YES)) == 1  # visible, and without effect
    assert len(stored) == (2 if rival == "answer" else 1)


async def test_an_answer_before_the_expiry_wins(rig: GatewayRig, desk: Desk) -> None:
    task_id = await asked(rig, desk, question())
    interrupted(rig.bus).after = lambda: expire(rig, task_id)
    await desk.answer(task_id, YES)
    assert kinds(await rig.bus.history(task_id))[-2:] == ["input_received", "timer_fired"]


async def test_a_repeated_request_is_one_answer_and_no_second_one(rig: GatewayRig) -> None:
    async with rig.desks(2) as desks:
        task_id = await asked(rig, desks[0], question())
        for desk in (*desks, *desks):
            for named in ("", ASKED):
                await desk.answer(task_id, YES, question_id=named, request_id=REQUEST)
        assert await answers(rig, task_id) == [("planner", YES)]
        with pytest.raises(Invalid, match="something else"):
            await desks[0].answer(task_id, YES, question_id=SECOND, request_id=REQUEST)
        with pytest.raises(Invalid, match="request_id"):
            await desks[0].answer(task_id, YES, request_id="junk")


async def test_one_request_at_two_gateways_at_once_is_one_answer(rig: GatewayRig) -> None:
    async with rig.desks(2) as desks:
        for n in range(20):
            task_id = await asked(rig, desks[0], question())
            request_id = f"{n:032x}"

            async def give(desk: Desk, task_id: str, request_id: str) -> None:
                await desk.answer(task_id, YES, request_id=request_id)

            async with anyio.create_task_group() as tasks:
                for desk in (*desks, desks[0]):
                    tasks.start_soon(give, desk, task_id, request_id)
            assert await answers(rig, task_id) == [("planner", YES)]


@pytest.mark.parametrize("faults", [[Fault.STORED], [Fault.LOST], [Fault.DOWN, Fault.STORED]])
async def test_an_answer_whose_confirmation_was_lost_is_stored_once(
    rig: GatewayRig, desk: Desk, faults: list[Fault]
) -> None:
    task_id = await asked(rig, desk, question())
    rig.bus.faults.extend(faults)
    await desk.answer(task_id, YES)
    assert await answers(rig, task_id) == [("planner", YES)]


async def test_an_answer_that_comes_after_a_hand_off_is_refused(
    rig: GatewayRig, desk: Desk
) -> None:
    task_id = (await desk.submit(submission())).task.task_id
    await rig.act(task_id, e.WorkStarted(), question())

    async def hand_off() -> None:
        await rig.act(task_id, e.HandedOff(input=OTHER), to="writer")

    interrupted(rig.bus).before = hand_off
    with pytest.raises(QuestionClosed, match="is not open"):
        await desk.answer(task_id, YES)
    # The question went with the leg that asked it: the next owner has no use for the answer.
    assert await answers(rig, task_id) == [("planner", YES)]


async def test_a_closed_task_takes_no_answer(rig: GatewayRig, desk: Desk) -> None:
    task_id = (await desk.submit(submission())).task.task_id
    await rig.act(task_id, e.WorkStarted(), question())
    await rig.act(task_id, e.Completed(result=HELLO))
    for named in ("", ASKED):
        with pytest.raises(TaskClosed):
            await desk.answer(task_id, YES, question_id=named)
    with pytest.raises(TaskUnknown):
        await desk.answer("0" * 32, YES)


async def test_a_dead_letter_takes_an_answer_only_after_its_redrive(
    rig: GatewayRig, desk: Desk
) -> None:
    task_id = (await desk.submit(submission())).task.task_id
    await rig.act(task_id, e.WorkStarted(), question())
    turn = (await rig.task(task_id)).turn
    assert turn is not None
    await rig.act(
        task_id,
        e.DeadLettered(
            delivery_id=turn.delivery_id,
            delivery_position=turn.delivery_position,
            attempts=5,
            failure=FAILURE,
        ),
    )
    with pytest.raises(TaskClosed):
        await desk.answer(task_id, YES, question_id=ASKED)
    await desk.redrive(task_id)
    await desk.answer(task_id, YES, question_id=ASKED)
    assert await answers(rig, task_id) == [("planner", YES)]


async def test_a_large_answer_is_claim_checked(rig: GatewayRig, desk: Desk) -> None:
    task_id = await asked(rig, desk, question(schema=""))
    large = replace(YES, data=b'"%s"' % (b"x" * 400_000))
    await desk.answer(task_id, large)
    ((_, kept),) = await answers(rig, task_id)
    assert kept is not None
    assert kept.blob is not None
    assert await rig.blobs.open(kept.blob) == large.data
    with pytest.raises(PayloadInvalid):
        await desk.answer(task_id, kept)
