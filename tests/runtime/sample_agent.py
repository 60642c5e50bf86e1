"""Small agents that tests of the runtime run."""

import anyio

from mesh.agent.context import Context
from mesh.agent.definition import Agent
from mesh.agent.outcome import Outcome, Reply


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
