"""A shard's log from a position on, for ever: no gap, no duplicate."""

import logging
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
from nats.aio.msg import Msg

from mesh.bus.jetstream.options import BusOptions
from mesh.bus.jetstream.pull import Meta, Pull, record_of
from mesh.bus.jetstream.replies import Replies
from mesh.bus.jetstream.stream import log_info, stream_name
from mesh.core.backoff import Backoff
from mesh.core.envelope import Record
from mesh.errors import HistoryCorrupt, MeshError, Unavailable

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["Tail"]

_log = logging.getLogger(__name__)
_NS = 1_000_000_000
_KEPT_S = 60
_GRACE_S = 3.0
"""After an election a leader may need a moment to know all that was committed before."""
_AGAIN = Backoff(first_s=0.1, limit_s=2.0)


class Tail:
    """Reads through an ephemeral consumer, made anew after the last record when it is lost.

    Positions must follow one another. A hole that a fresh consumer shows too is in the log.
    """

    def __init__(
        self, replies: Replies, tenant: str, shard: str, *, after: int, options: BusOptions
    ) -> None:
        self._replies, self._tenant, self._shard = replies, tenant, shard
        self._last, self._options = after, options
        self._created_at: datetime | None = None
        self._ready: deque[Record] = deque()
        self._changed = anyio.Event()
        self._error: MeshError | None = None
        self._jumped_to = 0
        self._batch = 1
        self._pull: Pull | None = None

    def of(self, batch: int) -> "Tail":
        """Hand out at most `batch` records at a time."""
        self._batch = batch
        return self

    def __aiter__(self) -> "Tail":
        """As the port says."""
        return self

    async def __anext__(self) -> list[Record]:
        """The next records.

        Raises:
            HistoryCorrupt: What comes next is not what should.
            Unavailable: The connection is closed for good.
        """
        await anyio.lowlevel.checkpoint()
        while not self._ready:
            if self._error is not None:
                raise self._error
            await self._changed.wait()
        records = [self._ready.popleft() for _ in range(min(self._batch, len(self._ready)))]
        self._wake()
        return records

    async def check(self) -> None:
        """Compare the log with what was read of it.

        Raises:
            HistoryCorrupt: It was trimmed above the last record, or is not the one that was read.
            Unavailable: Its leader does not answer.
        """
        grace = anyio.current_time() + _GRACE_S
        while True:
            deadline = anyio.current_time() + self._options.timeout_s
            info = await log_info(self._replies, self._tenant, self._shard, deadline)
            if self._created_at not in (None, info.created_at):
                raise HistoryCorrupt(f"shard `{self._shard}`: the log was recreated")
            if info.first > self._last + 1:
                raise HistoryCorrupt(
                    f"shard `{self._shard}` begins at position {info.first}, a reader needs"
                    f" {self._last + 1}: the log was trimmed"
                )
            if info.last >= self._last:
                self._created_at = info.created_at
                return
            if anyio.current_time() >= grace:
                raise HistoryCorrupt(
                    f"shard `{self._shard}` ends at position {info.last}, a reader has seen"
                    f" {self._last}: the log was recreated"
                )
            await anyio.sleep(_AGAIN.first_s)

    async def run(self) -> None:
        """Read on, until cancelled or the log is corrupt; the reader is told."""
        failures = 0
        while self._error is None:
            before = self._last
            try:
                reason = await self._follow()
            except Unavailable as error:
                reason = str(error)
                if self._replies.connection.is_closed:
                    self._error = error
                    self._wake()
                    return
            except HistoryCorrupt as error:
                self._error = error
                self._wake()
                return
            failures = 1 if self._last > before else failures + 1
            _log.warning("tail of shard `%s`: %s", self._shard, reason)
            await anyio.sleep(_AGAIN.delay_s(failures, self._replies.jitter()))

    async def _follow(self) -> str:
        """Read through one consumer until it is lost; says why."""
        stream = stream_name(self._tenant, self._shard)
        start = self._last
        self._jumped_to = 0
        name = f"tail-{self._replies.fresh_name()}"
        pull = self._pull = Pull(
            self._replies.connection,
            stream,
            self._receive,
            expires_s=self._options.pull_s,
            heartbeat_s=self._options.heartbeat_s,
        )
        await pull.open()
        try:
            await self._create(stream, name)
            # After it was made: a consumer that outlives this check reads the log that was checked.
            await self.check()
            while not (reason := await pull.fetch(name, self._batch)):
                while len(self._ready) >= self._batch:
                    await self._changed.wait()
        finally:
            self._pull = None
            await pull.close()
            await self._delete(stream, name)
        if self._jumped_to and self._last == start:
            await self.check()
            raise HistoryCorrupt(
                f"shard `{self._shard}`: after position {start} comes {self._jumped_to},"
                f" {start + 1} is missing"
            )
        return reason

    def _receive(self, message: Msg) -> None:
        position = Meta.of(message).position
        if self._pull is None or self._jumped_to or position <= self._last:
            return
        if position > self._last + 1:
            self._jumped_to = position
            self._pull.end(f"position {position} came after {self._last}")
            return
        self._last = position
        self._ready.append(record_of(message))
        self._wake()

    async def _create(self, stream: str, name: str) -> None:
        config = {
            "name": name,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self._last + 1,
            "ack_policy": "none",
            "replay_policy": "instant",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": _KEPT_S * _NS,
        }
        deadline = anyio.current_time() + self._options.timeout_s
        answer = await self._replies.api(
            f"CONSUMER.CREATE.{stream}.{name}",
            {"stream_name": stream, "config": config, "action": "create"},
            deadline,
        )
        if answer.error_code:
            raise Unavailable(f"no consumer for a tail: {answer.error}")

    async def _delete(self, stream: str, name: str) -> None:
        """Spare the server an unused consumer; without an answer it goes by itself in a minute."""
        with anyio.move_on_after(1, shield=True), suppress(Unavailable):
            await self._replies.connection.say(f"$JS.API.CONSUMER.DELETE.{stream}.{name}")

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
