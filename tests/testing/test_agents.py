"""Agents under test, written as their authors would write it: only public names."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mesh import Agent, ChildFailed, Context, Fail, Reply, Retry, Retryable, StepFailed
from mesh.errors import AnswerInvalid, NotParked, TaskCanceled, TaskClosed, TaskFailed
from mesh.testing import RecordedStep, Waiting, local_mesh
from tests.testing.shop import DAY, Shop, asker, booker, traveller

pytestmark = pytest.mark.anyio


@dataclass
class Order:
    items: list[str]


async def test_a_task_runs_to_its_result() -> None:
    shop = Shop()
    async with local_mesh(booker(shop)) as mesh:
        task = await mesh.submit("booker", "train")
        assert await task.result() == "train booked"
        assert task.state == "COMPLETED"
        assert task.kinds == ["submitted", "work_started", "step_recorded", "completed"]
        assert task.steps == [RecordedStep("book", "train booked")]
        assert shop.did == ["book train"]


async def test_a_step_is_retried_when_its_pause_is_over_and_not_before() -> None:
    shop = Shop(broken=2)
    async with local_mesh(booker(shop)) as mesh:
        task = await (await mesh.submit("booker", "train")).settled()
        assert len(shop.did) == 1
        (pause,) = task.waiting_for
        assert (pause.what, pause.name) == ("timer", "retry")
        assert pause.until is not None
        await mesh.advance(pause.until - mesh.now - timedelta(microseconds=1))
        assert len(shop.did) == 1
        await mesh.advance(timedelta(microseconds=1))
        assert len(shop.did) == 2
        assert await mesh.advance_to_next() > timedelta()
        assert await task.result() == "train booked"
        assert await mesh.advance_to_next() == timedelta()


async def test_a_sleeper_wakes_on_its_day() -> None:
    agent, woke = Agent("sleeper"), list[datetime]()

    @agent.on(int)
    async def nap(ctx: Context, naps: int) -> Reply:
        for _ in range(naps):
            await ctx.sleep(3 * DAY)
            woke.append(ctx.now())
        return Reply()

    start = datetime(2030, 2, 1, 12, tzinfo=UTC)
    async with local_mesh(agent, start=start) as mesh:
        task = await (await mesh.submit("sleeper", 2)).settled()
        assert task.waiting_for == [Waiting("timer", until=start + 3 * DAY)]
        await mesh.advance(3 * DAY - timedelta(seconds=1))
        assert woke == []
        await mesh.advance(10 * DAY)  # on the way everything happens at its own time
        assert list(dict.fromkeys(woke)) == [start + 3 * DAY, start + 6 * DAY]
        assert mesh.now == start + 13 * DAY - timedelta(seconds=1)
        assert task.state == "COMPLETED"


async def test_a_question_is_answered_refused_and_expires() -> None:
    async with local_mesh(asker()) as mesh:
        task = await (await mesh.submit("asker", "train")).settled()
        assert task.state == "INPUT_REQUIRED"
        assert task.waiting_for == [Waiting("input", "book train?", mesh.now + DAY)]
        with pytest.raises(AnswerInvalid):
            await task.answer("perhaps")
        await task.answer(True)
        await task.settled()
        assert [question.prompt for question in task.questions] == ["who?"]
        await mesh.advance(DAY)
        assert await task.result(list[bool | str]) == [True, "anybody"]


async def test_a_question_nobody_answers_ends_as_the_handler_says() -> None:
    async with local_mesh(asker()) as mesh:
        task = await mesh.submit("asker", "train")
        await mesh.advance(2 * DAY)
        with pytest.raises(TaskFailed, match="nobody answered"):
            await task.result()
        with pytest.raises(TaskClosed):
            await task.cancel()


async def test_a_signal_may_come_before_it_is_asked_for() -> None:
    agent = Agent("gate")

    @agent.on(str)
    async def wait(ctx: Context, name: str) -> Reply:
        return Reply([await ctx.signal(name, int), await ctx.signal(name, int)])

    async with local_mesh(agent) as mesh:
        task = await mesh.submit("gate", "go")
        await task.signal("go", 1)
        await task.settled()
        assert task.waiting_for == [Waiting("signal", "go")]
        await task.signal("go", 2)
        assert await task.result() == [1, 2]


async def test_children_are_joined_and_can_be_looked_at() -> None:
    parent, child = Agent("parent"), Agent("child")

    @child.on(str)
    async def work(ctx: Context, item: str) -> Reply | Fail:
        ctx.spend("tokens", len(item))
        await ctx.sleep(DAY)
        return Fail("sold out") if item == "moon" else Reply(item.upper())

    @parent.on(Order)
    async def handle(ctx: Context, order: Order) -> Reply:
        parts = (ctx.delegate("child", item, budget={"tokens": 10}) for item in order.items)
        found = await ctx.gather(*parts, failures="collect")
        return Reply([x.reason if isinstance(x, ChildFailed) else x for x in found])

    async with local_mesh(parent, child) as mesh:
        task = await mesh.submit("parent", Order(["sun", "moon"]), budget={"tokens": 20})
        await task.settled()
        assert task.waiting_for == [Waiting("child", "child")] * 2
        sun, moon = task.children
        assert (await sun.input(), await moon.input()) == ("sun", "moon")
        assert sun.waiting_for == [Waiting("timer", until=mesh.now + DAY)]
        await mesh.advance(DAY)
        assert await task.result() == ["SUN", "sold out"]
        assert (sun.state, moon.state) == ("COMPLETED", "FAILED")
        assert task.spent == {"tokens": 7}
        assert [each.id for each in mesh.tasks] == [task.id, sun.id, moon.id]


async def test_a_cancel_undoes_in_reverse() -> None:
    shop = Shop()
    async with local_mesh(traveller(shop)) as mesh:
        task = await (await mesh.submit("traveller", "Rome")).settled()
        await task.cancel("it rains")
        with pytest.raises(TaskCanceled, match="it rains"):
            await task.result()
        assert shop.did == ["book train", "book hotel", "cancel hotel", "cancel train"]
        assert [step.name for step in task.steps if step.undo] == ["Shop.cancel", "Shop.cancel"]


async def test_a_dead_letter_is_redriven_when_the_world_is_mended() -> None:
    shop = Shop(broken=3)
    async with local_mesh(booker(shop, retry=Retry(attempts=3))) as mesh:
        task = await mesh.submit("booker", "train")
        await mesh.advance(DAY)
        assert task.dead_lettered
        with pytest.raises(TaskFailed, match="no answer to 3"):
            await task.result()
        await task.redrive()
        assert await task.result() == "train booked"
        assert len(shop.did) == 4


async def test_a_handler_that_raises_is_run_again_when_it_says() -> None:
    agent, runs = Agent("moody"), list[int]()

    @agent.on(str)
    async def handle(ctx: Context, text: str) -> Reply:
        runs.append(ctx.attempt)
        if len(runs) == 1:
            raise Retryable("not yet", after=60)
        return Reply("calm")

    async with local_mesh(agent) as mesh:
        task = await mesh.submit("moody", "x")
        await mesh.advance(59)
        assert runs == [1]
        await mesh.advance(1)
        assert await task.result() == "calm"
        assert runs == [1, 2]


def declared(shop: Shop, second: str) -> Agent:
    agent = Agent("traveller")

    @agent.on(str)
    async def travel(ctx: Context, town: str) -> Reply:
        await ctx.step("train", shop.book, "train")
        await ctx.step(second, shop.book, second)
        await ctx.sleep(DAY)
        return Reply(town)

    return agent


async def test_a_changed_handler_parks_and_a_mended_one_goes_on() -> None:
    shop = Shop()
    async with local_mesh(declared(shop, "hotel")) as mesh:
        task = await (await mesh.submit("traveller", "Rome")).settled()
        with pytest.raises(NotParked):
            await task.unpark()
        await mesh.replace(declared(shop, "tent"))
        await mesh.advance(DAY)
        assert task.parked is not None
        assert (task.parked.ordinal, task.parked.recorded) == (2, "step `hotel`")
        assert task.parked.asked == "step `tent`"
        with pytest.raises(TimeoutError, match="parked at 2"):
            await task.result()
        await mesh.replace(declared(shop, "hotel"))
        await task.unpark("mended")
        assert await task.result() == "Rome"
        assert shop.did == ["book train", "book hotel"]


async def test_a_deadline_passes() -> None:
    async with local_mesh(asker()) as mesh:
        task = await mesh.submit("asker", "train", deadline=60)
        await mesh.advance(61)
        with pytest.raises(TaskFailed, match="deadline") as failed:
            await task.result()
        assert failed.value.failure_code == "guard.deadline"


async def test_a_step_that_is_used_up_can_be_caught() -> None:
    agent, shop = Agent("calm"), Shop(broken=2)

    @agent.on(str)
    async def handle(ctx: Context, what: str) -> Reply:
        try:
            return Reply(await ctx.step("book", shop.book, what, retry=Retry(attempts=2)))
        except StepFailed as error:
            return Reply(error.reason)

    async with local_mesh(agent) as mesh:
        task = await mesh.submit("calm", "train")
        await mesh.advance(DAY)
        assert await task.result() == "no answer to 2"
        assert task.steps == [RecordedStep("book", error="no answer to 2")]


def test_this_file_uses_public_names_only() -> None:
    lines = Path(__file__).read_text().splitlines()
    used = {line.split()[1] for line in lines if line.startswith("from mesh")}
    assert used == {"mesh", "mesh.errors", "mesh.testing"}
