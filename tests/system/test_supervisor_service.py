import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from mesh.bootstrap import environment
from mesh.bootstrap.process import ProcessRef
from mesh.bootstrap.runfile import ServiceRun, State
from mesh.clock import SystemClock
from mesh.supervisor.service import Service, Spec

READY = "import os; os.write(int(os.environ['MESH_READY_FD']), b'.');"
STAY = "import signal; signal.pause()"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);"


class Watched:
    """A service, and everything it ever showed."""

    def __init__(self, code: str, folder: Path, *, grace_s: float = 5.0) -> None:
        self.seen: list[ServiceRun] = []
        self._changed = anyio.Event()
        spec = Spec(
            name="tried",
            kind="agent",
            command=[sys.executable, "-c", code],
            cwd=folder,
            environment=environment(),
            log=folder / "tried.log",
            grace_s=grace_s,
        )
        self.service = Service(spec, SystemClock(), self._note)

    def _note(self) -> None:
        self.seen.append(self.service.run_state)
        self._changed.set()
        self._changed = anyio.Event()

    async def until(self, state: State, *, restarts: int = 0) -> ServiceRun:
        with anyio.fail_after(20):
            while True:
                now = self.service.run_state
                if now.state == state and now.restarts >= restarts:
                    return now
                await self._changed.wait()


@asynccontextmanager
async def kept(watched: Watched) -> AsyncGenerator[Watched]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watched.service.keep)
        try:
            yield watched
        finally:
            with anyio.CancelScope(shield=True):
                await watched.service.stop()


async def test_a_process_is_running_once_it_says_so_and_gone_after_stop(tmp_path: Path) -> None:
    async with kept(Watched(f"print('hello', flush=True); {READY} {STAY}", tmp_path)) as watched:
        run = await watched.until("running")
        assert run.process.alive
    assert not run.process.alive
    assert watched.service.run_state.state == "stopped"
    assert [each.state for each in watched.seen] == ["starting", "running", "stopping", "stopped"]
    assert (tmp_path / "tried.log").read_text() == "hello\n"


async def test_a_killed_process_is_restarted(tmp_path: Path) -> None:
    async with kept(Watched(READY + STAY, tmp_path)) as watched:
        first = await watched.until("running")
        first.process.send(signal.SIGKILL)
        second = await watched.until("running", restarts=1)
        assert second.pid != first.pid
        assert second.restarts == 1
    assert not second.process.alive


async def test_a_process_that_does_not_heed_sigterm_is_killed(tmp_path: Path) -> None:
    watched = Watched(DEAF + READY + STAY, tmp_path, grace_s=0.2)
    async with kept(watched):
        run = await watched.until("running")
    assert not run.process.alive


async def test_a_service_that_refuses_its_configuration_is_not_tried_again(tmp_path: Path) -> None:
    async with kept(Watched("import sys; sys.exit(2)", tmp_path)) as watched:
        with anyio.fail_after(20):
            await watched.service.broken.wait()
    assert watched.service.run_state.restarts == 0
    assert not watched.service.ready.is_set()


async def test_a_service_that_dies_before_it_serves_is_given_up_after_three_tries(
    tmp_path: Path,
) -> None:
    async with kept(Watched("import sys; sys.exit(1)", tmp_path)) as watched:
        with anyio.fail_after(20):
            await watched.service.broken.wait()
    assert [each.state for each in watched.seen].count("starting") == 3


async def test_the_third_restart_in_a_row_waits(tmp_path: Path) -> None:
    counter = tmp_path / "lives"
    # Serves at once, and dies at once but for its fourth life.
    code = (
        f"p = {str(counter)!r}; f = open(p, 'a'); f.write('x'); f.close(); {READY}\n"
        f"if len(open(p).read()) == 4: {STAY}"
    )
    async with kept(Watched(code, tmp_path)) as watched:
        began = anyio.current_time()
        await watched.until("running", restarts=3)
        assert anyio.current_time() - began >= 1.0


async def test_a_process_is_known_by_more_than_its_pid() -> None:
    me = ProcessRef.of(os.getpid())
    assert me.alive
    assert not ProcessRef(me.pid, me.mark + "0").alive
    assert not ProcessRef(0, "").alive


@pytest.mark.skipif(sys.platform != "linux", reason="the tie is made by the Linux kernel")
async def test_a_leashed_command_dies_with_its_supervisor(tmp_path: Path) -> None:
    told, tell = os.pipe()
    child = f"import os; os.write({tell}, str(os.getpid()).encode() + b'.'); {STAY}"
    parent = (
        "import os, subprocess, sys, signal\n"
        "from mesh.supervisor.broker import leashed\n"
        f"command = leashed([sys.executable, '-c', {child!r}], os.getpid())\n"
        f"subprocess.Popen(command, pass_fds=[{tell}])\n"
        "signal.pause()\n"
    )
    process = await anyio.open_process([sys.executable, "-c", parent], pass_fds=(tell,))
    os.close(tell)
    try:
        with anyio.fail_after(20):
            text = ""
            while not text.endswith("."):
                await anyio.wait_readable(told)
                text += os.read(told, 64).decode()
        leashed = ProcessRef.of(int(text.rstrip(".")))
        assert leashed.alive
        process.kill()
        with anyio.fail_after(20):
            await leashed.gone()
    finally:
        os.close(told)
        if process.returncode is None:
            process.kill()
        await process.aclose()
