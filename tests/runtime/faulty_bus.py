"""The in-process bus with more that can go wrong: slow reads, lost settlements."""

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from enum import Enum

import anyio

from mesh.bus.inproc import InprocBus
from mesh.bus.port import Delivery, Inbox
from mesh.core.envelope import Record
from mesh.errors import Unavailable

__all__ = ["FaultyBus", "Gate", "Settled"]


@dataclass(slots=True)
class Gate:
    """A place where somebody waits until a test lets them go on."""

    reached: anyio.Event = field(default_factory=anyio.Event)
    opened: anyio.Event = field(default_factory=anyio.Event)


class Settled(Enum):
    """What becomes of an ack or nak that is not confirmed."""

    DONE = "done"
    LOST = "lost"


class FaultyBus(InprocBus):
    """`gates` are met by the reads to come, `settlements` by the acks and naks to come."""

    gates: deque[Gate]
    settlements: deque[Settled]
    handed_out: int = 0

    def equip(self) -> "FaultyBus":
        """Nothing goes wrong yet."""
        self.gates, self.settlements = deque(), deque()
        return self

    def repeat(self, agent: str, record: Record) -> None:
        """Deliver a record again, its count forgotten, as a broker that was restored may."""
        self._queue(agent).offer("s0", record)

    @contextmanager
    def calm(self) -> Generator[None]:
        """The faults of appends wait until the block is left."""
        faults, self.faults = self.faults, deque()
        try:
            yield
        finally:
            self.faults = faults

    async def history(
        self, task_id: str, *, root_task_id: str = "", after: int = 0
    ) -> list[Record]:
        """As the port says, later."""
        if self.gates:
            gate = self.gates.popleft()
            gate.reached.set()
            await gate.opened.wait()
        return await super().history(task_id, root_task_id=root_task_id, after=after)

    @asynccontextmanager
    async def inbox(self, agent: str, *, max_held: int) -> AsyncGenerator[Inbox]:
        """As the port says."""
        async with super().inbox(agent, max_held=max_held) as inbox:
            yield _Inbox(self, inbox)


class _Inbox:
    def __init__(self, bus: FaultyBus, inner: Inbox) -> None:
        self._bus, self._inner = bus, inner

    def __aiter__(self) -> AsyncIterator[Delivery]:
        return self._deliveries()

    async def _deliveries(self) -> AsyncGenerator[Delivery]:
        async for delivery in self._inner:
            self._bus.handed_out += 1
            yield _Delivery(self._bus, delivery)

    def stop(self) -> None:
        self._inner.stop()


class _Delivery:
    def __init__(self, bus: FaultyBus, inner: Delivery) -> None:
        self._bus, self._inner = bus, inner

    @property
    def record(self) -> Record:
        return self._inner.record

    @property
    def shard(self) -> str:
        return self._inner.shard

    @property
    def redelivered(self) -> bool:
        return self._inner.redelivered

    @property
    def lease_valid(self) -> bool:
        return self._inner.lease_valid

    async def ack(self) -> None:
        fault = self._fault()
        if fault is Settled.LOST:
            self._inner.drop()
        else:
            await self._inner.ack()
        if fault:
            raise Unavailable("not confirmed")

    async def nak(self, delay_s: float) -> None:
        fault = self._fault()
        if fault is Settled.LOST:
            self._inner.drop()
        else:
            await self._inner.nak(delay_s)
        if fault:
            raise Unavailable("not confirmed")

    def drop(self) -> None:
        self._inner.drop()

    def _fault(self) -> Settled | None:
        return self._bus.settlements.popleft() if self._bus.settlements else None
