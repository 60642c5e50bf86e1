"""Small agents that tests of the runtime run."""

from collections.abc import Awaitable, Callable

import anyio

from mesh.agent.context import Context
from mesh.agent.definition import Agent
from mesh.agent.outcome import Outcome, Reply
from mesh.core.task import State
from tests.runtime.rig import Rig


def echo(name: str = "echo") -> Agent:
    agent = Agent(name)

    @agent.on(str)
    async def reply(ctx: Context, text: str) -> Reply:
        return Reply(text.upper())

    return agent


def failing(*errors: Exception | Outcome) -> Agent:
    """An agent that raises or returns one after the other."""
    agent = Agent("echo")
    left = list(errors)

    @agent.on(str)
    async def run(ctx: Context, text: str) -> Outcome:
        end = left.pop(0)
        if isinstance(end, Exception):
            raise end
        return end

    return agent


def holding(started: anyio.Event, release: anyio.Event) -> Agent:
    """An agent that works until it is told to end."""
    agent = Agent("echo")

    @agent.on(str)
    async def run(ctx: Context, text: str) -> Reply:
        started.set()
        await release.wait()
        return Reply(text)

    return agent


def doing(act: Callable[[Context, str], Awaitable[Outcome]]) -> Agent:
    """An agent of one act; `good` is answered, so that a test sees whether it lives."""
    agent = Agent("echo")

    @agent.on(str)
    async def run(ctx: Context, text: str) -> Outcome:
        return Reply(text) if text == "good" else await act(ctx, text)

    return agent


async def lives(rig: Rig) -> None:
    """Whether the worker still takes work."""
    await rig.until(await rig.submit("echo", "good"), State.COMPLETED)
