"""An agent that speaks on a door's bus, and somebody who listens to it."""

from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager

import anyio

from mesh import Agent, Context, Reply
from mesh.agent.outcome import Outcome
from mesh.agent.ports import Limits, Ports
from mesh.agent.worker import Worker
from mesh.bus.port import Bus
from mesh.client import Output, TaskHandle
from mesh.clock import SystemIds
from mesh.core import event as e
from mesh.telemetry.inproc import NoTelemetry
from tests.runtime.rig import run_worker
from tests.services.door import Door


class Cues:
    """Lets a handler go on from line to line, when a test says so."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque()
        self._came = anyio.Event()

    def say(self, *lines: str) -> None:
        """Let the handler say these; "" is the end."""
        self._lines += lines
        self._came.set()

    async def next(self) -> str:
        """The next line, when it is there."""
        while not self._lines:
            self._came = anyio.Event()
            await self._came.wait()
        return self._lines.popleft()


def speaker(cues: Cues) -> Agent:
    """Says what it is told; at `/` it records a step, in which it says the line's rest."""
    agent = Agent("speaker")

    @agent.on(str)
    async def speak(ctx: Context, text: str) -> Outcome:
        steps = 0
        while line := await cues.next():
            if not line.startswith("/"):
                ctx.emit(line)
                continue
            steps += 1
            await ctx.step(f"step-{steps}", ctx.emit, line[1:])
        return Reply("done")

    return agent


class Listener:
    """Follows the output of a task, and lets a test wait for what has come."""

    def __init__(self) -> None:
        self.text, self.pieces = "", list[Output]()
        self.ended = anyio.Event()
        self._came = anyio.Event()

    @property
    def taken_back(self) -> int:
        """How many characters were taken back."""
        return sum(piece.takes_back for piece in self.pieces)

    async def follow(self, task: TaskHandle) -> None:
        """Listen to the end."""
        async with aclosing(task.stream()) as pieces:
            async for piece in pieces:
                self.pieces.append(piece)
                self.text = piece.added_to(self.text)
                self._came.set()
        self.ended.set()

    async def heard(self, text: str) -> None:
        """Wait until exactly this has come."""
        with anyio.move_on_after(10):
            while self.text != text:
                self._came = anyio.Event()
                await self._came.wait()
        assert self.text == text


@asynccontextmanager
async def speaking(door: Door, agent: Agent, limits: Limits | None = None) -> AsyncGenerator[None]:
    """A process of an agent; leaving kills it: nothing is given back by the worker."""
    rig = door.rig
    ports = Ports(
        bus=rig.bus,
        blobs=rig.blobs,
        registry=rig.registry,
        clock=rig.clock,
        ids=SystemIds(),
        telemetry=NoTelemetry(),
        instance=f"1-{SystemIds().fresh()}",
    )
    async with anyio.create_task_group() as tasks:
        await tasks.start(run_worker, Worker(agent, ports, limits or Limits()))
        yield
        tasks.cancel_scope.cancel()


async def recorded(bus: Bus, task_id: str) -> str:
    """The text that the events of a task record."""
    events = [record.envelope.event for record in await bus.history(task_id) if record.envelope]
    return "".join(event.text for event in events if isinstance(event, e.ProgressReported))
