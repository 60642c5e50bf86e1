"""A client of the kind the mesh uses, for tests of what is built on one."""

# pyright: reportUnknownMemberType=false
# nats-py leaves its keyword parameters without types.

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import anyio
import nats
from nats.aio.client import Client


@asynccontextmanager
async def connected(url: str) -> AsyncGenerator[Client]:
    async def quiet(_: Exception) -> None:
        """A killed broker is part of these tests."""

    client = await nats.connect(
        url.split(","), max_reconnect_attempts=-1, reconnect_time_wait=0.05, error_cb=quiet
    )
    try:
        yield client
    finally:
        # The client's own `close` trips over a socket whose other end was killed.
        with anyio.CancelScope(shield=True), suppress(OSError):
            await client.close()
