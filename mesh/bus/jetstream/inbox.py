"""An agent's deliveries from a durable consumer per shard, held under leases."""

import json
import logging
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from functools import partial

import anyio
from nats.aio.msg import Msg
from nats.errors import Error

from mesh.bus.jetstream.options import BusOptions
from mesh.bus.jetstream.pull import Meta, Pull, record_of
from mesh.bus.jetstream.replies import Replies
from mesh.bus.jetstream.stream import agent_consumer, consumer_name, ensure_consumer, stream_name
from mesh.clock import Clock
from mesh.core.backoff import Backoff
from mesh.core.envelope import Record
from mesh.errors import Unavailable, Unresolved

__all__ = ["JetStreamDelivery", "JetStreamInbox", "Leases"]

_log = logging.getLogger(__name__)
_NS = 1_000_000_000
_CLOSE_S = 5.0
_AGAIN = Backoff(first_s=0.1, limit_s=2.0)


@dataclass(frozen=True, slots=True)
class Leases:
    """What the deliveries of a bus share."""

    replies: Replies
    clock: Clock
    options: BusOptions


class JetStreamDelivery:
    """A `Delivery` of JetStream."""

    def __init__(
        self, message: Msg, shard: str, inbox: "JetStreamInbox", leases: Leases, since: float
    ) -> None:
        self._message, self._shard, self._inbox, self._leases = message, shard, inbox, leases
        self._record = record_of(message)
        self._redelivered = Meta.of(message).delivered > 1
        self._until = since + leases.options.ack_wait_s
        self._settled = False

    @property
    def record(self) -> Record:
        """What was delivered."""
        return self._record

    @property
    def shard(self) -> str:
        """The shard it stands in."""
        return self._shard

    @property
    def redelivered(self) -> bool:
        """Whether it was delivered before."""
        return self._redelivered

    @property
    def lease_valid(self) -> bool:
        """Whether the last extension that the broker confirmed still covers this moment."""
        return self._leases.clock.monotonic() < self._until

    async def ack(self) -> None:
        """It is done with for good.

        Raises:
            Unavailable: The broker did not confirm; it may come again.
        """
        self._settle()
        await self._say(b"+ACK", self._leases.options.timeout_s)

    async def nak(self, delay_s: float) -> None:
        """Deliver it again after `delay_s` seconds.

        Raises:
            Unavailable: The broker did not confirm; it comes when its lease runs out.
        """
        self._settle()
        await self._say(_nak(delay_s), self._leases.options.timeout_s)

    def drop(self) -> None:
        """Stop holding it; it comes again when the lease runs out."""
        self._settle()

    async def extend(self) -> None:
        """Renew the lease, unless it ran out: then somebody else may hold it."""
        sent_at = self._leases.clock.monotonic()
        if self._settled or not self.lease_valid:
            return
        try:
            await self._say(b"+WPI", self._leases.options.beat_s)
        except Unavailable as error:
            _log.warning("lease at %d was not extended: %s", self._record.position, error)
        else:
            self._until = sent_at + self._leases.options.ack_wait_s

    async def give_back(self) -> None:
        """The inbox closes: let another one have it at once."""
        await self._leases.replies.connection.say(self._message.reply, _nak(0))

    async def _say(self, what: bytes, timeout_s: float) -> None:
        deadline = anyio.current_time() + timeout_s
        try:
            await self._leases.replies.ask(self._message.reply, what, deadline)
        except Unresolved as error:
            raise Unavailable(f"not confirmed: {error}") from error

    def _settle(self) -> None:
        if self._settled:
            raise RuntimeError(f"delivery at {self._record.position} was settled already")
        self._settled = True
        if not self._inbox.release(self):
            raise Unavailable(f"delivery at {self._record.position} was given back already")


class JetStreamInbox:
    """An `Inbox` of JetStream.

    The places are divided among the shards, so that a busy one cannot starve the others; each
    shard has at least one. What is pulled but not taken is not extended: when its lease runs out
    another replica gets it.
    """

    def __init__(
        self, tenant: str, shards: int, agent: str, *, max_held: int, leases: Leases
    ) -> None:
        self._tenant, self._agent, self._leases = tenant, agent, leases
        self._max_held = max_held
        self._shares = {
            f"s{n}": max(1, max_held // shards + (n < max_held % shards)) for n in range(shards)
        }
        self._pulls: Mapping[str, Pull] = {}
        self._ready: deque[JetStreamDelivery] = deque()
        self._held: set[JetStreamDelivery] = set()
        self._changed = anyio.Event()
        self._pulling = anyio.CancelScope()
        self._pulled = anyio.Event()
        self._stopped = False
        self._alive_at = leases.clock.monotonic()
        self._paused_at: float | None = None

    def __aiter__(self) -> AsyncIterator[JetStreamDelivery]:
        """As the port says."""
        return self

    async def __anext__(self) -> JetStreamDelivery:
        """The next delivery, when there is one and a place for it."""
        await anyio.lowlevel.checkpoint()
        while not self._stopped:
            while self._ready and not self._ready[0].lease_valid:
                self._ready.popleft()
                self._wake()
            if self._ready and len(self._held) < self._max_held:
                delivery = self._ready.popleft()
                self._held.add(delivery)
                return delivery
            await self._changed.wait()
        raise StopAsyncIteration

    def stop(self) -> None:
        """As the port says."""
        self._stopped = True
        self._pulling.cancel()
        self._wake()

    def release(self, delivery: JetStreamDelivery) -> bool:
        """A place becomes free; False if the delivery is not held here any more."""
        if delivery not in self._held:
            return False
        self._held.discard(delivery)
        self._wake()
        return True

    async def open(self) -> None:
        """Make or check the consumers, and subscribe."""
        await self._ensure()
        options = self._leases.options
        self._pulls = {
            shard: Pull(
                self._leases.replies.connection,
                stream_name(self._tenant, shard),
                partial(self._receive, shard),
                expires_s=options.pull_s,
                heartbeat_s=options.heartbeat_s,
            )
            for shard in self._shares
        }
        for pull in self._pulls.values():
            await pull.open()

    async def pull(self) -> None:
        """Pull until stopped, then give back what nobody took."""
        try:
            with self._pulling:
                async with anyio.create_task_group() as group:
                    for shard in self._shares:
                        group.start_soon(self._pull_shard, shard)
        finally:
            with anyio.move_on_after(_CLOSE_S, shield=True):
                for pull in self._pulls.values():
                    await pull.close()
                await self._give_back(list(self._ready))
            self._ready.clear()
            self._pulled.set()

    async def beat(self) -> None:
        """Extend what is held, for as long as the inbox is open."""
        ticks = 6
        async with anyio.create_task_group() as group:
            while True:
                for _ in range(ticks):
                    if self._paused and self._paused_at is None:
                        self._paused_at = self._alive_at
                        group.start_soon(self._catch_up)
                    self._alive_at = self._leases.clock.monotonic()
                    await anyio.sleep(self._tick_s)
                for delivery in self._held:
                    group.start_soon(delivery.extend)

    async def close(self) -> None:
        """Stop, and give back everything."""
        self.stop()
        with anyio.move_on_after(2 * _CLOSE_S, shield=True):
            await self._pulled.wait()
            await self._give_back(list(self._held))
        self._held.clear()

    @property
    def _tick_s(self) -> float:
        return self._leases.options.beat_s / 6

    async def _pull_shard(self, shard: str) -> None:
        consumer, failures = consumer_name(self._tenant, self._agent), 0
        while True:
            free = self._shares[shard] - sum(
                delivery.shard == shard for delivery in (*self._ready, *self._held)
            )
            if free <= 0:
                await self._changed.wait()
                continue
            try:
                if failures:
                    await self._ensure()
                reason = await self._pulls[shard].fetch(consumer, free)
            except Unavailable as error:
                if self._leases.replies.connection.is_closed:
                    raise
                reason = str(error)
            if not reason:
                failures = 0
                continue
            failures += 1
            _log.warning("inbox of `%s` in shard `%s`: %s", self._agent, shard, reason)
            await anyio.sleep(_AGAIN.delay_s(failures, self._leases.replies.jitter()))

    async def _ensure(self) -> None:
        """Make the consumers, or check them: one may have been deleted."""
        options = self._leases.options
        for shard in self._shares:
            await ensure_consumer(
                self._leases.replies,
                stream_name(self._tenant, shard),
                agent_consumer(self._tenant, shard, self._agent, options.ack_wait_s),
                anyio.current_time() + options.open_s,
            )

    def _receive(self, shard: str, message: Msg) -> None:
        """Take a message in.

        If this process stood still, the message may have waited at its door since then, and its
        lease runs since then.
        """
        since = self._leases.clock.monotonic()
        if self._paused_at is not None:
            since = self._paused_at
        elif self._paused:
            since = self._alive_at
        self._ready.append(JetStreamDelivery(message, shard, self, self._leases, since))
        self._wake()

    @property
    def _paused(self) -> bool:
        """Whether the loop stood still since the last tick: paused, or blocked by a handler."""
        return self._leases.clock.monotonic() - self._alive_at >= 3 * self._tick_s

    async def _catch_up(self) -> None:
        """Until all that waited at the door is in: the broker answers after what it sent before."""
        try:
            await self._leases.replies.connection.heard()
        except Unavailable as error:
            _log.warning("inbox of `%s` after a pause: %s", self._agent, error)
        await anyio.sleep(self._tick_s)
        self._paused_at = None

    async def _give_back(self, deliveries: list[JetStreamDelivery]) -> None:
        try:
            for delivery in deliveries:
                await delivery.give_back()
            if deliveries:
                await self._leases.replies.connection.flush(int(_CLOSE_S))
        except (Unavailable, Error) as error:
            _log.warning("not given back, will come again later: %s", error)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


def _nak(delay_s: float) -> bytes:
    return b"-NAK " + json.dumps({"delay": int(delay_s * _NS)}).encode() if delay_s else b"-NAK"
