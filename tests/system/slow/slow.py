"""The agents of the cited brief, slowed down, so that a test can strike while they work.

`SLOW_S` in the environment is how long each handler waits before it does its real work.
"""

import os

import anyio

from mesh import Agent, Context, Outcome
from services.brief.message import BriefRequest, Draft, ReadAspect, ReviseRequest, WriteRequest
from services.critic.agent import criticise
from services.planner.agent import plan
from services.reader.agent import read
from services.writer.agent import rewrite, write

PAUSE_S = float(os.environ.get("SLOW_S", "0.6"))  # noqa: TID251  # a test's own process
planner, reader, writer, critic = (
    Agent("planner"),
    Agent("reader"),
    Agent("writer"),
    Agent("critic"),
)


@planner.on(BriefRequest)
async def slow_plan(ctx: Context, request: BriefRequest) -> Outcome:
    await anyio.sleep(PAUSE_S)
    return await plan(ctx, request)


@reader.on(ReadAspect)
async def slow_read(ctx: Context, request: ReadAspect) -> Outcome:
    await anyio.sleep(PAUSE_S)
    return await read(ctx, request)


@writer.on(WriteRequest)
async def slow_write(ctx: Context, request: WriteRequest) -> Outcome:
    await anyio.sleep(PAUSE_S)
    return await write(ctx, request)


@writer.on(ReviseRequest)
async def slow_revise(ctx: Context, request: ReviseRequest) -> Outcome:
    await anyio.sleep(PAUSE_S)
    return await rewrite(ctx, request)


@critic.on(Draft)
async def slow_criticise(ctx: Context, draft: Draft) -> Outcome:
    await anyio.sleep(PAUSE_S)
    return await criticise(ctx, draft)
