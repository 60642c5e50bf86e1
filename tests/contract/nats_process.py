"""A real nats-server for one test: free port, own folder, can be killed and started again."""

# pyright: reportUnknownMemberType=false
# nats-py leaves its keyword parameters without types.

import shutil
import signal
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from subprocess import DEVNULL

import anyio
import anyio.abc
import nats
from nats.aio.client import Client

_SERVER = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or "nats-server"


class NatsProcess:
    def __init__(self, folder: Path, port: int) -> None:
        self._folder, self._port = folder, port
        self._process: anyio.abc.Process | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self._port}"

    async def start(self) -> None:
        store = str(self._folder)
        self._process = await anyio.open_process(
            [_SERVER, "-a", "127.0.0.1", "-p", str(self._port), "-js", "-sd", store],
            stdout=DEVNULL,
            stderr=DEVNULL,
        )
        with anyio.fail_after(10):
            while not await self._listens():  # noqa: ASYNC110  # another process: no event to await
                await anyio.sleep(0.02)

    async def stop(self, how: signal.Signals = signal.SIGKILL) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        with anyio.CancelScope(shield=True):
            await self._process.wait()
        self._process = None

    async def _listens(self) -> bool:
        try:
            async with await anyio.connect_tcp("127.0.0.1", self._port) as stream:
                await stream.receive()
        except (OSError, anyio.EndOfStream):
            return False
        return True


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@asynccontextmanager
async def nats_process(folder: Path) -> AsyncGenerator[NatsProcess]:
    server = NatsProcess(folder, free_port())
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def connected(url: str) -> AsyncGenerator[Client]:
    async def quiet(_: Exception) -> None:
        """A killed broker is part of these tests."""

    client = await nats.connect(
        url, max_reconnect_attempts=-1, reconnect_time_wait=0.05, error_cb=quiet
    )
    try:
        yield client
    finally:
        # The client's own `close` trips over a socket whose other end was killed.
        with anyio.CancelScope(shield=True), suppress(OSError):
            await client.close()
