"""`Bus` on NATS JetStream: the streams are the log.

Source: design, sections 1 and 3.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

import anyio
from nats.aio.msg import Msg

from mesh.bus.beside import beside
from mesh.bus.draft import drafts, fenced
from mesh.bus.jetstream.connection import Connection
from mesh.bus.jetstream.history import History
from mesh.bus.jetstream.inbox import JetStreamInbox, Leases
from mesh.bus.jetstream.options import BusOptions
from mesh.bus.jetstream.publisher import BATCH_LIMIT, Publisher
from mesh.bus.jetstream.replies import Replies, open_replies
from mesh.bus.jetstream.stream import (
    agent_backlog,
    consumer_name,
    ensure_streams,
    log_info,
    stream_name,
)
from mesh.bus.jetstream.tail import Tail
from mesh.bus.port import HINT_LIMIT_BYTES, Backlog, Hint, Inbox, LogInfo
from mesh.clock import Clock, SystemClock
from mesh.core.envelope import Envelope, Record
from mesh.core.subject import check_name, shard_of
from mesh.errors import PayloadTooLarge, Unavailable, Unresolved

__all__ = ["BusOptions", "JetStreamBus", "open_bus"]

_HINTS_HELD = 256


class JetStreamBus:
    """A `Bus` over one connection; `open_bus` makes it."""

    def __init__(
        self, replies: Replies, *, tenant: str, shards: int, clock: Clock, options: BusOptions
    ) -> None:
        self._replies, self._tenant, self._shards = replies, tenant, shards
        self._clock, self._options = clock, options
        self._history = History(replies, tenant)
        self._publisher = Publisher(replies, self._history, tenant=tenant)

    @property
    def pending(self) -> int:
        """How many questions to the broker wait for an answer now."""
        return self._replies.pending

    async def append(
        self, envelopes: Sequence[Envelope], expected: Mapping[str, int]
    ) -> tuple[int, ...]:
        """As the port says; over 500 events are atomic only in parts, each part fenced.

        When a later part is not written, the answer is Fenced or Unresolved, and appending all of
        it again with the same ids completes it.
        """
        batch = drafts(
            envelopes,
            expected,
            tenant=self._tenant,
            shards=self._shards,
            limit_bytes=self._replies.connection.max_payload,
        )
        fences = dict(expected)
        positions: list[int] = []
        for start in range(0, len(batch), BATCH_LIMIT):
            part = batch[start : start + BATCH_LIMIT]
            try:
                stored = await self._publisher.store(fenced(part, fences), self._deadline())
            except Unavailable as error:
                if not positions:
                    raise
                raise Unresolved(f"only {len(positions)} events were stored: {error}") from error
            positions += stored
            for draft, position in zip(part, stored, strict=True):
                if draft.moves and draft.task_id in fences:
                    fences[draft.task_id] = position
        return tuple(positions)

    async def history(
        self, task_id: str, *, root_task_id: str = "", after: int = 0
    ) -> list[Record]:
        """As the port says."""
        deadline = self._deadline()
        if root_task_id:
            shard = shard_of(root_task_id, self._shards)
            return await self._history.read(shard, task_id, after, deadline)
        records: list[Record] = []
        for shard in self._shard_names:
            records += await self._history.read(shard, task_id, after, deadline)
        return records

    async def head(self, task_id: str, *, root_task_id: str) -> Record | None:
        """As the port says."""
        shard = shard_of(root_task_id, self._shards)
        return await self._history.head(shard, task_id, self._deadline())

    async def info(self) -> list[LogInfo]:
        """As the port says."""
        deadline = self._deadline()
        return [
            await log_info(self._replies, self._tenant, shard, deadline)
            for shard in self._shard_names
        ]

    async def backlog(self, agent: str) -> Backlog:
        """As the port says."""
        name, deadline = consumer_name(self._tenant, check_name(agent)), self._deadline()
        shards = [
            await agent_backlog(self._replies, name, stream_name(self._tenant, shard), deadline)
            for shard in self._shard_names
        ]
        return Backlog(sum(s.waiting for s in shards), sum(s.held for s in shards))

    @asynccontextmanager
    async def inbox(self, agent: str, *, max_held: int) -> AsyncGenerator[Inbox]:
        """As the port says."""
        leases = Leases(self._replies, self._clock, self._options)
        inbox = JetStreamInbox(
            self._tenant, self._shards, check_name(agent), max_held=max_held, leases=leases
        )
        await inbox.open()
        async with beside(inbox.pull, inbox.beat):
            try:
                yield inbox
            finally:
                await inbox.close()

    @asynccontextmanager
    async def tail(
        self, shard: str, *, after: int, batch: int = 500
    ) -> AsyncGenerator[AsyncIterator[list[Record]]]:
        """As the port says."""
        tail = Tail(self._replies, self._tenant, shard, after=after, options=self._options).of(
            batch
        )
        await tail.check()
        async with beside(tail.run):
            yield tail

    async def hint(self, topic: str, data: bytes = b"") -> None:
        """As the port says."""
        connection = self._replies.connection
        # Larger than the broker takes would be lost every time, and nobody would know why.
        limit = min(HINT_LIMIT_BYTES, connection.max_payload)
        if len(data) > limit:
            raise PayloadTooLarge(size_bytes=len(data), limit_bytes=limit)
        with suppress(Unavailable):  # it may be lost, as the port says
            await connection.say(self._hint_subject(topic), data)

    @asynccontextmanager
    async def hints(self, topic: str) -> AsyncGenerator[AsyncIterator[Hint]]:
        """As the port says."""
        connection = self._replies.connection
        send, receive = anyio.create_memory_object_stream[Hint](_HINTS_HELD)
        skip = len(self._hint_subject(""))

        async def take(message: Msg) -> None:
            try:
                send.send_nowait(Hint(message.subject[skip:], message.data))
            except anyio.WouldBlock:
                return  # a slow reader loses hints, as the port says

        subscription = await connection.listen(self._hint_subject(topic), take)
        await connection.heard()
        try:
            yield receive
        finally:
            await connection.finish(subscription)
            send.close()
            receive.close()

    @property
    def _shard_names(self) -> list[str]:
        return [f"s{n}" for n in range(self._shards)]

    def _hint_subject(self, topic: str) -> str:
        return f"mesh-hint.{self._tenant}.{topic}"

    def _deadline(self) -> float:
        return anyio.current_time() + self._options.timeout_s


@asynccontextmanager
async def open_bus(
    connection: Connection,
    *,
    tenant: str,
    shards: int = 1,
    replicas: int = 1,
    clock: Clock | None = None,
    options: BusOptions | None = None,
) -> AsyncGenerator[JetStreamBus]:
    """Make or check the streams of a tenant, then open its bus.

    Args:
        connection: From `open_nats`.
        tenant: Whose log.
        shards: How many streams, count, >= 1; fixed when the first one was made.
        replicas: Copies of each stream, count, odd; more may be there already.
        clock: For leases; the system's by default.
        options: Times and sizes.

    Raises:
        StreamDrifted: A stream is there with settings the mesh cannot work with.
        Unavailable: JetStream does not answer.
    """
    options = options or BusOptions()
    async with open_replies(connection) as replies:
        await ensure_streams(
            replies,
            check_name(tenant),
            shards,
            limits={"num_replicas": replicas, "max_bytes": options.max_bytes},
            deadline=anyio.current_time() + options.open_s,
        )
        yield JetStreamBus(
            replies, tenant=tenant, shards=shards, clock=clock or SystemClock(), options=options
        )
