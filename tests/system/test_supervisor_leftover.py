"""What a killed supervisor left: ended, and its ports free, before anything else starts."""

import os
import socket
import sys
from pathlib import Path

import anyio
import pytest

from mesh.bootstrap.process import ProcessRef
from mesh.bootstrap.runfile import MeshRun, read_run
from mesh.supervisor import end_leftovers
from mesh.supervisor.port import is_free, spare_ports

DYING = """\
import ctypes, os, signal, threading
def stay():
    os.write({tell}, b".")
    signal.pause()
threading.Thread(target=stay).start()
ctypes.CDLL(None).pthread_exit(None)
"""


def left_run(port: int) -> MeshRun:
    """The run file of a supervisor that is no more, whose gateway was at this port."""
    nats, monitor, ledger = spare_ports(3)
    return MeshRun(
        pid=0,
        mark="",
        started_at="",
        tenant="default",
        manifest="",
        nats_url=f"nats://127.0.0.1:{nats}",
        monitor_url=f"http://127.0.0.1:{monitor}",
        gateway=f"127.0.0.1:{port}",
        ledger=f"127.0.0.1:{ledger}",
        sync_always=True,
    )


async def test_the_ports_of_leftovers_are_waited_for(tmp_path: Path) -> None:
    ended = anyio.Event()

    async def end() -> None:
        await end_leftovers(tmp_path)
        ended.set()

    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        left_run(port).write(tmp_path)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(end)
            await anyio.wait_all_tasks_blocked()
            assert not ended.is_set()
            assert not is_free(port)
            held.close()
            with anyio.fail_after(20):
                await ended.wait()
    assert read_run(tmp_path) is None


@pytest.mark.skipif(sys.platform != "linux", reason="how Linux shows a process that is dying")
async def test_a_process_is_alive_until_its_last_thread_is_gone() -> None:
    told, tell = os.pipe()
    code = DYING.format(tell=tell)
    process = await anyio.open_process([sys.executable, "-c", code], pass_fds=(tell,))
    os.close(tell)
    try:
        stat = Path("/proc") / str(process.pid) / "stat"
        with anyio.fail_after(20):
            await anyio.wait_readable(told)
            while stat.read_text().rpartition(")")[2].split()[0] != "Z":  # noqa: ASYNC110 - nobody tells
                await anyio.sleep(0.01)
        dying = ProcessRef.of(process.pid)
        assert dying.alive
        process.kill()
        with anyio.fail_after(20):
            await process.wait()
        assert not dying.alive
    finally:
        os.close(told)
        if process.returncode is None:
            process.kill()
        await process.aclose()
