"""One tail per shard for everybody who watches a task in it.

A watcher has a bounded buffer. When it overflows, or the tail had to be begun anew, the watcher is
told that it missed something, and reads the log itself: slower, never with a gap.
"""

import logging
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext
from enum import Enum

import anyio
from anyio.abc import TaskGroup

from mesh.bus.port import Bus
from mesh.core.backoff import Backoff
from mesh.core.envelope import Record
from mesh.core.subject import Subject
from mesh.errors import MeshError, NameInvalid, Unavailable
from mesh.gateway.live import Chunk, LiveFeed

__all__ = ["Came", "Fanout", "Subscription", "open_fanout"]

_logger = logging.getLogger(__name__)
_BUFFER = 256
_START_S = 10.0


class Came(Enum):
    """What a watcher is woken up for, besides a record."""

    MISSED = "missed"
    """Records may be missing: read the log, then go on."""
    LIVE = "live"
    """Live output: `Subscription.live` has it."""


class Subscription:
    """One watcher's share of a shard's tail: the records of its task, ascending."""

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id
        self._missed = False
        self._records: deque[Record] = deque()
        # Beside the records, so that it never takes their room; the oldest gets lost.
        self._live: deque[list[Chunk]] = deque(maxlen=_BUFFER)
        self._came = anyio.Event()

    def offer(self, record: Record) -> None:
        """Hand a record over, or note that it had no room."""
        if len(self._records) < _BUFFER:
            self._records.append(record)
            self._came.set()
        else:
            self.miss()

    def offer_live(self, chunks: list[Chunk]) -> None:
        """Hand live output over, instead of the oldest that was not fetched if there is no room."""
        self._live.append(chunks)
        self._came.set()

    def miss(self) -> None:
        """Tell the watcher that records may have passed it by."""
        self._missed = True
        self._came.set()

    async def next(self) -> Record | Came:
        """The next record, or what else there is to do."""
        while not (self._missed or self._records or self._live):
            self._came = anyio.Event()
            await self._came.wait()
        if self._missed:
            # What is still buffered stands in the log: the reader finds it there, in order.
            self._missed = False
            self._records.clear()
            return Came.MISSED
        return self._records.popleft() if self._records else Came.LIVE

    def live(self) -> list[Chunk]:
        """The live output that has come, as it came; it is handed over once."""
        chunks = [chunk for together in self._live for chunk in together]
        self._live.clear()
        return chunks


class _Feed:
    """The tail of one shard, while anybody watches."""

    def __init__(self, bus: Bus, shard: str) -> None:
        self._bus, self._shard = bus, shard
        self._watchers: dict[str, set[Subscription]] = {}
        self._failures = 0
        self.started = anyio.Event()
        self.scope = anyio.CancelScope()

    @property
    def idle(self) -> bool:
        return not self._watchers

    def add(self, subscription: Subscription) -> None:
        self._watchers.setdefault(subscription.task_id, set()).add(subscription)

    def remove(self, subscription: Subscription) -> None:
        watchers = self._watchers[subscription.task_id]
        watchers.discard(subscription)
        if not watchers:
            del self._watchers[subscription.task_id]

    async def run(self) -> None:
        backoff = Backoff(limit_s=5.0)
        with self.scope:
            while True:
                try:
                    await self._follow()
                except MeshError as error:
                    _logger.warning("shard %s: tail begins anew: %s", self._shard, error)
                self._failures += 1
                await anyio.sleep(backoff.delay_s(self._failures, 0.5))

    async def _follow(self) -> None:
        logs = {log.shard: log.last for log in await self._bus.info()}
        async with self._bus.tail(self._shard, after=logs[self._shard]) as batches:
            for watchers in self._watchers.values():
                for subscription in watchers:
                    subscription.miss()
            self._failures = 0
            self.started.set()
            async for batch in batches:
                for record in batch:
                    self._offer(record)

    def _offer(self, record: Record) -> None:
        try:
            task_id = Subject.parse(record.subject).task_id
        except NameInvalid:
            return  # belongs to no task
        for subscription in self._watchers.get(task_id, ()):
            subscription.offer(record)


class Fanout:
    """The tails that are being watched, one per shard."""

    def __init__(self, bus: Bus, tasks: TaskGroup) -> None:
        self._bus, self._tasks = bus, tasks
        self._feeds: dict[str, _Feed] = {}
        self._live: dict[str, LiveFeed] = {}

    @asynccontextmanager
    async def subscribe(
        self, shard: str, task_id: str, *, live: bool = False
    ) -> AsyncGenerator[Subscription]:
        """Everything of a task that is stored from here on, and its live output if asked for.

        Raises:
            Unavailable: The log cannot be followed now.
        """
        feed = self._feeds.get(shard)
        if feed is None:
            feed = self._feeds[shard] = _Feed(self._bus, shard)
            self._tasks.start_soon(feed.run, name=f"watch {shard}")
        subscription = Subscription(task_id)
        feed.add(subscription)
        try:
            with anyio.move_on_after(_START_S):
                await feed.started.wait()
            if not feed.started.is_set():
                raise Unavailable(f"shard `{shard}` of the log cannot be followed now")
            async with self._heard(subscription) if live else nullcontext():
                yield subscription
        finally:
            feed.remove(subscription)
            if feed.idle and self._feeds.get(shard) is feed:
                del self._feeds[shard]
                feed.scope.cancel()

    @asynccontextmanager
    async def _heard(self, subscription: Subscription) -> AsyncGenerator[None]:
        """Live output goes to this watcher too."""
        task_id = subscription.task_id
        feed = self._live.get(task_id)
        if feed is None:
            feed = self._live[task_id] = LiveFeed(self._bus, task_id)
            self._tasks.start_soon(feed.run, name=f"live {task_id}")
        try:
            await feed.add(subscription.offer_live)
            yield
        finally:
            feed.remove(subscription.offer_live)
            if feed.idle:
                del self._live[task_id]
                feed.scope.cancel()


@asynccontextmanager
async def open_fanout(bus: Bus) -> AsyncGenerator[Fanout]:
    """Follow shards as long as somebody watches; leaving ends all."""
    async with anyio.create_task_group() as tasks:
        try:
            yield Fanout(bus, tasks)
        finally:
            tasks.cancel_scope.cancel()
