"""The in-process bus, watched: it knows what runs, what waits for a clock, and when all is done."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import anyio

from mesh.bus.inproc import InprocBus
from mesh.bus.port import Delivery, Inbox
from mesh.core.envelope import Envelope, Record
from mesh.testing.clock import ManualClock

__all__ = ["Held", "WatchedBus"]

_ACK_WAIT_S = 10.0
_Key = tuple[str, int]
"""An agent, and the position of a delivery to it."""


@dataclass(frozen=True, slots=True)
class Held:
    """A delivery that an agent's process has: who, what, and for how many real seconds."""

    agent: str
    record: Record
    since_s: float


class WatchedBus(InprocBus):
    """An `InprocBus` that says when its agents are at rest.

    An agent is at rest when nothing of its inbox is undone but what waits for the clock: a delivery
    that was given back for a while, or whose holder let it go.
    """

    def __init__(self, *, clock: ManualClock) -> None:
        super().__init__(clock=clock, ack_wait_s=_ACK_WAIT_S)
        self._manual = clock
        self._held: dict[Delivery, Held] = {}
        self._due: dict[_Key, datetime] = {}
        self._changed = anyio.Event()

    async def append(
        self, envelopes: Sequence[Envelope], expected: Mapping[str, int]
    ) -> tuple[int, ...]:
        """As the port says."""
        try:
            return await super().append(envelopes, expected)
        finally:
            self.tell()

    @asynccontextmanager
    async def inbox(self, agent: str, *, max_held: int) -> AsyncGenerator[Inbox]:
        """As the port says."""
        async with super().inbox(agent, max_held=max_held) as inbox:
            watched = _WatchedInbox(self, agent, inbox)
            try:
                yield watched
            finally:
                watched.give_back()

    def held(self) -> list[Held]:
        """What is held now, the oldest first."""
        return list(self._held.values())

    async def at_rest(self, agents: Sequence[str]) -> None:
        """Wait until these agents are at rest."""
        while True:
            changed = self._changed
            rest = all([await self._rests(agent) for agent in agents])
            if rest and not changed.is_set():  # they are asked one after the other
                return
            await changed.wait()

    def next_due(self) -> datetime | None:
        """When the next delivery that waits for the clock comes again; None if none does."""
        later = [due for due in self._due.values() if due > self._manual.now()]
        return min(later, default=None)

    def tell(self) -> None:
        """Something may have changed; the clock, for one."""
        self._changed.set()
        self._changed = anyio.Event()

    def take(self, delivery: Delivery, key: _Key) -> None:
        """A process took a delivery."""
        self._due.pop(key, None)
        self._held[delivery] = Held(key[0], delivery.record, anyio.current_time())
        self.tell()

    def leave(self, delivery: Delivery, key: _Key, *, after_s: float | None) -> None:
        """A process is done with a delivery, or, with `after_s`, it comes again then."""
        self._held.pop(delivery, None)
        self._due.pop(key, None)  # the late ack of a former holder counts, too
        if after_s is not None:
            self._due[key] = self._manual.now() + timedelta(seconds=after_s)
        self.tell()

    async def _rests(self, agent: str) -> bool:
        backlog = await self.backlog(agent)
        # What was delivered again may still be held by whoever lost its lease.
        if any(held.agent == agent for held in self._held.values()):
            return False
        now = self._manual.now()
        later = sum(1 for (name, _), due in self._due.items() if name == agent and due > now)
        return backlog.waiting == 0 and backlog.held == later


class _WatchedInbox:
    """An inbox that tells what becomes of its deliveries."""

    def __init__(self, bus: WatchedBus, agent: str, inner: Inbox) -> None:
        self._bus, self._agent, self._inner = bus, agent, inner
        self._deliveries = aiter(inner)
        self._held: dict[Delivery, _Key] = {}

    def __aiter__(self) -> AsyncIterator[Delivery]:
        return self

    async def __anext__(self) -> Delivery:
        delivery = await anext(self._deliveries)
        watched = _WatchedDelivery(self, delivery)
        key = self._held[watched] = (self._agent, delivery.record.position)
        self._bus.take(watched, key)
        return watched

    def stop(self) -> None:
        self._inner.stop()

    def settle(self, delivery: Delivery, *, after_s: float | None = None) -> None:
        if key := self._held.pop(delivery, None):
            self._bus.leave(delivery, key, after_s=after_s)

    def give_back(self) -> None:
        """The process is gone: what it held comes again at once."""
        for delivery in list(self._held):
            self.settle(delivery, after_s=0)


class _WatchedDelivery:
    """A delivery that tells how it is settled."""

    def __init__(self, inbox: _WatchedInbox, inner: Delivery) -> None:
        self._inbox, self._inner = inbox, inner

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
        await self._inner.ack()
        self._inbox.settle(self)

    async def nak(self, delay_s: float) -> None:
        await self._inner.nak(delay_s)
        self._inbox.settle(self, after_s=delay_s)

    def drop(self) -> None:
        self._inner.drop()
        self._inbox.settle(self, after_s=_ACK_WAIT_S)
