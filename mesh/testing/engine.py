"""What a mesh of one process runs on: agents, ledger and clock, and when all of it is at rest.

Source: design, sections 4 and 5.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

import anyio
from anyio.abc import TaskGroup, TaskStatus

from mesh.agent.definition import Agent
from mesh.agent.ports import Limits, Ports
from mesh.agent.worker import Worker
from mesh.blob.inproc import InprocBlobs
from mesh.core.envelope import Record
from mesh.gateway.desk import Parts as GatewayParts
from mesh.ledger.recorder import Parts, Recorder
from mesh.ledger.timers import Timers
from mesh.registry.inproc import InprocRegistry
from mesh.registry.port import Card, Presence
from mesh.store.inproc import InprocStore
from mesh.store.port import EventQuery
from mesh.telemetry.inproc import NoTelemetry
from mesh.testing.bus import WatchedBus
from mesh.testing.clock import ManualClock, ManualIds
from mesh.testing.journal import Journal

__all__ = ["Engine"]

_TENANT = "default"


class _Archive:
    """What the gateway asks the ledger for."""

    def __init__(self, store: InprocStore) -> None:
        self._store = store

    async def history(self, task_id: str, *, after: int = 0, to: int = 0) -> list[Record]:
        """As the gateway's port says."""
        query = EventQuery(shard="s0", first=after + 1, last=to, task_id=task_id, limit=2**31)
        return [event.record for event in await self._store.events(query)]


class _Process:
    """One process of an agent."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Live until the end of the block, or until stopped or killed."""
        try:
            with self._scope:
                await self._worker.run(task_status=task_status)
        finally:
            self._ended.set()

    async def stop(self) -> None:
        """As SIGTERM does."""
        self._worker.stop()
        await self._ended.wait()

    async def kill(self) -> None:
        """Where it is; what it held comes again."""
        self._scope.cancel()
        await self._ended.wait()


class Engine:
    """The parts of a mesh in one process, and the moving of its time.

    Args:
        limits: How every agent's deliveries are run.
        patience_s: How many real seconds may pass until nothing is running.
        clock: Its time.
    """

    def __init__(self, limits: Limits, patience_s: float, clock: ManualClock) -> None:
        self.clock, self.blobs = clock, InprocBlobs()
        self._limits, self._patience_s = limits, patience_s
        self._bus = WatchedBus(clock=clock)
        self.journal = Journal(self._bus)
        self._registry = InprocRegistry()
        self._store = InprocStore()
        parts = Parts(
            bus=self._bus,
            store=self._store,
            blobs_from=self.blobs,
            blobs_to=InprocBlobs(),
            clock=clock,
            ids=ManualIds(1),
            tenant=_TENANT,
            instance="ledger",
        )
        self._recorder = Recorder(parts)
        self._timers = Timers(parts, self._recorder)
        self._processes: dict[str, _Process] = {}
        self._agents: dict[str, Agent] = {}
        self._started = 0
        self._group: TaskGroup | None = None

    async def run(self, agents: Sequence[Agent], ready: anyio.Event) -> None:
        """Run agents, for ever; `ready` is set when all have started."""
        async with anyio.create_task_group() as group:
            self._group = group
            for agent in agents:
                await self.start(agent)
            ready.set()
            await anyio.sleep_forever()

    async def record(self) -> None:
        """Keep the ledger up to date, for ever."""
        await self._recorder.run("s0")

    async def know(self, names: Sequence[str]) -> None:
        """Register agents that nobody runs here."""
        for name in names:
            async with self._registry.announce(_card(name), _presence(name, self.clock.now())):
                pass

    def gateway(self) -> GatewayParts:
        """What its gateway works with."""
        return GatewayParts(
            bus=self._bus,
            blobs=self.blobs,
            registry=self._registry,
            archive=_Archive(self._store),
            clock=self.clock,
            ids=ManualIds(2),
            telemetry=NoTelemetry(),
            tenant=_TENANT,
            shards=1,
            instance="gateway",
        )

    async def start(self, agent: Agent) -> None:
        """Start a process of an agent."""
        assert self._group is not None  # agents start in an open mesh only
        self._started += 1
        ports = Ports(
            bus=self._bus,
            blobs=self.blobs,
            registry=self._registry,
            clock=self.clock,
            ids=ManualIds(16 + self._started),
            telemetry=NoTelemetry(),
            instance=f"{self._started}-{agent.name}",
        )
        process = _Process(Worker(agent, ports, self._limits))
        self._agents[agent.name], self._processes[agent.name] = agent, process
        await self._group.start(process.run)

    def _process(self, name: str) -> _Process:
        if name not in self._processes:
            raise ValueError(f"no agent `{name}` runs here; there are {sorted(self._processes)}")
        return self._processes[name]

    async def stop(self, name: str) -> None:
        """End an agent's process as SIGTERM does."""
        await self._process(name).stop()

    async def crash(self, name: str) -> None:
        """Kill an agent's process, and start another."""
        await self._process(name).kill()
        await self.start(self._agents[name])

    async def settled(self) -> None:
        """Run until nothing is running, and nothing is due: each task waits, is held, or closed.

        Raises:
            TimeoutError: Something still ran after `patience_s` real seconds; the text names it.
        """
        with anyio.move_on_after(self._patience_s) as patience:
            while True:
                await self._at_rest()
                if not await self._timers.fire_due():
                    await self.journal.read()
                    return
        if patience.cancelled_caught:
            raise TimeoutError(self._unsettled())

    async def advance(self, duration: timedelta) -> None:
        """Let time pass; what comes due on the way happens in its order, each at its own time.

        Returns when nothing is running.

        Args:
            duration: How much, >= 0.

        Raises:
            TimeoutError: As `settled`.
        """
        end = self.clock.now() + duration
        if end < self.clock.now():
            raise ValueError(f"time does not go back: {duration}")
        await self.settled()
        while (due := self._next_due()) is not None and due <= end:
            await self._move_to(due)
        await self._move_to(end)

    async def advance_to_next(self) -> timedelta:
        """Let time pass until the next thing that is due has happened; for retries and the like.

        Returns:
            How much passed; nothing if nothing is due, ever.

        Raises:
            TimeoutError: As `settled`.
        """
        await self.settled()
        due, before = self._next_due(), self.clock.now()
        if due is not None:
            await self._move_to(due)
        return self.clock.now() - before

    async def _at_rest(self) -> None:
        """Until no agent has anything to do and the ledger has all of it."""
        await self._bus.at_rest(list(self._agents))
        (log,) = await self._bus.info()
        await self._recorder.wait_for(log.last)

    def _next_due(self) -> datetime | None:
        return min(
            (due for due in (self._timers.next_due(), self._bus.next_due()) if due), default=None
        )

    async def _move_to(self, instant: datetime) -> None:
        self.clock.advance(max(timedelta(), instant - self.clock.now()))
        self._bus.tell()
        await self.settled()

    def _unsettled(self) -> str:
        """What still runs, for people."""
        running = [
            f"`{held.agent}` has had task `{held.record.envelope.task_id}` for"
            f" {anyio.current_time() - held.since_s:.1f} s"
            f" ({len(self.journal.history(held.record.envelope.task_id))} events)"
            for held in self._bus.held()
            if held.record.envelope
        ]
        return (
            f"not settled after {self._patience_s:g} s: {'; '.join(running) or 'it never rests'};"
            " its handler never ends, or waits for something that is not of `ctx`"
        )


def _card(name: str) -> Card:
    return Card(name=name, behaviour_version="0")


def _presence(name: str, now: datetime) -> Presence:
    return Presence(
        agent=name,
        instance=f"0-{name}",
        behaviour_version="0",
        host="",
        pid=0,
        concurrency=1,
        started_at=now,
    )
