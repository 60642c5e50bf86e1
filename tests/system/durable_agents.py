"""Agents whose every act is written down outside the mesh, so that a test can count.

`DURABLE_FOLDER` in the environment is where: each step adds a line to `trace` there before it does
anything, and syncs it to disk.
"""

import os
import random
import signal
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio

from mesh import Agent, ChildFailed, Context, Fail, Outcome, Reply, Retry, StepFailed
from mesh.clock import SystemClock
from mesh.core.backoff import Backoff

FOLDER = Path(os.environ.get("DURABLE_FOLDER", "."))  # noqa: TID251  # a test's own process
STEPS = 20
STEP_S = 0.12
LONG_S = 600.0
_writing = threading.Lock()


def note(task_id: str, what: str) -> None:
    """Write down that something was done, for good."""
    line = f"{task_id} {what} {os.getpid()} {SystemClock().now().timestamp():.9f}\n"
    with _writing:
        file = os.open(FOLDER / "trace", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, line.encode())
            os.fsync(file)
        finally:
            os.close(file)


async def work(task_id: str, what: str, seed: str) -> str:
    """A step: it is noted, takes a while, and gives what depends on its arguments alone."""
    note(task_id, what)
    await anyio.sleep(random.uniform(0, 2 * STEP_S))
    return f"{seed}.{what}"


def work_in_thread(task_id: str, what: str, seed: str) -> str:
    """As `work`, for the threads."""
    note(task_id, what)
    return f"{seed}.{what}"


stepper = Agent("stepper")


@stepper.on(str)
async def take_steps(ctx: Context, text: str) -> Outcome:
    """Twenty steps, one after another; every fifth in a thread."""
    for n in range(STEPS):
        name = f"s{n}"
        if n % 5:
            text = await ctx.step(name, work, ctx.task_id, name, text)
        else:
            text = await ctx.step(name, work_in_thread, ctx.task_id, name, text)
    return Reply(text)


fan, leaf, chaff = Agent("fan"), Agent("leaf"), Agent("chaff")


@dataclass
class Order:
    """How many children, and whose."""

    agent: str
    children: int


@fan.on(Order)
async def fan_out(ctx: Context, order: Order) -> Outcome:
    """So many children side by side, and what they gave."""
    found = await ctx.gather(*(ctx.delegate(order.agent, n) for n in range(order.children)))
    return Reply(found)


@leaf.on(int)
async def grow(ctx: Context, n: int) -> Outcome:
    """A child with a step."""
    return Reply([n, ctx.task_id, await ctx.step("work", work, ctx.task_id, "work", str(n))])


@chaff.on(int)
async def blow(ctx: Context, n: int) -> Outcome:
    """A child that costs nothing of its own."""
    return Reply(n)


trunk, branch, twig = Agent("trunk"), Agent("branch"), Agent("twig")


async def _grown(ctx: Context) -> None:
    """Two things done, with their undos."""
    for name in ("a", "b"):
        ctx.compensate(_undo, ctx.task_id, f"undo-{name}")
        await ctx.step(name, work, ctx.task_id, name, "")


def _undo(task_id: str, what: str) -> None:
    note(task_id, what)


async def _last_long(task_id: str) -> None:
    note(task_id, "long")
    await anyio.sleep(LONG_S)


@trunk.on(int)
async def grow_branches(ctx: Context, count: int) -> Outcome:
    """The root of a tree."""
    await _grown(ctx)
    return Reply(await ctx.gather(*(ctx.delegate("branch", count) for _ in range(count))))


@branch.on(int)
async def grow_twigs(ctx: Context, count: int) -> Outcome:
    """The middle of a tree."""
    await _grown(ctx)
    return Reply(await ctx.gather(*(ctx.delegate("twig", n) for n in range(count))))


@twig.on(int)
async def hold(ctx: Context, n: int) -> Outcome:
    """The end of a tree: some wait, some are at work, for ever."""
    await _grown(ctx)
    if n % 2:
        await ctx.step("long", _last_long, ctx.task_id)
    await ctx.sleep(LONG_S)
    return Reply(n)


eater = Agent("eater")
POISON = "poison"


@eater.on(str)
async def eat(ctx: Context, text: str) -> Outcome:
    """Dies of poison until the file `mended` is there."""
    if text == POISON and not (FOLDER / "mended").exists():
        note(ctx.task_id, "poisoned")
        os.kill(os.getpid(), signal.SIGKILL)
    await anyio.sleep(0.02)
    return Reply(f"ate {text}")


sleeper = Agent("sleeper")


@sleeper.on(float)
async def sleep(ctx: Context, until: float) -> Outcome:
    """Sleep until an instant, seconds since 1970."""
    await ctx.sleep_until(datetime.fromtimestamp(until, UTC))
    return Reply(SystemClock().now().timestamp())


# A program is a list of operations; each is a dict with its kind as `op`.
# Two agents, because an agent that waits for itself is a cycle.
upper, lower = Agent("upper"), Agent("lower")


@dataclass
class Program:
    """What a handler is to do."""

    operations: list[Any]


_RETRY = Retry(attempts=2, backoff=Backoff(first_s=0.05))


async def _flawed(task_id: str, what: str) -> str:
    note(task_id, what)
    raise ValueError(f"{what} cannot be done")


async def _play(ctx: Context, operation: dict[str, Any]) -> Any:
    # Any: what a program gives is JSON.
    match operation["op"]:
        case "step":
            name = operation["name"]
            return await ctx.step(name, work, ctx.task_id, name, "")
        case "flaw":
            name = operation["name"]
            try:
                return await ctx.step(name, _flawed, ctx.task_id, name, retry=_RETRY)
            except StepFailed as error:
                return f"caught: {error}"
        case "sleep":
            return await ctx.sleep(operation["s"])
        case "child":
            try:
                return await ctx.delegate("lower", Program(operation["program"]))
            except ChildFailed as error:
                return f"caught: {error.failure_code}"
        case "together":
            return await ctx.gather(*(_play(ctx, part) for part in operation["parts"]))
        case other:
            raise ValueError(other)


@upper.on(Program)
@lower.on(Program)
async def play(ctx: Context, program: Program) -> Outcome:
    """Do what a program says."""
    found: list[Any] = []
    for operation in program.operations:
        if operation["op"] == "fail":
            return Fail(f"as told, after {len(found)}")
        found.append(await _play(ctx, operation))
    return Reply(found)
