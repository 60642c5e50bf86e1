"""One supervised process: started, awaited until it serves, restarted when it dies."""

import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL

import anyio
from anyio.abc import Process

from mesh.bootstrap.process import ProcessRef
from mesh.bootstrap.runfile import Kind, ServiceRun, State
from mesh.clock import Clock

__all__ = ["BACKOFF_S", "HEALTHY_S", "Service", "Spec"]

BACKOFF_S = (0.0, 0.0, 1.0, 3.0, 10.0, 30.0)
"""Seconds before the first, second, … restart in a row; the last one stays."""
HEALTHY_S = 60.0
"""Seconds after which a process that serves counts as well, and the row begins anew."""
_log = logging.getLogger(__name__)
_GIVE_UP_AFTER = 3
_USAGE_ERROR = 2
_LOG_BYTES = 16 * 1024 * 1024
_PROBE_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """How to run one process.

    `probe` says whether it serves; without one the process itself tells, through `MESH_READY_FD`.
    It has `grace_s` seconds to stop after SIGTERM.
    """

    name: str
    kind: Kind
    command: Sequence[str]
    cwd: Path
    environment: Mapping[str, str] = field(repr=False)
    log: Path
    replica: int = 1
    grace_s: float = 10.0
    inherit: Sequence[int] = ()
    probe: Callable[[], Awaitable[bool]] | None = None

    @property
    def label(self) -> str:
        """What people call it: the name, and which replica unless it is the first."""
        return self.name if self.replica == 1 else f"{self.name}-{self.replica}"


class Service:
    """Keeps one process running.

    `ready` is set once it served for the first time, `broken` once it is clear that it never
    will: it refused its configuration or died `_GIVE_UP_AFTER` times before it served.
    """

    def __init__(self, spec: Spec, clock: Clock, changed: Callable[[], None]) -> None:
        self.spec = spec
        self.ready = anyio.Event()
        self.broken = anyio.Event()
        self._clock, self._changed = clock, changed
        self._stop = anyio.Event()
        self._over: anyio.Event | None = None
        self._process: Process | None = None
        self._ref = ProcessRef(0, "")
        self._state: State = "stopped"
        self._since = clock.now()
        self._restarts = 0
        self._ready_at: float | None = None
        self._log_from: int | None = None

    @property
    def run_state(self) -> ServiceRun:
        """What there is to know of it now."""
        return ServiceRun(
            name=self.spec.name,
            kind=self.spec.kind,
            replica=self.spec.replica,
            pid=self._ref.pid,
            mark=self._ref.mark,
            state=self._state,
            restarts=self._restarts,
            since=self._since.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            log=str(self.spec.log),
        )

    def written(self) -> str:
        """What its processes wrote to the log; an earlier mesh wrote to the same file."""
        if self._log_from is None:
            return ""
        with self.spec.log.open("rb") as log:
            log.seek(self._log_from)
            return log.read().decode(errors="replace")

    async def keep(self) -> None:
        """Run the process, again and again, until `stop`, which alone ends it.

        Being cancelled does not: whoever cancels still wants the process to stop in order.
        """
        self._over = anyio.Event()
        try:
            with anyio.CancelScope(shield=True):
                await self._keep()
        finally:
            self._over.set()

    async def _keep(self) -> None:
        failures = 0
        while not self._stop.is_set():
            code = await self._run_once()
            if self._stop.is_set():
                break
            if self._ready_at is not None and self._clock.monotonic() - self._ready_at > HEALTHY_S:
                failures = 0
            if not self.ready.is_set() and (code == _USAGE_ERROR or failures + 1 >= _GIVE_UP_AFTER):
                self.broken.set()
                break
            delay_s = BACKOFF_S[min(failures, len(BACKOFF_S) - 1)]
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            _log.warning("%s ended with %s; restart in %g s", self.spec.label, how, delay_s)
            self._show("backoff")
            with anyio.move_on_after(delay_s):
                await self._stop.wait()
            failures += 1
            self._restarts += 1
        self._show("stopped")

    async def stop(self) -> None:
        """End the process: SIGTERM, `grace_s` seconds, SIGKILL."""
        self._stop.set()
        await self.end_process(self.spec.grace_s)
        if self._over is not None:
            await self._over.wait()

    async def end_process(self, grace_s: float) -> None:
        """End the process that runs now; without `stop` it is restarted."""
        process = self._process
        if process is None:
            return
        self._show("stopping")
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
            with anyio.move_on_after(grace_s):
                await process.wait()
                return
            process.kill()
        await process.wait()

    async def _run_once(self) -> int:
        """One life of the process; returns its exit code."""
        self._ready_at = None
        told, tell = os.pipe()
        try:
            process = await self._start(tell)
        finally:
            os.close(tell)
        self._process, self._ref = process, ProcessRef.of(process.pid)
        self._show("starting")
        if self._stop.is_set():
            # `stop` came while it was being started, and found no process to end.
            process.kill()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._await_ready, told)
                await process.wait()
                tasks.cancel_scope.cancel()
        finally:
            os.close(told)
            with anyio.CancelScope(shield=True):
                if process.returncode is None:
                    process.kill()
                await process.wait()
            self._process, self._ref = None, ProcessRef(0, "")
        return await process.wait()

    async def _start(self, tell: int) -> Process:
        spec = self.spec
        if spec.log.exists() and spec.log.stat().st_size > _LOG_BYTES:
            os.replace(spec.log, spec.log.with_suffix(".log.1"))
            self._log_from = 0
        with spec.log.open("ab") as log:
            if self._log_from is None:
                self._log_from = log.tell()
            return await anyio.open_process(
                spec.command,
                stdin=DEVNULL,
                stdout=log,
                stderr=log,
                cwd=spec.cwd,
                env={**spec.environment, "MESH_READY_FD": str(tell)},
                pass_fds=(tell, *spec.inherit),
                # Ctrl-C is for the supervisor, which stops them in order.
                start_new_session=True,
            )

    async def _await_ready(self, told: int) -> None:
        if self.spec.probe is None:
            await anyio.wait_readable(told)
            serves = bool(os.read(told, 1))
        else:
            while not await self.spec.probe():  # noqa: ASYNC110 - nobody tells
                await anyio.sleep(_PROBE_PAUSE_S)
            serves = True
        if serves and self._state == "starting":
            self._ready_at = self._clock.monotonic()
            self._show("running")
            self.ready.set()

    def _show(self, state: State) -> None:
        self._state, self._since = state, self._clock.now()
        self._changed()
