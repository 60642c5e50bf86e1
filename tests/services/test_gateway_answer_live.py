"""Answers and signals at two gateways at once, on a real broker."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from mesh.bus.port import Bus
from mesh.clock import SystemIds
from mesh.core import event as e
from mesh.core.fold import fold
from mesh.core.payload import Payload
from mesh.errors import QuestionClosed
from mesh.gateway.desk import Desk
from mesh.gateway.submission import Submission
from mesh.testing.broker import Broker, open_broker
from tests.services.live_gateway import act, open_live_desk

pytestmark = pytest.mark.live
ASKED = "a1" * 16
SCHEMA = '{"enum": [1, 2]}'
ONE, TWO = (Payload(content_type="application/json", data=data) for data in (b"1", b"2"))


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncGenerator[Broker]:
    async with open_broker(tmp_path) as running:
        yield running


@asynccontextmanager
async def two_desks(broker: Broker) -> AsyncGenerator[tuple[Desk, Desk]]:
    async with open_live_desk(broker) as one, open_live_desk(broker) as other:
        yield one, other


async def asked(desk: Desk) -> str:
    """A task of the planner with an open question."""
    task_id = (await desk.submit(Submission(agent="planner"))).task.task_id
    await act(
        desk.parts.bus,
        task_id,
        e.InputRequested(ordinal=1, request_id=ASKED, json_schema=SCHEMA),
    )
    return task_id


async def answers(bus: Bus, task_id: str) -> list[Payload | None]:
    """What stands, in order."""
    return [
        record.envelope.event.answer
        for record in await bus.history(task_id)
        if record.envelope and isinstance(record.envelope.event, e.InputReceived)
    ]


async def race(desks: tuple[Desk, Desk], task_id: str) -> tuple[list[Payload], list[str]]:
    """Each desk is given another answer: what was taken, and why what was not."""
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
        for desk, answer in zip(desks, (ONE, TWO), strict=True):
            tasks.start_soon(give, desk, answer)
    return taken, refused


async def test_of_two_answers_at_once_the_first_in_the_log_is_taken(broker: Broker) -> None:
    async with two_desks(broker) as desks:
        for _ in range(20):
            task_id = await asked(desks[0])
            taken, refused = await race(desks, task_id)
            assert refused == ["was answered already"]
            assert [(await answers(desks[0].parts.bus, task_id))[0]] == taken


async def test_one_request_at_two_gateways_at_once_is_one_event(broker: Broker) -> None:
    async with two_desks(broker) as desks:
        bus, ids = desks[0].parts.bus, SystemIds()
        for _ in range(20):
            task_id, answer, signal = await asked(desks[0]), ids.fresh(), ids.fresh()

            async def give(desk: Desk, task_id: str, answer: str, signal: str) -> None:
                await desk.answer(task_id, ONE, request_id=answer)
                await desk.signal(task_id, "go", request_id=signal)

            async with anyio.create_task_group() as tasks:
                for desk in (*desks, desks[0]):
                    tasks.start_soon(give, desk, task_id, answer, signal)
            assert await answers(bus, task_id) == [ONE]
            leg = fold(await bus.history(task_id)).leg
            assert leg is not None
            assert leg.signals == {"go": 1}


async def test_a_broker_that_is_killed_under_signals_doubles_none(broker: Broker) -> None:
    given = 0

    async def give(desk: Desk, task_id: str) -> None:
        nonlocal given
        await desk.signal(task_id, "go")
        given += 1

    async with two_desks(broker) as desks:
        task_ids = [await asked(desks[0]) for _ in range(40)]
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                for task_id in task_ids:
                    tasks.start_soon(give, desks[0], task_id)
                while given < 5:
                    await anyio.lowlevel.checkpoint()
                await broker.restart()
        for task_id in task_ids:
            leg = fold(await desks[1].parts.bus.history(task_id)).leg
            assert leg is not None
            assert leg.signals == {"go": 1}
