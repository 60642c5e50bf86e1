"""Calls that outlast a gateway that goes away and comes back."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import anyio

from mesh.errors import Unavailable
from mesh.wire.rpc import translated
from mesh.wire.v1.gateway_pb2 import WatchTaskRequest, WatchTaskResponse

if TYPE_CHECKING:
    from mesh.wire.v1.gateway_pb2_grpc import GatewayServiceAsyncStub

__all__ = ["patiently", "watched"]

_PATIENCE_S = 60.0
"""How long the gateway may be gone: a supervisor restarts it within half a minute."""
_PAUSE_S = 0.25

T = TypeVar("T")


async def patiently(call: Callable[[], Awaitable[T]], *, patience_s: float = 5.0) -> T:
    """Make a call that may be repeated, again while the gateway is unreachable.

    Raises:
        Unavailable: It still is after `patience_s` seconds.
    """
    with anyio.move_on_after(patience_s):
        while True:
            try:
                with translated():
                    return await call()
            except Unavailable:
                await anyio.sleep(_PAUSE_S)
    with translated():
        return await call()


async def watched(
    stub: "GatewayServiceAsyncStub", task_id: str
) -> AsyncGenerator[WatchTaskResponse]:
    """A task now and after each event, until it closes; goes on behind the last event seen.

    Raises:
        TaskUnknown: There is no such task.
        Unavailable: The gateway was gone for longer than it may be.
    """
    position, closed, lost_at = 0, False, 0.0
    while not closed:
        try:
            with translated():
                request = WatchTaskRequest(task_id=task_id, after_position=position)
                async for update in stub.WatchTask(request):
                    position = max(position, update.event.position)
                    closed = update.task.HasField("closed_at")
                    lost_at = 0.0
                    yield update
        except Unavailable:
            lost_at = lost_at or anyio.current_time()
            if anyio.current_time() - lost_at > _PATIENCE_S:
                raise
        if not closed:
            await anyio.sleep(_PAUSE_S)
