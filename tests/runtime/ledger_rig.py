"""A log with tasks on it, and a recorder that follows it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio

from mesh.blob.inproc import InprocBlobs
from mesh.bus.inproc import InprocBus
from mesh.clock import Clock, SystemClock
from mesh.core import event as e
from mesh.core.backoff import Backoff
from mesh.ledger.reader import Reader
from mesh.ledger.recorder import Parts, Recorder
from mesh.ledger.timers import Timers
from mesh.testing.clock import ManualIds
from tests.make import TENANT, TEXT, envelope

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from mesh.core.envelope import Envelope
    from mesh.core.payload import Payload
    from mesh.store.port import Store

QUICK = Backoff(first_s=0.001, limit_s=0.01)


def task_id(number: int) -> str:
    return f"{number:032x}"


def relay(number: int, *, result: Payload = TEXT) -> list[Envelope]:
    """A task's five events: submitted, noted, handed off, noted, completed."""
    task = task_id(number)

    def made(ordinal: int, event: e.TaskEvent, *, by: str, to: str = "log") -> Envelope:
        return envelope(
            event, to=to, sender=by, task_id=task, event_id=f"{number:024x}{ordinal:08x}"
        )

    return [
        made(
            1, e.TaskSubmitted(input=TEXT, objective=f"task {number}"), by="gateway", to="planner"
        ),
        made(2, e.Noted(constraints=("short",)), by="planner"),
        made(3, e.HandedOff(input=TEXT), by="planner", to="writer"),
        made(4, e.Noted(do_not_redo=("search",)), by="writer"),
        made(5, e.Completed(result=result), by="writer"),
    ]


@dataclass(frozen=True, slots=True)
class Ledger:
    """A recorder, and the timers that follow it."""

    bus: InprocBus
    recorder: Recorder
    timers: Timers

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[Ledger]:
        """Record until this is left; may be run again. Timers fire only when asked to."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.recorder.run, "s0")
            with anyio.fail_after(60):
                await self.recorded()
                yield self
            tasks.cancel_scope.cancel()

    async def recorded(self) -> None:
        """Wait until all that stands on the log is in the store."""
        (info,) = await self.bus.info()
        await self.recorder.wait_for(info.last)

    async def fire(self) -> int:
        """Fire what is due of all that stands on the log, and record that."""
        await self.recorded()
        fired = await self.timers.fire_due()
        await self.recorded()
        return fired


@dataclass(kw_only=True)
class Rig:
    """A bus, a store, their blobs; recorders are made from it."""

    store: Store
    bus: InprocBus = field(default_factory=lambda: InprocBus(tenant=TENANT))
    blobs_from: InprocBlobs = field(default_factory=InprocBlobs)
    blobs_to: InprocBlobs = field(default_factory=InprocBlobs)
    clock: Clock = field(default_factory=SystemClock)

    def parts(self, *, batch: int = 500, instance: str = "ledger-1") -> Parts:
        return Parts(
            bus=self.bus,
            store=self.store,
            blobs_from=self.blobs_from,
            blobs_to=self.blobs_to,
            clock=self.clock,
            ids=ManualIds(),
            tenant=TENANT,
            instance=instance,
            batch=batch,
            backoff=QUICK,
        )

    def recorder(self, *, batch: int = 500) -> Recorder:
        return Recorder(self.parts(batch=batch))

    def ledger(self, *, batch: int = 500, instance: str = "ledger-1") -> Ledger:
        """A recorder with its timers, as one process has them; it does not run yet."""
        parts = self.parts(batch=batch, instance=instance)
        recorder = Recorder(parts)
        return Ledger(self.bus, recorder, Timers(parts, recorder))

    @property
    def reader(self) -> Reader:
        return Reader(self.store)

    async def tell(self, *envelopes: Envelope) -> int:
        """Append events one by one, as any writer would; gives the last position."""
        position = 0
        for made in envelopes:
            history = await self.bus.history(made.task_id)
            moved = [r.position for r in history if r.subject.split(".")[5] == "m"]
            (position,) = await self.bus.append([made], {made.task_id: moved[-1] if moved else 0})
        return position

    @asynccontextmanager
    async def recording(self, *, batch: int = 500, shard: str = "s0") -> AsyncGenerator[Recorder]:
        """A recorder that runs until this is left."""
        recorder = self.recorder(batch=batch)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(recorder.run, shard)
            with anyio.fail_after(30):
                yield recorder
            tasks.cancel_scope.cancel()

    async def record_all(self, *, batch: int = 500) -> Recorder:
        """Record what the log has now."""
        (info,) = await self.bus.info()
        async with self.recording(batch=batch) as recorder:
            await recorder.wait_for(info.last)
        return recorder
