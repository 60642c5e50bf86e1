"""The way from a command to the gateway of the mesh it means."""

from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from mesh.client.line import Line

__all__ = ["LONG_PATIENCE_S", "PATIENCE_S", "gateway", "line_to"]

PATIENCE_S = 10.0
"""How long a gateway may be gone: a supervisor restarts one within seconds."""
LONG_PATIENCE_S = 60.0
"""The same for who waits for a task anyway."""


@asynccontextmanager
async def gateway(data: Path | None, *, patience_s: float = PATIENCE_S) -> "AsyncGenerator[Line]":
    """Calls to the gateway; their errors leave as mesh errors.

    Raises:
        Unavailable: No mesh runs on the data folder.
    """
    from mesh.bootstrap import gateway_address

    async with line_to(gateway_address(data), patience_s=patience_s) as line:
        yield line


@asynccontextmanager
async def line_to(address: str, *, patience_s: float = PATIENCE_S) -> "AsyncGenerator[Line]":
    """Calls to the gateway at an address."""
    import grpc

    from mesh.client.line import CHANNEL_OPTIONS, Line
    from mesh.clock import SystemIds

    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        yield Line(channel, address, patience_s=patience_s, ids=SystemIds(), carrier=dict)
