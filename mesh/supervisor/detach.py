"""A supervisor in the background: started, heard until its mesh serves, ended by its run file."""

import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import anyio

from mesh.bootstrap.process import ProcessRef
from mesh.bootstrap.runfile import MeshRun, find_run, read_run
from mesh.errors import ConfigError, Halted, MeshError, Refused
from mesh.supervisor.folder import make_log_folder
from mesh.supervisor.run import Changed, end_leftovers

__all__ = ["Ended", "Report", "bring_down", "start_detached"]

_DOWN_S = 90.0
_ERRORS: dict[str, type[MeshError]] = {each.code: each for each in (ConfigError, Refused)}


class Report:
    """The supervisor's end of the pipe to whoever started it: one JSON object a line."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def changed(self) -> None:
        """Something is new in the run file."""
        self._say({"changed": True})

    def ready(self) -> None:
        """Everything serves; nothing more will be said."""
        self._say({"ready": True})
        os.close(self._fd)

    def failed(self, error: MeshError) -> None:
        """It ends because of this."""
        self._say({"error": error.code, "message": str(error)})

    def _say(self, message: Mapping[str, object]) -> None:
        try:
            os.write(self._fd, json.dumps(message).encode() + b"\n")
        except OSError:
            # Nobody listens any more (the pipe is closed or broken): the mesh runs all the same.
            return


@dataclass(frozen=True, slots=True)
class Ended:
    """What `bring_down` found: the supervisor's pid, 0 if none ran, and what a dead one left."""

    pid: int
    leftovers: tuple[str, ...]


async def start_detached(
    manifest: Path, data: Path, environment: Mapping[str, str], changed: Changed
) -> MeshRun:
    """Start a supervisor in a session of its own; returns when its whole mesh serves.

    Raises:
        ConfigError: The manifest is wrong, a service does not come up, or the data folder cannot
            be made.
        Refused: A port is taken, or the data folder belongs to a running mesh.
    """
    heard, spoken = os.pipe()
    try:
        pid = _spawn(manifest, data, environment, spoken)
    finally:
        os.close(spoken)
    serves = False
    try:
        async with aclosing(_messages(heard)) as messages:
            async for message in messages:
                if "error" in message:
                    raise _ERRORS.get(message["error"], Halted)(message["message"])
                run = find_run(data)
                if run is not None:
                    changed(run)
                    serves = "ready" in message
                    if serves:
                        return run
        raise Halted(f"the supervisor died; see {data / 'logs' / 'supervisor.log'}")
    finally:
        os.close(heard)
        if not serves:
            # Also when we are interrupted: nobody would know of a mesh that came up after all.
            supervisor = ProcessRef.of(pid)
            supervisor.send(signal.SIGTERM)
            with anyio.CancelScope(shield=True):
                await supervisor.gone()
            os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222 - it does not block


async def bring_down(data: Path) -> Ended:
    """End the mesh that runs on a data folder, and whatever a killed supervisor left there.

    Raises:
        ConfigError: The run file is not one of ours.
    """
    run = read_run(data)
    if run is None:
        return Ended(0, ())
    pid = run.pid if run.supervisor.alive else 0
    run.supervisor.send(signal.SIGTERM)
    with anyio.move_on_after(_DOWN_S):
        await run.supervisor.gone()
    run.supervisor.send(signal.SIGKILL)
    await run.supervisor.gone()
    return Ended(pid, tuple(await end_leftovers(data)))


def _spawn(manifest: Path, data: Path, environment: Mapping[str, str], spoken: int) -> int:
    log_path = make_log_folder(data) / "supervisor.log"
    os.set_inheritable(spoken, True)
    command = [sys.executable, "-m", "mesh.supervisor", str(manifest), str(data), str(spoken)]
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    # Not `subprocess`: its handle complains when it is dropped while the process lives on.
    return os.posix_spawn(
        command[0],
        command,
        environment,
        setsid=True,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log_path), flags, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
    )


async def _messages(fd: int) -> AsyncGenerator[dict[str, str]]:
    pending = b""
    while True:
        await anyio.wait_readable(fd)
        chunk = os.read(fd, 65536)
        if not chunk:
            return
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            yield json.loads(line)
