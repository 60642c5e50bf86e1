"""Pull requests to one consumer: one at a time, asked again whenever one got lost.

nats-py's own `fetch` can wait for ever on a request that the server has forgotten (its issues 933
and 986). Here every request has an idle heartbeat: when that stops, the request is over.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING

import anyio
from nats.aio.msg import Msg

from mesh.bus.jetstream.connection import Connection
from mesh.bus.jetstream.replies import status
from mesh.core.envelope import Record
from mesh.wire.codec import read_record

if TYPE_CHECKING:
    from nats.aio.subscription import Subscription

__all__ = ["Meta", "Pull", "record_of"]

_NS = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FINE = ("404", "408")
"""No messages; the request expired."""
_HEARTBEAT = "100"


@dataclass(frozen=True, slots=True)
class Meta:
    """What the address for a delivery's acknowledgement tells about it."""

    delivered: int
    position: int
    stored_at: datetime

    @classmethod
    def of(cls, message: Msg) -> "Meta":
        """Read it: `$JS.ACK[.domain.account].stream.consumer.delivered.position.….time.pending`."""
        parts = message.reply.split(".")
        plain = 9
        fields = parts[4:] if len(parts) == plain else parts[6:]
        nanoseconds = int(fields[3])
        stored_at = _EPOCH + timedelta(microseconds=nanoseconds // 1000)
        return cls(int(fields[0]), int(fields[1]), stored_at)


def record_of(message: Msg) -> Record:
    """The record that a consumer delivered."""
    meta = Meta.of(message)
    return read_record(meta.position, meta.stored_at, message.subject, message.data)


class Pull:
    """One consumer's deliveries to this process, through a subscription of its own.

    `deliver` is called with each message as it comes, also with one that comes after its request
    was over.
    """

    def __init__(
        self,
        connection: Connection,
        stream: str,
        deliver: Callable[[Msg], None],
        *,
        expires_s: float,
        heartbeat_s: float,
    ) -> None:
        self._connection, self._stream, self._deliver = connection, stream, deliver
        self._expires_s, self._heartbeat_s = expires_s, heartbeat_s
        self._inbox = connection.new_inbox()
        self._numbers = count(1)
        self._subscription: Subscription | None = None
        self._reply = ""
        self._left = 0
        self._heard_at = 0.0
        self._over = anyio.Event()
        self._reason = ""

    async def open(self) -> None:
        """Subscribe."""
        self._subscription = await self._connection.listen(f"{self._inbox}.*", self._receive)
        self._connection.on_lost.append(self._on_lost)

    async def fetch(self, consumer: str, wanted: int) -> str:
        """Ask for messages, and wait until the request is over.

        Returns:
            "" if it was served or expired, else what went wrong with it.

        Raises:
            Unavailable: It could not be sent, or the connection is closed for good.
        """
        await self._connection.until_connected()
        self._reply = f"{self._inbox}.{next(self._numbers)}"
        self._left, self._over, self._reason = wanted, anyio.Event(), ""
        request = {
            "batch": wanted,
            "expires": int(self._expires_s * _NS),
            "idle_heartbeat": int(self._heartbeat_s * _NS),
        }
        self._heard_at = anyio.current_time()
        await self._connection.say(
            f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{consumer}",
            json.dumps(request).encode(),
            self._reply,
        )
        while not self._over.is_set():
            silent_at = self._heard_at + 2.5 * self._heartbeat_s
            if anyio.current_time() >= silent_at:
                self.end("no heartbeat")
            with anyio.CancelScope(deadline=silent_at):
                await self._over.wait()
        return self._reason

    def end(self, reason: str) -> None:
        """The request is over."""
        if not self._over.is_set():
            self._reason = reason
            self._over.set()

    async def close(self) -> None:
        """Unsubscribe; what the server sent until then is still delivered."""
        self._connection.on_lost.remove(self._on_lost)
        if self._subscription is not None:
            await self._connection.finish(self._subscription)

    def _on_lost(self) -> None:
        self.end("the connection was lost")

    async def _receive(self, message: Msg) -> None:
        self._heard_at = anyio.current_time()
        if message.reply.startswith("$JS.ACK."):
            self._deliver(message)
            self._left -= 1
            if self._left == 0:
                self.end("")
            return
        code = status(message)
        if message.subject != self._reply or code == _HEARTBEAT:
            return
        about = (message.headers or {}).get("Description", "").strip()
        self.end("" if code in _FINE or "Batch Completed" in about else f"{code} {about}")
