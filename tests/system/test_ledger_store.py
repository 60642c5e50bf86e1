"""The embedded store under power: killed processes lose nothing acked, commits reach the disk."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import sys
from pathlib import Path
from subprocess import DEVNULL, PIPE

import anyio
import pytest
from anyio.streams.text import TextReceiveStream

from mesh.ledger.check import verify
from mesh.store.surreal import open_surreal

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]


ENV = {"SURREAL_SYNC_DATA": "true", "PATH": os.defpath}
STRACE = shutil.which("strace") or ""


def command(what: str, folder: Path, number: int) -> list[str]:
    return [sys.executable, "-m", "tests.system.ledger_child", what, str(folder), str(number)]


@pytest.fixture(autouse=True)
def synced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SURREAL_SYNC_DATA", "true")


async def test_a_killed_writer_loses_nothing_that_was_acked(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    kills = 30 if request.config.getoption("--bars") else 5
    folder, acked = tmp_path / "store", 0
    for kill in range(kills):
        batch = (1, 7, 100)[kill % 3]
        acked = await commit_and_kill(folder, batch=batch, commits=10 + 7 * kill, acked=acked)
        async with open_surreal(str(folder)) as store:
            checkpoint = await store.checkpoint("s0")
            first, last, count = await store.count("s0")
            assert (first, last, count) == (1, checkpoint.position, checkpoint.count)
            assert count == last - first + 1
            assert acked <= last <= acked + batch
            assert (await verify(store, "s0")).count == count
            row = await store.row("agent", "k")
            assert row is not None
            assert row.state == str(last).encode()


async def commit_and_kill(folder: Path, *, batch: int, commits: int, acked: int) -> int:
    """Let a child commit, kill it in the middle of the next ones; gives what it saw acked."""
    async with await anyio.open_process(
        command("commit", folder, batch), env=ENV, cwd=ROOT, stdin=DEVNULL, stderr=None
    ) as child:
        assert child.stdout is not None
        text, killed = "", False
        with anyio.fail_after(60):
            async for part in TextReceiveStream(child.stdout):
                text += part
                if not killed and text.count("\n") > commits:
                    child.send_signal(signal.SIGKILL)
                    killed = True
        assert await child.wait() == -signal.SIGKILL
    # A line without its end was not printed completely: its commit returned all the same.
    printed = [int(line) for line in text.split("\n") if line.isdigit()]
    assert len(printed) >= commits
    return max(printed, default=acked)


async def test_a_folder_is_locked_against_another_process_and_free_after_its_death(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "store"
    async with await anyio.open_process(
        command("commit", folder, 1), env=ENV, cwd=ROOT, stdin=DEVNULL, stderr=None
    ) as child:
        assert child.stdout is not None
        with anyio.fail_after(60):
            await child.stdout.receive()
            second = await anyio.run_process(
                command("some", folder, 1), env=ENV, cwd=ROOT, check=False
            )
        assert second.returncode == 1
        assert f"store `{folder}` is open in another process" in second.stderr.decode()
        child.kill()
    async with open_surreal(str(folder)) as store:
        assert (await store.count("s0"))[2] > 0


async def system_calls(tmp_path: Path, calls: str, *, commits: int) -> str:
    """What a child that commits a few times asks of the kernel, in order."""
    if not STRACE:
        pytest.skip("needs strace to see system calls")
    trace = tmp_path / "trace"
    strace = [STRACE, "-f", "-y", "-e", f"trace={calls},write", "-e", "signal=none"]
    done = await anyio.run_process(
        [*strace, "-o", str(trace), *command("some", tmp_path / "store", commits)],
        env=ENV,
        cwd=ROOT,
        check=False,
    )
    if done.returncode and b"ptrace" in done.stderr:
        pytest.skip(f"strace may not trace here: {done.stderr.decode()}")
    assert done.returncode == 0, done.stderr.decode()
    return trace.read_text()


async def test_every_commit_is_synced_before_it_is_acked(tmp_path: Path) -> None:
    """Proves that between `begin` and `acked` of each commit a sync of its file succeeded."""
    calls = await system_calls(tmp_path, "fsync,fdatasync", commits=20)
    for commit in range(1, 21):
        between = re.search(rf'"begin {commit}\\n".*?"acked {commit}\\n"', calls, re.DOTALL)
        assert between is not None
        assert re.search(r"sync\(\d+<[^>]*/store/clog/[^>]*>", between[0]), between[0]
        assert re.search(r"sync(\(\d+<[^>]*>| resumed>)\) += 0$", between[0], re.M), between[0]


async def test_a_new_store_is_synced_with_its_folders_before_it_is_used(tmp_path: Path) -> None:
    before, _, _ = (await system_calls(tmp_path, "fsync", commits=1)).partition("begin 1")
    synced = set(re.findall(r"fsync\(\d+<([^>]*)>", before))
    folder = tmp_path / "store"
    assert {str(p) for p in (tmp_path, folder, folder / "clog", folder / "ledger.ready")} <= synced


async def test_after_a_commit_no_page_of_the_store_waits_for_the_disk(tmp_path: Path) -> None:
    """Proves by the kernel's own count that what was acked is not only in memory.

    Needs no tracing: for machines without strace. The engine that does not sync is the control.
    """
    if not await waiting_pages("unsynced", tmp_path / "careless"):
        pytest.skip("this kernel or file system does not tell which pages are unsynced")
    assert await waiting_pages("some", tmp_path / "store") == 0


async def waiting_pages(what: str, folder: Path) -> int:
    """Pages of the log of a store that its writer, idle now, left to the kernel to write."""
    env = ENV if what != "unsynced" else {"PATH": os.defpath}
    async with await anyio.open_process(
        command(what, folder, 30), env=env, cwd=ROOT, stdin=PIPE, stderr=DEVNULL
    ) as child:
        assert child.stdout is not None
        with anyio.fail_after(60):
            assert (await child.stdout.receive()).decode() == "done\n"
        return sum(unsynced_pages(path) for path in (folder / "clog").iterdir())


def unsynced_pages(path: Path) -> int:
    """Dirty pages of a file, by the `cachestat` system call; 0 where there is none."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = os.open(path, os.O_RDONLY)
    try:
        whole, found = (ctypes.c_uint64 * 2)(0, 0), (ctypes.c_uint64 * 5)()
        answer: int = libc.syscall(451, handle, whole, found, 0)
        return 0 if answer else found[1]
    finally:
        os.close(handle)
