"""A whole mesh on this machine: started in order, kept running, stopped in reverse."""

import contextlib
import logging
import os
import signal
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import anyio
from anyio.abc import TaskGroup
from filelock import FileLock, Timeout

from mesh.bootstrap.process import ProcessRef, end_all
from mesh.bootstrap.runfile import MeshRun, find_run, read_run, run_path
from mesh.bootstrap.unwrap import unwrapped
from mesh.clock import Clock, SystemClock
from mesh.errors import ConfigError, Refused
from mesh.supervisor.broker import healthy
from mesh.supervisor.folder import make_log_folder
from mesh.supervisor.plan import Plan
from mesh.supervisor.port import until_free
from mesh.supervisor.service import Service

__all__ = ["Supervisor", "end_leftovers", "serve", "supervised", "until_signalled"]

_log = logging.getLogger(__name__)
_HEALTH_BEAT_S = 5.0
_UNHEALTHY_S = 30.0
_LEFTOVER_GRACE_S = 5.0
_LET_GO_S = 2.0
_PORTS_S = 5.0
_LOG_LINES = 12
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Changed = Callable[[MeshRun], None]


class Supervisor:
    """Processes of one mesh; `supervised` opens it."""

    def __init__(self, plan: Plan, parent_fd: int, clock: Clock, changed: Changed) -> None:
        self._plan, self._clock, self._changed = plan, clock, changed
        self._self = ProcessRef.of(os.getpid())
        self._started_at = clock.now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._broker = Service(plan.broker_spec(), clock, self._publish)
        self._others = [
            Service(spec, clock, self._publish) for spec in plan.service_specs(parent_fd)
        ]

    @property
    def run(self) -> MeshRun:
        """The mesh as it stands now."""
        return MeshRun(
            pid=self._self.pid,
            mark=self._self.mark,
            started_at=self._started_at,
            tenant=self._plan.manifest.mesh.tenant,
            manifest=self._plan.manifest_path,
            nats_url=self._plan.nats_url,
            monitor_url=f"http://127.0.0.1:{self._plan.broker.monitor_port}",
            gateway=self._plan.gateway,
            ledger=self._plan.ledger,
            sync_always=self._plan.broker.sync_always,
            services=tuple(service.run_state for service in (self._broker, *self._others)),
        )

    async def start(self, tasks: TaskGroup) -> None:
        """Start everything and return when all of it serves.

        Raises:
            ConfigError: A service does not come up; the text has the end of its log.
        """
        self._publish()
        self._plan.broker.write_config()
        await self._up(tasks, [self._broker])
        tasks.start_soon(self._watch_broker)
        # The ledger's and the gateway's callers wait for them, so all of them start at once.
        await self._up(tasks, self._others)

    async def stop(self) -> None:
        """Stop agents, then gateway, ledger and nats-server; returns when all are gone."""
        for kind in ("agent", "gateway", "ledger"):
            await _stop([each for each in self._others if each.spec.kind == kind])
        await _stop([self._broker])

    async def _up(self, tasks: TaskGroup, services: Sequence[Service]) -> None:
        for service in services:
            tasks.start_soon(service.keep)
        async with anyio.create_task_group() as waiting:
            for service in services:
                waiting.start_soon(_ready_or_broken, service)
        for service in services:
            if not service.ready.is_set():
                raise ConfigError(_obituary(service))

    async def _watch_broker(self) -> None:
        """Restart a nats-server that runs but does not work, as after a full disk."""
        last_well = self._clock.monotonic()
        while True:
            await anyio.sleep(_HEALTH_BEAT_S)
            if await healthy(self._plan.broker.monitor_port):
                last_well = self._clock.monotonic()
            elif self._clock.monotonic() - last_well > _UNHEALTHY_S:
                _log.warning("nats-server was not healthy for %g s: restarting it", _UNHEALTHY_S)
                await self._broker.end_process(self._broker.spec.grace_s)
                last_well = self._clock.monotonic()

    def _publish(self) -> None:
        self.run.write(self._plan.data)
        self._changed(self.run)


@asynccontextmanager
async def supervised(plan: Plan, changed: Changed) -> AsyncGenerator[Supervisor]:
    """Run a mesh for as long as the context lasts; `changed` is told of every change.

    Raises:
        Refused: Another mesh runs on the data folder, or somebody listens on a port of the plan.
        ConfigError: A service does not come up, or the data folder cannot be made.
    """
    make_log_folder(plan.data)
    with _owned(plan.data), _parent_pipe() as parent_fd:
        # In this order: what a killed supervisor left holds the very ports we want.
        await end_leftovers(plan.data)
        plan.check_ports()
        supervisor = Supervisor(plan, parent_fd, SystemClock(), changed)
        with unwrapped():
            async with anyio.create_task_group() as tasks:
                try:
                    await supervisor.start(tasks)
                    yield supervisor
                finally:
                    with anyio.CancelScope(shield=True):
                        await supervisor.stop()
                        run_path(plan.data).unlink(missing_ok=True)
                    tasks.cancel_scope.cancel()


async def serve(plan: Plan, changed: Changed, ready: Changed) -> None:
    """Run a mesh until this process is told to end; `ready` is told once all of it serves.

    Raises:
        Refused: Another mesh runs on the data folder, or somebody listens on a port of the plan.
        ConfigError: A service does not come up, or the data folder cannot be made.
    """
    async with until_signalled(), supervised(plan, changed) as supervisor:
        ready(supervisor.run)
        await anyio.sleep_forever()


@asynccontextmanager
async def until_signalled() -> AsyncGenerator[None]:
    """Cancel what is inside when this process is told to end, and go on behind it."""
    with unwrapped():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_cancel_on_signal, tasks.cancel_scope)
            yield
            tasks.cancel_scope.cancel()


async def _cancel_on_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(*_ENDING) as signals:
        async for _ in signals:
            scope.cancel()
            return


async def end_leftovers(data: Path) -> list[str]:
    """End what a supervisor that was killed left running; returns the names.

    The ports of that mesh are free behind it, unless another program has taken one.
    Call it only while no supervisor runs on the folder.
    """
    run = read_run(data)
    if run is None:
        return []
    left = [service for service in run.services if service.process.alive]
    await end_all([service.process for service in left], grace_s=_LEFTOVER_GRACE_S)
    # Also when none was left: what was just killed counts as dead before its last thread is, and
    # until then its sockets are open.
    await until_free(run.ports, within_s=_PORTS_S)
    run_path(data).unlink(missing_ok=True)
    return [service.label for service in left]


async def _ready_or_broken(service: Service) -> None:
    async with anyio.create_task_group() as tasks:

        async def until(event: anyio.Event) -> None:
            await event.wait()
            tasks.cancel_scope.cancel()

        tasks.start_soon(until, service.ready)
        tasks.start_soon(until, service.broken)


async def _stop(services: Sequence[Service]) -> None:
    async with anyio.create_task_group() as tasks:
        for service in services:
            tasks.start_soon(service.stop)


def _obituary(service: Service) -> str:
    lines = service.written().splitlines()[-_LOG_LINES:]
    return "\n".join(
        [
            f"{service.spec.label} does not start; the end of {service.spec.log}:",
            *(f"  {each}" for each in lines),
        ]
    )


@contextmanager
def _owned(data: Path) -> Generator[None]:
    """Own a data folder; the lock goes with the process, however it ends."""
    lock = FileLock(data / "lock")
    try:
        # A supervisor that was just killed may not have let go yet, though it counts as dead.
        lock.acquire(timeout=0 if find_run(data) else _LET_GO_S)
    except Timeout as e:
        run = read_run(data)
        who = f"a running mesh (pid {run.pid})" if run else "a mesh that is just starting"
        raise Refused(
            f"data folder {data} belongs to {who}; `mesh down --data {data}` ends it,"
            " --data DIR names another folder"
        ) from e
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _parent_pipe() -> Generator[int]:
    """A descriptor for children that reads end-of-file once this process is gone."""
    theirs, ours = os.pipe()
    try:
        yield theirs
    finally:
        with contextlib.suppress(OSError):
            os.close(ours)
        os.close(theirs)
