"""Workers on the in-process ports, for tests of the agent runtime."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime

import anyio

from mesh.agent.definition import Agent
from mesh.agent.payload import encode_value
from mesh.agent.ports import Limits, Ports
from mesh.agent.worker import Worker
from mesh.blob.inproc import InprocBlobs
from mesh.bus.inproc import InprocBus
from mesh.core import event as e
from mesh.core.backoff import Backoff
from mesh.core.envelope import Record
from mesh.core.fold import fold
from mesh.core.task import State, Task
from mesh.registry.inproc import InprocRegistry
from mesh.telemetry.inproc import InprocTelemetry
from mesh.testing.clock import ManualClock, ManualIds
from tests.make import TENANT, envelope

FAST = Limits(
    concurrency=4,
    attempts=3,
    claim_after_s=30,
    drain_s=5,
    backoff=Backoff(first_s=1),
    hold_s=1000,
)


class Rig:
    """One in-process mesh: its log, its clock, and the workers that run on it."""

    def __init__(self, clock: ManualClock | None = None) -> None:
        self.clock = clock or ManualClock()
        self.bus = InprocBus(tenant=TENANT, clock=self.clock)
        self.registry = InprocRegistry()
        self.blobs = InprocBlobs()
        self.telemetry = InprocTelemetry()
        self._processes = 0
        self._tasks = 0

    def worker(self, agent: Agent, limits: Limits = FAST) -> Worker:
        """A new process of an agent."""
        return Worker(agent, self.ports(), limits)

    def ports(self) -> Ports:
        """What a new process is connected to."""
        self._processes += 1
        return Ports(
            bus=self.bus,
            blobs=self.blobs,
            registry=self.registry,
            clock=self.clock,
            ids=ManualIds(self._processes),
            telemetry=self.telemetry,
            instance=f"{self._processes}-test",
        )

    async def submit(
        self,
        agent: str,
        value: object,
        *,
        max_hops: int = 32,
        deadline: datetime | None = None,
        budget: Mapping[str, int] | None = None,
    ) -> str:
        """Put a task on the log, as the gateway would; gives its id."""
        self._tasks += 1
        task_id = f"{self._tasks:032x}"
        event = e.TaskSubmitted(input=encode_value(value), budget=dict(budget or {}))
        made = envelope(event, to=agent, task_id=task_id)
        await self.bus.append([replace(made, max_hops=max_hops, deadline=deadline)], {task_id: 0})
        return task_id

    async def cancel(self, task_id: str, *, hint: bool = True) -> None:
        """Ask for a cancel, as the gateway would; the hint may be lost on the way."""
        task = await self.task(task_id)
        made = envelope(e.CancelRequested(reason="no more"), to=task.owner, task_id=task_id)
        await self.bus.append([made], {task_id: task.moved})
        if hint:
            await self.bus.hint(f"cancel.{task_id}")

    async def history(self, task_id: str) -> list[Record]:
        """A task's records."""
        return await self.bus.history(task_id)

    async def kinds(self, task_id: str) -> list[str]:
        """A task's history, by the kinds' last words."""
        return [r.envelope.kind[5:] if r.envelope else "?" for r in await self.history(task_id)]

    async def task(self, task_id: str) -> Task:
        """A task's state."""
        return fold(await self.history(task_id))

    async def until(self, task_id: str, *states: State, version: int = 0) -> Task:
        """Wait for a state, or for a version to be reached."""
        with anyio.fail_after(10):
            async with self.bus.tail("s0", after=0) as batches:
                async for _ in batches:
                    task = await self.task(task_id)
                    if task.state in states or (version and task.version >= version):
                        return task
        raise AssertionError("a tail never ends")

    async def acked(self, agent: str) -> None:
        """Wait until the agent's inbox holds nothing undone."""
        with anyio.fail_after(10):
            await self.bus.settled(agent)


@asynccontextmanager
async def running(*workers: Worker, stop: bool = True) -> AsyncGenerator[None]:
    """Run workers until the block ends, then stop them as SIGTERM would."""
    async with anyio.create_task_group() as tasks:
        for worker in workers:
            await tasks.start(run_worker, worker)
        yield
        stop_all(workers if stop else ())


async def run_worker(worker: Worker, *, task_status: anyio.abc.TaskStatus[None]) -> None:
    """`Worker.run`, as a function that a task group starts."""
    await worker.run(task_status=task_status)


def stop_all(workers: Sequence[Worker]) -> None:
    """Stop every one of them."""
    for worker in workers:
        worker.stop()
