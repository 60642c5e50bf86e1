"""SIGTERM ends a process at once, whatever it waits for."""

import signal
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest
from anyio.abc import Process

from mesh.bootstrap import environment
from tests.system.local import AGENTS

AGENT = ["agent", "hello:greeter"]
PROMPT_S = 4.0


@asynccontextmanager
async def process_of(kind: list[str], folder: Path, nats_port: int) -> AsyncGenerator[Process]:
    (folder / "hello.py").write_text(AGENTS, encoding="utf-8")
    settings = {"MESH_NATS_URL": f"nats://127.0.0.1:{nats_port}", "MESH_DATA": str(folder)}
    process = await anyio.open_process(
        [sys.executable, "-m", "mesh.bootstrap", *kind],
        cwd=folder,
        env={**environment(), **settings},
        stdout=None,
        stderr=None,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@pytest.mark.parametrize("kind", [AGENT, ["ledger"], ["gateway"]])
async def test_a_process_ends_at_once_while_it_looks_for_its_broker(
    tmp_path: Path, kind: list[str]
) -> None:
    # Connections are taken, and nothing is ever said: it has been reached, and it waits.
    with socket.create_server(("127.0.0.1", 0)) as mute:
        mute.setblocking(False)
        async with process_of(kind, tmp_path, mute.getsockname()[1]) as process:
            with anyio.fail_after(60):
                await anyio.wait_readable(mute)
            process.send_signal(signal.SIGTERM)
            with anyio.fail_after(PROMPT_S):
                assert await process.wait() == 0
