"""Processes by an identity that outlives a reused pid, and how to end them."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio

__all__ = ["ProcessRef", "end_all"]

_POLL_S = 0.02
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class ProcessRef:
    """One process of this machine; `mark` tells it from a later one that got the same pid."""

    pid: int
    mark: str

    @classmethod
    def of(cls, pid: int) -> "ProcessRef":
        """The process that has this pid now."""
        return cls(pid, _start_mark(pid))

    @property
    def alive(self) -> bool:
        """Whether this very process still runs."""
        return self.pid > 0 and bool(self.mark) and _start_mark(self.pid) == self.mark

    def send(self, number: signal.Signals) -> None:
        """Signal it; nothing happens if it is gone."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def gone(self) -> None:
        """Wait until it is gone; it need not be a child of ours, so nobody tells us."""
        while self.alive:  # noqa: ASYNC110 - the kernel sets no event
            await anyio.sleep(_POLL_S)


async def end_all(processes: Sequence[ProcessRef], *, grace_s: float) -> None:
    """Ask processes to stop, wait `grace_s` seconds, then kill those that did not."""
    for process in processes:
        process.send(signal.SIGTERM)
    with anyio.move_on_after(grace_s):
        for process in processes:
            await process.gone()
    for process in processes:
        process.send(signal.SIGKILL)
        await process.gone()


def _start_mark(pid: int) -> str:
    """When the process with this pid began, "" if there is none or only its exit code is left."""
    stat = Path("/proc") / str(pid) / "stat"
    if not _BOOT_ID.exists():
        return _start_mark_of_ps(pid)
    try:
        # The command's name stands in parentheses and may itself hold any of them.
        fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    state, threads, ticks_since_boot = fields[0], int(fields[17]), fields[19]
    # A killed process shows as dead with its first thread, but holds its ports until the last.
    is_over = state in "ZX" and threads <= 1
    return "" if is_over else f"{_BOOT_ID.read_text().strip()}/{ticks_since_boot}"


def _start_mark_of_ps(pid: int) -> str:
    command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return "" if not answer or answer[0].startswith("Z") else " ".join(answer[1:])
