"""What the test kit itself promises."""

import logging
from collections.abc import AsyncGenerator

import anyio
import pytest

from mesh import Agent, Context, Handoff, Reply
from mesh.errors import AgentUnknown, HandlerInvalid, TaskUnknown
from mesh.testing import LocalMesh, local_mesh
from tests.testing.shop import DAY, Shop, asker, booker, traveller

pytestmark = pytest.mark.anyio


@pytest.fixture
async def mesh() -> AsyncGenerator[LocalMesh]:
    async with local_mesh(booker(Shop(broken=1)), asker()) as mesh:
        yield mesh


async def test_a_mesh_can_be_a_fixture(mesh: LocalMesh) -> None:
    booked, asked = await mesh.submit("booker", "train"), await mesh.submit("asker", "train")
    assert await mesh.advance_to_next() < DAY
    assert (booked.state, asked.state) == ("COMPLETED", "INPUT_REQUIRED")
    assert mesh.task(booked.id).history == booked.history
    with pytest.raises(TaskUnknown):
        mesh.task("0" * 32)


async def test_a_result_that_is_not_there_says_what_it_waits_for() -> None:
    async with local_mesh(asker()) as mesh:
        task = await mesh.submit("asker", "train")
        with pytest.raises(
            TimeoutError, match=r"`asker` waits for input `book train\?` until 2026"
        ):
            await task.result()


async def test_a_crash_loses_nothing_that_was_recorded() -> None:
    shop, agent, begun = Shop(), Agent("traveller"), anyio.Event()

    async def hotel() -> str:
        if "hang" not in shop.did:
            shop.did.append("hang")
            begun.set()
            await anyio.sleep_forever()
        return "hotel booked"

    @agent.on(str)
    async def travel(ctx: Context, town: str) -> Reply:
        return Reply([await ctx.step("train", shop.book, "train"), await ctx.step("hotel", hotel)])

    async with local_mesh(agent) as mesh:
        task = await mesh.submit("traveller", "Rome")
        await begun.wait()
        await mesh.crash("traveller")
        assert await task.result() == ["train booked", "hotel booked"]
        assert shop.did == ["book train", "hang"]


async def test_one_agent_is_tested_without_those_it_hands_off_to() -> None:
    agent = Agent("planner")

    @agent.on(str)
    async def plan(ctx: Context, town: str) -> Handoff:
        ctx.decide("town", town, why="asked for")
        return Handoff("booker", [town], next_task="book it")

    async with local_mesh(agent, others=["booker"]) as mesh:
        task = await (await mesh.submit("planner", "Rome")).settled()
        assert (task.owner, task.state) == ("booker", "SUBMITTED")
        assert await task.input(list[str]) == ["Rome"]
        assert task.packet is not None
        assert task.packet.next_task == "book it"
        with pytest.raises(AgentUnknown):
            await mesh.submit("nobody")


async def test_a_handler_that_never_ends_is_named() -> None:
    agent = Agent("stuck")

    @agent.on(str)
    async def handle(ctx: Context, text: str) -> Reply:
        await anyio.sleep_forever()
        return Reply()

    async with local_mesh(agent, patience_s=0.05) as mesh:
        task = await mesh.submit("stuck", "x")
        with pytest.raises(TimeoutError, match=rf"`stuck` has had task `{task.id}`"):
            await task.settled()


async def test_what_cannot_be_is_refused() -> None:
    agent = booker(Shop())
    with pytest.raises(ValueError, match="two agents `booker`"):
        async with local_mesh(agent, others=["booker"]):
            raise AssertionError("not reached")
    with pytest.raises(HandlerInvalid):
        async with local_mesh(Agent("idle")):
            raise AssertionError("not reached")
    async with local_mesh(agent) as mesh:
        with pytest.raises(TypeError, match="no option 'dead_line'; there are key, deadline"):
            await mesh.submit("booker", "train", **{"dead_line": 3})  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="time does not go back"):
            await mesh.advance(-1)
        with pytest.raises(ValueError, match="no agent `banker` runs here"):
            await mesh.crash("banker")


async def test_what_a_test_raises_leaves_as_itself() -> None:
    async def broken() -> None:
        async with local_mesh(booker(Shop())) as mesh:
            await mesh.submit("booker", "train")
            raise AssertionError("mine")

    with pytest.raises(AssertionError, match="mine"):
        await broken()


async def test_the_same_test_makes_the_same_history_to_the_byte(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR)
    seen: set[tuple[bytes, ...]] = set()
    for _ in range(3):
        async with local_mesh(booker(Shop(broken=1)), traveller(Shop())) as mesh:
            await mesh.submit("booker", "train")
            await mesh.advance(DAY)
            trip = await mesh.submit("traveller", "Rome")
            await mesh.settled()
            await trip.signal("leave")
            await mesh.settled()
            seen.add(tuple(record.raw for task in mesh.tasks for record in task.history))
    assert len(seen) == 1


async def test_a_handler_that_does_not_take_the_same_way_parks_at_once_when_always_replayed() -> (
    None
):
    agent, runs = Agent("fickle"), list[str]()

    @agent.on(str)
    async def handle(ctx: Context, text: str) -> Reply:
        runs.append(text)
        await ctx.step(f"run {len(runs)}", str.upper, text)
        return Reply(text)

    async with local_mesh(agent) as mesh:
        assert await (await mesh.submit("fickle", "x")).result() == "x"
    runs.clear()
    async with local_mesh(agent, always_replay=True) as mesh:
        task = await (await mesh.submit("fickle", "x")).settled()
        assert task.parked is not None
        assert (task.parked.recorded, task.parked.asked) == ("step `run 1`", "step `run 2`")


async def test_what_is_emitted_is_kept() -> None:
    agent = Agent("writer")

    @agent.on(str)
    async def write(ctx: Context, text: str) -> Reply:
        for word in text.split():
            ctx.emit(f"{word} ")
        return Reply()

    async with local_mesh(agent) as mesh:
        task = await mesh.submit("writer", "to be or not")
        assert await task.result() is None
        assert task.output == "to be or not "
