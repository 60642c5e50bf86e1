"""Recorded histories against the handlers of today, as an author of agents keeps them."""

import json
from base64 import b64encode
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from mesh import Agent, Context, Fail, Handoff, Reply, Retry
from mesh.errors import EnvelopeInvalid, HistoryCorrupt
from mesh.testing import (
    LocalTask,
    first_divergence,
    load_histories,
    local_mesh,
    save_histories,
)
from services.planner.agent import planner

pytestmark = pytest.mark.anyio

V1 = Path(__file__).parents[1] / "replay" / "v1.ndjson"
Handle = Callable[[Context, str], Awaitable[Reply | Handoff | Fail]]


def once(name: str) -> Any:
    def never_again(*_: object) -> str:
        return name

    return never_again


def forbidden(*_: object) -> str:
    raise AssertionError("a step was run again")


def agent_of(handle: Handle, name: str = "worker") -> Agent:
    agent = Agent(name)

    @agent.on(str)
    async def run(ctx: Context, text: str) -> Reply | Handoff | Fail:
        return await handle(ctx, text)

    return agent


def handler(fn: Any, *steps: str, then: str = "reply") -> Handle:
    """Steps, a child, a nap, a signal, a question; and an outcome."""

    async def handle(ctx: Context, text: str) -> Reply | Handoff | Fail:
        ctx.compensate(fn, "undo")
        for name in steps:
            await ctx.step(name, fn, name)
        child = await ctx.delegate("child", text)
        await ctx.sleep(timedelta(days=1))
        signal = await ctx.signal("go", int)
        at = ctx.now().isoformat()
        ctx.spend("tokens", 5)
        await asked_last(ctx, then, fn)
        if then == "raise":
            raise KeyError("what")
        return ENDS.get(then, Reply)([child, signal, at])

    return handle


ENDS: dict[str, Callable[[object], Reply | Handoff | Fail]] = {
    "handoff": lambda value: Handoff("writer", value),
    "fail": lambda _: Fail("no"),
    "nothing": lambda _: Reply(),
}


async def asked_last(ctx: Context, then: str, fn: Any) -> None:
    match then:
        case "more":
            await ctx.step("more", fn)
        case "spend":
            ctx.spend("tokens", 5)
        case "ask":
            await ctx.ask("sure?", bool)
        case "wait":
            await ctx.signal("again")
        case _:
            pass


async def recorded(then: str = "reply", *, upto: str = "the end") -> LocalTask:
    """A task that such a handler has run, to the end or less far."""

    async def answer(ctx: Context, text: str) -> Reply:
        return Reply(text.upper())

    agents = agent_of(handler(once("x"), "a", "b", then=then)), agent_of(answer, "child")
    async with local_mesh(*agents, others=["writer"]) as mesh:
        task = await (await mesh.submit("worker", "hello")).settled()
        if upto == "the nap":
            return task
        await mesh.advance(timedelta(days=1))
        if upto == "the signal":
            return task
        await task.signal("go", 7)
        await mesh.advance(timedelta(days=30))
        return task


@pytest.mark.parametrize("upto", ["the nap", "the signal", "the end"])
@pytest.mark.parametrize("then", ["reply", "handoff", "fail", "raise"])
async def test_the_handler_that_wrote_a_history_does_not_diverge(then: str, upto: str) -> None:
    task = await recorded(then, upto=upto)
    same = agent_of(handler(forbidden, "a", "b", then=then))
    # An undo is known by its function's name.
    forbidden.__qualname__ = once("x").__qualname__
    assert await first_divergence(same, task.history) is None
    assert await first_divergence(agent_of(handler(forbidden), "other"), task.history) is None


async def test_no_beginning_of_a_history_diverges() -> None:
    task = await recorded()
    same = agent_of(handler(once("x"), "a", "b"))
    for end in range(1, len(task.history)):
        assert await first_divergence(same, task.history[:end]) is None, task.kinds[:end]


@pytest.mark.parametrize("upto", ["the nap", "the end"])
@pytest.mark.parametrize(
    ("steps", "ordinal", "said", "asked"),
    [
        (("a", "c"), 3, "step `b`", "step `c`"),
        (("b", "a"), 2, "step `a`", "step `b`"),
        (("a",), 3, "step `b`", "delegate `child`"),
        (("a", "b", "c"), 4, "delegate `child`", "step `c`"),
    ],
)
async def test_what_is_asked_for_differently_is_told(
    upto: str, steps: tuple[str, ...], ordinal: int, said: str, asked: str
) -> None:
    task = await recorded(upto=upto)
    found = await first_divergence(agent_of(handler(once("x"), *steps)), task.history)
    assert found is not None
    assert (found.ordinal, found.recorded, found.asked) == (ordinal, said, asked)


@pytest.mark.parametrize(
    ("then", "ordinal", "asked"),
    [
        ("nothing", 9, "completed with null"),
        ("handoff", 9, 'handed off to `writer` with ["HELLO",7,"2026-01-02T00:00:00+00:00"]'),
        ("fail", 9, "failed `agent.failed`: no"),
        ("raise", 9, "raised `python.KeyError`: 'what'"),
        ("more", 9, "step `more`"),
        ("spend", 9, "spend `tokens`"),
        ("ask", 9, "ask"),
        ("wait", 10, "a signal, or something else that never came back"),
    ],
)
async def test_another_end_is_told(then: str, ordinal: int, asked: str) -> None:
    task = await recorded()
    found = await first_divergence(agent_of(handler(once("x"), "a", "b", then=then)), task.history)
    assert found is not None
    assert found.recorded == 'completed with ["HELLO",7,"2026-01-02T00:00:00+00:00"]'
    assert (found.ordinal, found.asked) == (ordinal, asked)


async def test_a_handler_that_does_not_wait_where_it_waited_is_told() -> None:
    async def hasty(ctx: Context, text: str) -> Reply:
        ctx.compensate(once("x"), "undo")
        for name in ("a", "b"):
            await ctx.step(name, once("x"), name)
        await ctx.delegate("child", text)
        await ctx.sleep(timedelta(days=1))
        return Reply()

    task = await recorded(upto="the signal")
    found = await first_divergence(agent_of(hasty), task.history)
    assert found is not None
    assert (found.recorded, found.asked) == ("a wait for signal `go/1`", "completed with null")


async def test_retries_and_redrives_are_no_divergence() -> None:
    tries: list[int] = []

    def flaky() -> str:
        tries.append(1)
        if len(tries) <= 3:
            raise ConnectionError(str(len(tries)))
        return "done"

    async def handle(ctx: Context, text: str) -> Reply:
        return Reply(await ctx.step("flaky", flaky, retry=Retry(attempts=3)))

    async with local_mesh(agent_of(handle)) as mesh:
        task = await mesh.submit("worker", "x")
        await mesh.advance(1000)
        await task.redrive()
        assert await task.result() == "done"
    assert await first_divergence(agent_of(handle), task.history) is None
    assert len(tries) == 4


async def test_a_handoff_back_and_forth_runs_every_stretch() -> None:
    def ping(rounds: int, other: str) -> Handle:
        async def handle(ctx: Context, text: str) -> Reply | Handoff:
            await ctx.step("look", str.upper, text)
            return Reply(text) if len(text) > rounds else Handoff(other, text + "x")

        return handle

    agents = agent_of(ping(3, "pong"), "ping"), agent_of(ping(3, "ping"), "pong")
    async with local_mesh(*agents) as mesh:
        task = await mesh.submit("ping", "x")
        assert await task.result() == "xxxx"
    for agent in agents:
        assert await first_divergence(agent, task.history) is None
    found = await first_divergence(agent_of(ping(2, "pong"), "ping"), task.history)
    assert found is not None
    assert (found.recorded, found.asked) == (
        "handed off to `pong` with xxxx",
        "completed with xxx",
    )


async def test_histories_are_kept_in_files(tmp_path: Path) -> None:
    task, kept = await recorded(), tmp_path / "kept.ndjson"
    save_histories(kept, task.history)
    assert load_histories(kept) == [task.history]
    save_histories(kept, *reversed(load_histories(V1)))
    assert load_histories(kept) == load_histories(V1)
    kept.write_text(kept.read_text() + "{}\n")
    with pytest.raises(EnvelopeInvalid, match=r"kept.ndjson, line \d+ is no record"):
        load_histories(kept)


async def test_events_as_the_client_has_them_are_read(tmp_path: Path) -> None:
    task, kept = await recorded(), tmp_path / "events.ndjson"
    lines = [
        {
            "position": str(record.position),
            "storedAt": record.stored_at.isoformat(),
            "shard": "s0",
            "raw": b64encode(record.raw).decode(),
        }
        for record in task.history
    ]
    kept.write_text("\n".join(json.dumps(line) for line in lines))
    assert load_histories(kept) == [task.history]


class Greeting(BaseModel):
    name: str
    times: int = 1


def greeter(to: str) -> Agent:
    """The agent of the recording; where it slept for a minute, it does not any more."""
    agent = Agent("greeter")

    @agent.on(Greeting)
    async def greet(ctx: Context, greeting: Greeting) -> Handoff | Fail:
        if greeting.name == "nobody":
            return Fail("there is nobody to greet")
        if greeting.name == "poison":
            raise ValueError("it cannot be done")
        return Handoff(to, f"hello {greeting.name}")

    return agent


async def test_histories_of_version_1_run_against_handlers_of_today() -> None:
    histories = load_histories(V1)
    assert [await first_divergence(greeter("shouter"), h) for h in histories] == [None] * 6
    found = [await first_divergence(greeter("crier"), h) for h in histories]
    assert [each.asked for each in found if each] == ["handed off to `crier` with hello world"]
    moved = await first_divergence(planner, histories[-1])
    assert moved is not None
    assert moved.recorded.startswith("handed off to `reader`")
    assert moved.asked.startswith("step")


async def test_what_is_no_history_is_refused() -> None:
    task = await recorded()
    agent = agent_of(handler(once("x"), "a", "b"))
    for wrong in ((), task.history[1:], (*task.history, *load_histories(V1)[0])):
        with pytest.raises(HistoryCorrupt):
            await first_divergence(agent, wrong)
