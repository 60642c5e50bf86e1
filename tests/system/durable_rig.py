"""A mesh of real processes that are killed often: whatever dies is started again at once.

`mesh up` waits ever longer before it starts again what keeps dying, so fifty kills would take half
an hour. Everything else is as there: the same commands, environment and run file, so that the
`mesh` command finds it.
"""

import itertools
import os
import random
import signal
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from subprocess import DEVNULL
from typing import TYPE_CHECKING

import anyio

import mesh
from mesh.bootstrap import environment
from mesh.bootstrap.process import ProcessRef
from mesh.bootstrap.runfile import MeshRun, ServiceRun, State
from mesh.bus.jetstream import open_bus, open_nats
from mesh.config import AgentEntry, Manifest, MeshEntry
from mesh.errors import Unavailable
from mesh.supervisor.folder import make_log_folder
from mesh.supervisor.plan import Plan, planned
from mesh.supervisor.service import Spec
from mesh.testing.broker import Broker, open_broker, open_cluster
from tests.system.mesh_rig import LiveMesh

if TYPE_CHECKING:
    from anyio.abc import Process

BROKER = "nats-server"
ROOT = Path(__file__).parents[2]
TENANT = "durable"
MODULE = "tests.system.durable_agents"
_STOP_S = 20.0


@dataclass(frozen=True, slots=True)
class Done:
    """A line of what agents wrote down outside the mesh."""

    task_id: str
    what: str
    pid: int
    at: datetime


class Kept:
    """One process, started again at once whenever it ends."""

    def __init__(self, spec: Spec, changed: Callable[[], None]) -> None:
        self.spec, self._changed = spec, changed
        self._process: Process | None = None
        self._ref, self._state, self._lives = ProcessRef(0, ""), "stopped", 0
        self._ending, self._served = False, anyio.Event()

    @property
    def run_state(self) -> ServiceRun:
        """What there is to know of it now."""
        spec = self.spec
        state: State = "running" if self._state == "running" else "starting"
        return ServiceRun(
            name=spec.name,
            kind=spec.kind,
            replica=spec.replica,
            pid=self._ref.pid,
            mark=self._ref.mark,
            state=state,
            restarts=self._lives - 1,
            since="",
            log=str(spec.log),
        )

    async def serves(self) -> None:
        """Wait until it serves for the first time."""
        with anyio.fail_after(60):
            await self._served.wait()

    async def keep(self) -> None:
        """Run it until `end`."""
        while not self._ending:
            told, tell = os.pipe()
            try:
                await self._live(told, tell)
            finally:
                os.close(told)
            if not (self._served.is_set() or self._ending):
                raise AssertionError(f"{self.spec.label}: {self.spec.log.read_text()}")

    async def end(self) -> None:
        """Stop it for good, as a supervisor would."""
        self._ending = True
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        with anyio.move_on_after(_STOP_S):
            await self._process.wait()
            return
        self._process.kill()
        raise AssertionError(f"{self.spec.label} did not stop; see {self.spec.log}")

    async def _live(self, told: int, tell: int) -> None:
        with self.spec.log.open("ab") as log:
            process = await anyio.open_process(
                self.spec.command,
                stdin=DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.spec.cwd,
                env={**self.spec.environment, "MESH_READY_FD": str(tell)},
                pass_fds=(tell, *self.spec.inherit),
            )
        os.close(tell)
        self._process, self._ref = process, ProcessRef.of(process.pid)
        self._lives += 1
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._await_ready, told)
                await process.wait()
                tasks.cancel_scope.cancel()
        finally:
            if process.returncode is None:
                process.kill()
            with anyio.CancelScope(shield=True):
                await process.wait()
            self._show("stopped")

    async def _await_ready(self, told: int) -> None:
        await anyio.wait_readable(told)
        if os.read(told, 1):
            self._show("running")
            self._served.set()

    def _show(self, state: str) -> None:
        self._state = state
        self._changed()


@dataclass(frozen=True)
class DurableMesh(LiveMesh):
    """A mesh that runs, the brokers it runs on, and what its agents wrote down."""

    brokers: Sequence[Broker]
    replicas: int
    kept: Sequence[Kept]
    killed: list[str] = field(default_factory=list[str])
    turns: Iterator[int] = field(default_factory=itertools.count)

    @property
    def folder(self) -> Path:
        """Where agents write down what they did."""
        return self.data / "done"

    def done(self, task_id: str = "") -> list[Done]:
        """What agents wrote down, in order; of one task if it is named."""
        trace = self.folder / "trace"
        lines = trace.read_text().splitlines() if trace.exists() else []
        fields = [line.split(" ") for line in lines]
        found = [
            Done(task, what, int(pid), datetime.fromtimestamp(float(at), UTC))
            for task, what, pid, at in fields
        ]
        return [each for each in found if task_id in ("", each.task_id)]

    async def more_done(self) -> Done:
        """Wait until an agent has written down one thing more, and give that."""
        before = len(self.done())
        with anyio.fail_after(120):
            while True:
                done = self.done()
                if len(done) > before:
                    return done[before]
                await anyio.sleep(0.01)

    async def pid(self, name: str) -> int:
        """Process of a service that runs; the brokers take turns, and all of them serve."""
        if name != BROKER:
            return await super().pid(name)
        await self._brokers_serve()
        return self.brokers[next(self.turns) % len(self.brokers)].pid

    async def kill_everything(self) -> None:
        """SIGKILL every process of the mesh at once, and wait until all of it serves again."""
        pids = [int(service["pid"]) for service in await self.services()]
        pids += [broker.pid for broker in self.brokers]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        with anyio.fail_after(120):
            while True:
                now = [(int(s["pid"]), s["state"]) for s in await self.services()]
                now += [(broker.pid, "running") for broker in self.brokers]
                if all(state == "running" and pid not in pids for pid, state in now):
                    break
                await anyio.sleep(0.05)
            await self._brokers_serve()

    async def _brokers_serve(self) -> None:
        with anyio.fail_after(60):
            for broker in self.brokers:
                while True:
                    try:
                        await broker.ready()
                    except Unavailable:
                        await anyio.sleep(0.05)  # killed, and not yet started again
                    else:
                        break

    async def storm(self, victims: Sequence[str], chance: random.Random) -> None:
        """Kill one after another, each at a random moment while a step runs or has just run.

        If the step is the victim's, the process that it runs in is the one that dies.
        """
        for victim in victims:
            done = await self.more_done()
            await anyio.sleep(chance.uniform(0, 0.3))
            pid = await self.pid(victim)
            if any((s["name"], s["pid"]) == (victim, done.pid) for s in await self.services()):
                pid = done.pid
            os.kill(pid, signal.SIGKILL)
            self.killed.append(victim)

    async def check_store_is_log(self, task_ids: list[str]) -> int:
        """The database holds the log byte for byte, and rebuilds each task; gives how many."""
        await self.check_nothing_lost_or_doubled(task_ids)
        stored = [(e.position, e.raw) async for e in self.client.events(with_raw=True)]
        logged: list[tuple[int, bytes]] = []
        url = ",".join(broker.url for broker in self.brokers)
        with anyio.fail_after(120):
            async with (
                open_nats(url, "test") as connection,
                open_bus(connection, tenant=TENANT, replicas=self.replicas) as bus,
                bus.tail("s0", after=0) as batches,
            ):
                while len(logged) < len(stored):
                    logged += [(r.position, r.raw) for r in await anext(batches)]
        assert logged == stored
        return len(logged)

    async def check_steps(self, task_ids: Sequence[str]) -> int:
        """Each step stands once in its history, and never ran after that.

        Returns:
            How many runs there were of steps whose earlier run was not recorded.
        """
        await self.recorded()
        again = 0
        for task_id in task_ids:
            events = [e async for e in self.client.events(task_id=task_id)]
            recorded = [e for e in events if e.kind == "task.step_recorded"]
            ordinals = [(e.body["ordinal"], e.body["undoes"]) for e in recorded]
            assert len(set(ordinals)) == len(ordinals), f"{task_id}: {sorted(ordinals)}"
            stored_at = {str(e.body["name"]): e.stored_at.ToDatetime(UTC) for e in recorded}
            done = self.done(task_id)
            for each in done:
                late = each.at > stored_at[each.what]
                assert not late, f"{each} ran again after {stored_at[each.what]}"
            again += len(done) - len({each.what for each in done})
        return again

    def complaints(self) -> list[str]:
        """Lines of the services' logs that tell of a defect of the mesh."""
        bad = ("Traceback", "a bug", " critical ")
        return [
            f"{kept.spec.label}: {line}"
            for kept in self.kept
            for line in kept.spec.log.read_text(errors="replace").splitlines()
            if any(word in line for word in bad)
        ]


@asynccontextmanager
async def durable_mesh(
    folder: Path, agents: Mapping[str, int], *, nodes: int = 1, module: str = MODULE
) -> AsyncGenerator[DurableMesh]:
    """Run brokers, ledger, gateway and agents; nothing is left of them, and no log complains.

    Args:
        folder: For everything.
        agents: Which of the module's, and how many replicas of each.
        nodes: Brokers; with several each stream has three replicas.
        module: Where the agents are declared.
    """
    data = folder / "data"
    make_log_folder(data)
    (data / "done").mkdir(exist_ok=True)
    replicas = 3 if nodes > 1 else 1
    entries = {
        name: AgentEntry(agent=f"{module}:{name}", replicas=count) for name, count in agents.items()
    }
    async with _brokers(folder, nodes) as brokers:
        plan = _planned(data, entries, replicas, ",".join(broker.url for broker in brokers))
        async with _kept(plan) as kept, mesh.connect(data=data) as client:
            for each in kept:
                await each.serves()
            live = DurableMesh(
                data=data, client=client, brokers=brokers, replicas=replicas, kept=kept
            )
            yield live
        assert live.complaints() == []


@asynccontextmanager
async def _brokers(folder: Path, nodes: int) -> AsyncGenerator[Sequence[Broker]]:
    async with AsyncExitStack() as stack:
        if nodes > 1:
            brokers = (await stack.enter_async_context(open_cluster(folder, nodes=nodes))).brokers
        else:
            brokers = [await stack.enter_async_context(open_broker(folder))]
        tasks = await stack.enter_async_context(anyio.create_task_group())
        for broker in brokers:
            tasks.start_soon(_keep_broker, broker)
        yield brokers
        tasks.cancel_scope.cancel()


async def _keep_broker(broker: Broker) -> None:
    while True:
        ref = ProcessRef.of(broker.pid)
        while ref.alive:  # noqa: ASYNC110  # nobody tells
            await anyio.sleep(0.02)
        try:
            await broker.restart()
        except Unavailable:
            continue  # killed again before it was ready


@asynccontextmanager
async def _kept(plan: Plan) -> AsyncGenerator[Sequence[Kept]]:
    """Everything but the brokers, and the run file by which it is found."""
    theirs, ours = os.pipe()
    kept: list[Kept] = []

    def publish() -> None:
        _run_of(plan, kept).write(plan.data)

    try:
        for spec in plan.service_specs(theirs):
            url = {"MESH_NATS_URL": plan.environment["MESH_NATS_URL"]}
            kept.append(Kept(replace(spec, environment={**spec.environment, **url}), publish))
        publish()
        async with anyio.create_task_group() as tasks:
            for each in kept:
                tasks.start_soon(each.keep)
            try:
                yield kept
            finally:
                with anyio.CancelScope(shield=True):
                    for each in reversed(kept):
                        await each.end()
    finally:
        os.close(ours)
        os.close(theirs)


def _planned(data: Path, agents: Mapping[str, AgentEntry], replicas: int, url: str) -> Plan:
    inherited = {n: v for n, v in environment().items() if not n.startswith("MESH_")}
    return planned(
        Manifest(mesh=MeshEntry(tenant=TENANT, nats_port=0, gateway_port=0), agents=dict(agents)),
        data=data,
        folder=ROOT,
        manifest_path="",
        environment={
            **inherited,
            "DURABLE_FOLDER": str(data / "done"),
            "MESH_REPLICAS": str(replicas),
            "MESH_NATS_URL": url,
        },
    )


def _run_of(plan: Plan, kept: Sequence[Kept]) -> MeshRun:
    me = ProcessRef.of(os.getpid())
    return MeshRun(
        pid=me.pid,
        mark=me.mark,
        started_at="",
        tenant=TENANT,
        manifest="",
        nats_url=plan.environment["MESH_NATS_URL"],
        monitor_url="",
        gateway=plan.gateway,
        ledger=plan.ledger,
        sync_always=False,
        services=tuple(each.run_state for each in kept),
    )
