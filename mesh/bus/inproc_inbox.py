"""Deliveries inside one process: a queue per agent, leases by the clock it was given."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import anyio

from mesh.bus.port import Backlog
from mesh.clock import Clock
from mesh.core.envelope import Record
from mesh.errors import Unavailable

__all__ = ["InprocDelivery", "InprocInbox", "Queue"]

_LOOK_S = 0.02
"""How often leases are looked at; the clock may be one that a test moves, which tells nobody."""


@dataclass(slots=True, eq=False)
class _Undone:
    """One delivery that nobody acknowledged; free to be taken from `until` on."""

    shard: str
    record: Record
    until: float = float("-inf")
    taken: int = 0


class Queue:
    """An agent's undone deliveries, shared by its inboxes."""

    def __init__(self, *, clock: Clock, ack_wait_s: float) -> None:
        self._clock, self._ack_wait_s = clock, ack_wait_s
        self._undone: dict[tuple[str, int], _Undone] = {}
        self._changed = anyio.Event()

    def backlog(self) -> Backlog:
        """How many wait for a first holder, and how many had one."""
        held = sum(1 for undone in self._undone.values() if undone.taken)
        return Backlog(len(self._undone) - held, held)

    def offer(self, shard: str, record: Record) -> None:
        """A new record for the agent."""
        self._undone[shard, record.position] = _Undone(shard, record)
        self.wake()

    def wake(self) -> None:
        """Something may have become free."""
        self._changed.set()
        self._changed = anyio.Event()

    async def wait(self) -> None:
        """Until something changed, or it is time to look at the leases again."""
        with anyio.move_on_after(_LOOK_S):
            await self._changed.wait()

    def take(self) -> "InprocDelivery | None":
        """The oldest delivery that is free, under a lease."""
        now = self._clock.monotonic()
        for undone in self._undone.values():
            if undone.until <= now:
                undone.taken += 1
                undone.until = now + self._ack_wait_s
                return InprocDelivery(self, undone)
        return None

    def holds(self, undone: _Undone, taken: int) -> bool:
        """Whether the lease of that taking still runs."""
        return undone.taken == taken and self._clock.monotonic() < undone.until

    def extend(self, undone: _Undone, taken: int) -> None:
        """Renew a lease that has not run out."""
        if self.holds(undone, taken):
            undone.until = self._clock.monotonic() + self._ack_wait_s

    def done(self, undone: _Undone) -> None:
        """Acknowledged; by a former holder too, as JetStream has it."""
        self._undone.pop((undone.shard, undone.record.position), None)

    def free(self, undone: _Undone, taken: int, delay_s: float) -> None:
        """Deliver it again after a while."""
        if undone.taken == taken:
            undone.until = self._clock.monotonic() + delay_s
            self.wake()


class InprocDelivery:
    """A `Delivery` of one process."""

    def __init__(self, queue: Queue, undone: _Undone) -> None:
        self._queue, self._undone, self._taken = queue, undone, undone.taken
        self._settled = False
        self.inbox: InprocInbox | None = None

    @property
    def record(self) -> Record:
        """What was delivered."""
        return self._undone.record

    @property
    def shard(self) -> str:
        """The shard it stands in."""
        return self._undone.shard

    @property
    def redelivered(self) -> bool:
        """Whether it was taken before."""
        return self._taken > 1

    @property
    def lease_valid(self) -> bool:
        """Whether nobody else can hold it yet."""
        return self._queue.holds(self._undone, self._taken)

    async def ack(self) -> None:
        """It is done with for good."""
        self._settle()
        self._queue.done(self._undone)
        await anyio.lowlevel.checkpoint()

    async def nak(self, delay_s: float) -> None:
        """Deliver it again after `delay_s` seconds."""
        self._settle()
        self._queue.free(self._undone, self._taken, delay_s)
        await anyio.lowlevel.checkpoint()

    def drop(self) -> None:
        """Stop holding it; it comes again when the lease runs out."""
        self._settle()

    def extend(self) -> None:
        """Renew its lease."""
        self._queue.extend(self._undone, self._taken)

    def give_back(self) -> None:
        """The inbox closes: let another one have it at once."""
        self._queue.free(self._undone, self._taken, 0)

    def _settle(self) -> None:
        if self._settled:
            raise RuntimeError(f"delivery at {self.record.position} was settled already")
        self._settled = True
        if self.inbox is None or not self.inbox.release(self):
            raise Unavailable(f"delivery at {self.record.position} was given back already")


class InprocInbox:
    """An `Inbox` of one process."""

    def __init__(self, queue: Queue, *, max_held: int) -> None:
        self._queue, self._max_held = queue, max_held
        self._held: set[InprocDelivery] = set()
        self._stopped = False

    def __aiter__(self) -> AsyncIterator[InprocDelivery]:
        """As the port says."""
        return self

    async def __anext__(self) -> InprocDelivery:
        """The next delivery, when there is one and a place for it."""
        await anyio.lowlevel.checkpoint()
        while not self._stopped:
            delivery = self._queue.take() if len(self._held) < self._max_held else None
            if delivery is not None:
                delivery.inbox = self
                self._held.add(delivery)
                return delivery
            await self._queue.wait()
        raise StopAsyncIteration

    def stop(self) -> None:
        """As the port says; nothing is pulled ahead here."""
        self._stopped = True
        self._queue.wake()

    def release(self, delivery: InprocDelivery) -> bool:
        """A place becomes free; False if the delivery is not held here any more."""
        if delivery not in self._held:
            return False
        self._held.discard(delivery)
        self._queue.wake()
        return True

    async def beat(self) -> None:
        """Extend what is held, for as long as the inbox is open."""
        while True:
            for delivery in self._held:
                delivery.extend()
            await anyio.sleep(_LOOK_S)

    def close(self) -> None:
        """Give back what is held."""
        self.stop()
        for delivery in self._held:
            delivery.give_back()
        self._held.clear()
