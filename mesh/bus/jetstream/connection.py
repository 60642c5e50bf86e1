"""A connection to NATS that comes back by itself and says why it went."""

import logging
import random
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress

import anyio
from nats.aio.client import Client, Server, Srv
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport
from nats.errors import AuthorizationError, Error

from mesh.core.backoff import Backoff
from mesh.errors import Unavailable

__all__ = ["Connection", "open_nats"]

_log = logging.getLogger(__name__)

_CLOSE_S = 5.0
_FINISH_S = 2.0
_PING_S, _PINGS = 5, 2
_BETWEEN = Backoff(first_s=0.4, limit_s=2.0)
_DENIED = re.compile(r"permissions violation for (publish|subscription) to \"([^\"]+)\"", re.I)


Headers = Mapping[str, str]


class Connection(Client):
    """nats-py's client that lets others wait for it, and tells them what it lost.

    `on_lost` are called when the connection breaks: what was asked over it gets no answer.
    `on_denied` are called with a subject that the broker did not let this process publish on.
    """

    def __init__(self) -> None:
        super().__init__()
        self.on_lost: list[Callable[[], None]] = []
        self.on_denied: list[Callable[[str], None]] = []
        self._up = anyio.Event()
        self._refused: anyio.CancelScope | None = None
        self.last_reason = ""

    async def until_connected(self) -> None:
        """Return as soon as it is connected, however long that takes.

        Raises:
            Unavailable: The connection is closed for good: by this process, or by a broker that
                does not let it in any more.
        """
        while not self.is_connected:
            if self.is_closed:
                raise Unavailable(f"the connection to NATS is closed: {self.last_reason}")
            if self._up.is_set():
                self._up = anyio.Event()  # nats-py notices a loss some time before it tells
            await self._up.wait()

    async def open(self, url: str, name: str, within_s: float) -> None:
        """Connect, within a bounded time.

        Args:
            url: One address or several with commas between, `nats://host:port`.
            name: What the broker shows for this client.
            within_s: How long that may take, seconds.

        Raises:
            Unavailable: Nobody answers there, or does not let this process in.
        """
        with anyio.move_on_after(within_s) as self._refused:
            await self.connect(
                [part.strip() for part in url.split(",")],
                name=name,
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.2,  # type: ignore[arg-type]  # sleep() takes a float
                reconnect_to_server_handler=_next_server,
                connect_timeout=2,
                ping_interval=_PING_S,
                max_outstanding_pings=_PINGS,
                error_cb=self._error,
                disconnected_cb=self._disconnected,
                reconnected_cb=self._reconnected,
                closed_cb=self._closed,
            )
        self._refused = None
        if not self.is_connected:
            await self.shut()
            raise Unavailable(
                f"no NATS server answers at {url}: {self.last_reason or 'no answer'};"
                " start it (`mesh up`) or set the right address"
            )
        self._up.set()

    async def say(
        self, subject: str, payload: bytes = b"", reply: str = "", headers: Headers | None = None
    ) -> None:
        """Publish, but only over a connection that stands.

        Raises:
            Unavailable: It does not; nothing was sent.
        """
        if not self.is_connected:
            raise Unavailable(f"not connected to NATS: {self.last_reason}")
        try:
            await self.publish(subject, payload, reply, dict(headers) if headers else None)
        except Error as error:
            raise Unavailable(f"nothing could be sent: {error}") from error

    async def listen(self, subject: str, receive: Callable[[Msg], Awaitable[None]]) -> Subscription:
        """Have `receive` called with each message on a subject, one after the other.

        Raises:
            Unavailable: The connection is closed.
        """
        try:
            # The type of one of its other parameters is not fully written down.
            return await self.subscribe(  # pyright: ignore[reportUnknownMemberType]
                subject, cb=receive, pending_bytes_limit=0
            )
        except Error as error:
            raise Unavailable(f"cannot listen on `{subject}`: {error}") from error

    async def heard(self) -> None:
        """Wait until the broker has taken everything that was sent before.

        Raises:
            Unavailable: It does not answer in time, or the connection is closed.
        """
        try:
            await self.flush()
        except Error as error:
            raise Unavailable(f"NATS does not answer: {error}") from error

    async def finish(self, subscription: Subscription) -> None:
        """End a subscription; what the broker sent until then is still received, if it answers."""
        if self.is_closed:
            return
        with anyio.move_on_after(_FINISH_S, shield=True), suppress(Error):
            if self.is_connected:
                await subscription.drain()  # type: ignore[no-untyped-call]  # nats-py types it not
                return
        # A drain needs the broker. Without it nothing more comes, but the subscription would be
        # renewed at the next reconnect; nats-py has no public way to end it after a failed drain.
        self._remove_sub(subscription._id)  # pyright: ignore[reportPrivateUsage]
        subscription._stop_processing()  # pyright: ignore[reportPrivateUsage]

    async def drop_if_mute(self, within_s: float) -> None:
        """Break the connection if its broker does not answer; it reconnects as after any loss.

        Whoever is about to close then need not wait for the broker at each step.
        """
        if not self.is_connected:
            return
        with anyio.move_on_after(within_s), suppress(Error):
            await self.flush()
            return
        self._abort()

    async def shut(self) -> None:
        """Send what waits to be sent, and close; within a bounded time."""
        with anyio.move_on_after(_CLOSE_S, shield=True):
            if self.is_connected:
                with anyio.move_on_after(_FINISH_S):
                    await self.flush()
            if not self.is_connected:
                # What waits has nobody to go to, and nats-py fails half way through its closing
                # when it writes that to a connection that is lost.
                self._pending, self._pending_data_size = [], 0
            await self.close()
            return
        self._abort()

    def _abort(self) -> None:
        """Break the connection without waiting for the broker; nats-py has no way to do that."""
        if isinstance(self._transport, TcpTransport):
            writer = self._transport._io_writer  # pyright: ignore[reportPrivateUsage]
            if writer is not None:
                writer.transport.abort()

    async def _process_op_err(self, e: Exception) -> None:
        """Before a reconnect nats-py waits until the old broker took all that is not sent yet.

        One that hangs never does, and the client would never go to another.
        """
        self._abort()
        await super()._process_op_err(e)

    async def _connect_to_server(self, s: Srv) -> None:
        """A connect that came half way stays open in nats-py when it tries the next server."""
        self._abort()
        await super()._connect_to_server(s)

    async def _error(self, error: Exception) -> None:
        self.last_reason = str(error) or type(error).__name__
        denied = _DENIED.search(self.last_reason)
        if denied:
            _log.error("the broker forbids this process to %s `%s`", *denied.groups())
            if denied[1].lower() == "publish":
                for callback in self.on_denied:
                    callback(denied[2])
        elif self._refused is not None:
            _log.debug("connecting: %s", self.last_reason)
            if isinstance(error, AuthorizationError):
                self._refused.cancel()
        else:
            _log.warning("NATS: %s", self.last_reason)

    async def _disconnected(self) -> None:
        if self._up.is_set():
            self._up = anyio.Event()
        if not self.is_closed:
            _log.warning("connection to NATS lost: %s", self.last_reason or "closed by the broker")
        for callback in self.on_lost:
            callback()

    async def _reconnected(self) -> None:
        _log.info("connection to NATS is back")
        self._up.set()

    async def _closed(self) -> None:
        self._up.set()
        for callback in self.on_lost:
            callback()


@asynccontextmanager
async def open_nats(url: str, name: str, *, within_s: float = 10.0) -> AsyncGenerator[Connection]:
    """A connection that reconnects for ever, 0.2 to 2 seconds with jitter between tries.

    Args:
        url: One address or several with commas between, `nats://host:port`.
        name: What the broker shows for this client.
        within_s: How long the first connect may take, seconds.

    Raises:
        Unavailable: The first connect did not succeed in that time.
    """
    connection = Connection()
    try:
        await connection.open(url, name, within_s)
        yield connection
    finally:
        await connection.shut()


def _next_server(pool: list[Server], _info: dict[str, object]) -> tuple[Server, float]:
    """The server that failed least, after a pause that grows with its failures."""
    server = min(pool, key=lambda each: each.reconnects)
    delay = _BETWEEN.delay_s(server.reconnects + 1, random.random())
    return server, max(0.2, delay) if server.reconnects else 0.0
