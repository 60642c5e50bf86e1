"""The line to a gateway: calls and streams that outlast its restarts.

Every call of the mesh may be repeated: what writes carries the id of its request, a cancel changes
nothing the second time, the rest only reads.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.lowlevel
import grpc

from mesh.clock import IdSource
from mesh.core.backoff import Backoff
from mesh.errors import LogFull, Unavailable, Unresolved
from mesh.wire.rpc import MESSAGE_BYTES, translated
from mesh.wire.v1.gateway_pb2_grpc import GatewayServiceStub

if TYPE_CHECKING:
    from mesh.wire.v1.gateway_pb2_grpc import GatewayServiceAsyncStub

__all__ = ["CHANNEL_OPTIONS", "Line"]

CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A gateway that hangs, or a cable that was pulled, says nothing: ask.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
]
_CALL_S = 60.0

Q = TypeVar("Q")
R = TypeVar("R")


class Line:
    """A channel to one gateway address, with patience.

    Args:
        channel: It; it reconnects by itself.
        address: What error texts call it.
        patience_s: How long the gateway may be gone before a call gives up, seconds.
        ids: Fresh request ids, and jitter.
        carrier: W3C trace headers to send along, read at each call.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        address: str,
        *,
        patience_s: float,
        ids: IdSource,
        carrier: Callable[[], Mapping[str, str]],
    ) -> None:
        self.stub: GatewayServiceAsyncStub = GatewayServiceStub(channel)
        self.ids = ids
        self._peer = f"the gateway at `{address}`"
        self._patience_s = patience_s
        self._carrier = carrier
        self._backoff = Backoff(first_s=0.1, limit_s=2.0)

    async def call(self, method: grpc.aio.UnaryUnaryMultiCallable[Q, R], request: Q) -> R:
        """Make a call, again while the gateway is gone.

        Raises:
            MeshError: What the gateway answered.
            Unavailable: It was gone for longer than the patience.
        """
        until = anyio.current_time() + self._patience_s
        attempt = 0
        while True:
            try:
                with translated(self._peer):
                    return await method(request, timeout=_CALL_S, metadata=self._metadata())
            except asyncio.CancelledError:
                # gRPC raises one of its own, which the scope that cancelled us takes for somebody
                # else's and lets pass; here it raises the scope's.
                await anyio.lowlevel.checkpoint()
                raise
            except (Unavailable, Unresolved) as error:
                attempt += 1
                await self._pause(error, attempt, until)

    async def follow(
        self, method: grpc.aio.UnaryStreamMultiCallable[Q, R], request: Callable[[], Q]
    ) -> AsyncGenerator[R]:
        """Follow a stream to its end; `request` says where to go on after the gateway was gone.

        Raises:
            MeshError: What the gateway answered.
            Unavailable: It was gone for longer than the patience.
        """
        until, attempt = 0.0, 0
        while True:
            began = anyio.current_time()
            call = method(request(), metadata=self._metadata())
            try:
                with translated(self._peer):
                    async for found in call:
                        attempt = 0
                        yield found
                return
            except (Unavailable, Unresolved) as error:
                now = anyio.current_time()
                if not attempt or now - began > self._patience_s:  # it stood, quietly
                    until, attempt = now + self._patience_s, 0
                attempt += 1
                await self._pause(error, attempt, until)
            finally:
                call.cancel()  # whoever stops reading early must not leave the stream open

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return tuple(self._carrier().items())

    async def _pause(self, error: Exception, attempt: int, until: float) -> None:
        delay = self._backoff.delay_s(attempt, self.ids.random())
        if isinstance(error, LogFull) or anyio.current_time() + delay > until:
            raise error
        await anyio.sleep(delay)
