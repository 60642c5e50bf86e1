"""SIGTERM ends a process at once, whatever it waits for."""

import signal
import socket
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from subprocess import DEVNULL

import anyio
import pytest
from anyio.abc import Process

from mesh.bootstrap import environment
from mesh.supervisor.broker import BrokerPlan, healthy, nats_server
from mesh.supervisor.port import spare_ports
from tests.system.local import AGENTS

AGENT = ["agent", "hello:greeter"]
PROMPT_S = 5.0


@asynccontextmanager
async def process_of(
    kind: list[str], folder: Path, nats_port: int, *, told: int | None = None
) -> AsyncGenerator[Process]:
    """A process of the mesh; what it logs goes to `told`, or to the test's own stderr."""
    (folder / "hello.py").write_text(AGENTS, encoding="utf-8")
    settings = {"MESH_NATS_URL": f"nats://127.0.0.1:{nats_port}", "MESH_DATA": str(folder)}
    process = await anyio.open_process(
        [sys.executable, "-m", "mesh.bootstrap", *kind],
        cwd=folder,
        env={**environment(), **settings},
        stdout=None,
        stderr=told,
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


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_an_agent_ends_at_once_when_its_broker_is_gone(
    tmp_path: Path, number: signal.Signals
) -> None:
    port, monitor_port = spare_ports(2)
    plan = BrokerPlan(data=tmp_path, port=port, monitor_port=monitor_port, sync_always=False)
    plan.write_config()
    log_path = tmp_path / "agent.log"
    command = [nats_server(None), "-c", str(plan.config_path)]
    broker = await anyio.open_process(command, stdout=DEVNULL, stderr=DEVNULL)
    try:
        with log_path.open("wb") as log, anyio.fail_after(60):
            await until(lambda: healthy(monitor_port))
            async with process_of(AGENT, tmp_path, port, told=log.fileno()) as process:
                await until(partial(says, log_path, "ready, pid"))
                broker.send_signal(number)
                if number is signal.SIGKILL:
                    await until(partial(says, log_path, "connection to NATS lost"))
                process.send_signal(signal.SIGTERM)
                with anyio.fail_after(PROMPT_S):
                    assert await process.wait() == 0
    finally:
        with suppress(ProcessLookupError):
            broker.kill()
        await broker.aclose()
    text = log_path.read_text(encoding="utf-8")
    assert "Traceback" not in text
    assert text.endswith(": stopped\n")


async def says(log: Path, what: str) -> bool:
    return what in await anyio.Path(log).read_text(encoding="utf-8")


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    while not await condition():  # noqa: ASYNC110 - another process's doing: nobody tells
        await anyio.sleep(0.02)
