"""A mesh that runs random programs, its ledger and its people, and what goes wrong in it."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import anyio

from mesh.agent.payload import encode_value
from mesh.agent.ports import Limits
from mesh.agent.worker import Worker
from mesh.bus.inproc import Fault, InprocBus
from mesh.bus.port import Backlog
from mesh.core import event as e
from mesh.core.backoff import Backoff
from mesh.core.envelope import Envelope, Record
from mesh.core.fold import evolve
from mesh.core.ids import derived_id
from mesh.core.leg import SIGNAL
from mesh.core.projection import timers_of
from mesh.core.task import EMPTY, Task
from tests.make import TENANT, envelope
from tests.runtime.program import AGENTS, NEVER_S, Program, Stage, agent
from tests.runtime.quick_loop import FlowingClock
from tests.runtime.rig import Rig, run_worker

__all__ = ["LIMITS", "Mishap", "World", "play"]

LIMITS = Limits(
    concurrency=4, attempts=60, claim_after_s=30, drain_s=0, backoff=Backoff(first_s=1), hold_s=0
)
_STILL_S = 5.0
"""After so long without an event, and longer than is waited inside, somebody has let a delivery go,
and its lease must run out."""
_STILL = 80
"""So often, at most."""


@dataclass(frozen=True)
class Mishap:
    """What goes wrong at the `at`-th line of an append, counted over all of them."""

    at: int
    what: str
    n: int = 0


class StageBus(InprocBus):
    """Tells of the lines of each append."""

    world: "World"

    async def append(
        self, envelopes: Sequence[Envelope], expected: Mapping[str, int]
    ) -> tuple[int, ...]:
        """As the port says, unless something goes wrong."""
        await self.world.line(envelopes)
        positions = await super().append(envelopes, expected)
        await self.world.line(envelopes)
        return positions

    async def put_in(self, made: Envelope, expected: Mapping[str, int] | None = None) -> None:
        """Append what nothing keeps from coming."""
        faults, self.faults = self.faults, deque()
        await InprocBus.append(self, [made], expected or {})
        self.faults = faults

    def records(self, task_id: str) -> list[Record]:
        """A task's records, at once."""
        return self._logs["s0"].by_task.get(task_id, [])

    def since(self, position: int) -> list[Record]:
        """What stands above a position, at once."""
        return self._logs["s0"].records[position:]

    def pass_time(self) -> None:
        """Every lease runs out."""
        for queue in self._queues.values():
            queue.wake()


class World:
    """The workers, and who answers, signals and fires timers."""

    def __init__(self, mishaps: Sequence[Mishap] = (), limits: Limits = LIMITS) -> None:
        self.rig = Rig(FlowingClock())
        self.rig.bus = self.bus = StageBus(tenant=TENANT, clock=self.rig.clock)
        self.bus.world = self
        self.stage = Stage(self.bus.records)
        self.limits = limits
        self.mishaps = {mishap.at: mishap for mishap in mishaps}
        self.lines = self.stills = 0
        self.tasks: dict[str, Task] = {}
        self.alive: dict[str, anyio.CancelScope] = {}
        self.over = False
        self.seen = 0
        self.abandoned: set[str] = set()

    async def live(self, name: str) -> None:
        """A process of an agent, and the next one when it is killed."""
        while not self.over:
            ports = self.rig.ports()
            worker, instance = Worker(agent(self.stage, name), ports, self.limits), ports.instance
            with anyio.CancelScope() as self.alive[instance]:
                async with anyio.create_task_group() as tasks:
                    await tasks.start(run_worker, worker)
                    await anyio.sleep_forever()
            del self.alive[instance]

    async def line(self, envelopes: Sequence[Envelope]) -> None:
        """Somebody is about to append, or has."""
        self.lines += 1
        mishap = self.mishaps.get(self.lines)
        if mishap is None or self.over:
            return
        alive = [*self.alive.values()]
        match mishap.what:
            case "kill":
                self.kill(envelopes[0].sender.instance)
            case "kill another":
                alive[mishap.n % len(alive)].cancel()
            case "kill all":
                for scope in alive:
                    scope.cancel()
            case "repeat":
                await self.repeat(mishap.n)
            case "cancel":
                await self.cancel(mishap.n)
            case "expire":
                self.pass_time()
            case _:
                self.bus.faults.append(Fault(mishap.what))
        await anyio.lowlevel.checkpoint()

    def kill(self, instance: str) -> None:
        if scope := self.alive.get(instance):
            scope.cancel()

    def pass_time(self) -> None:
        self.rig.clock.advance(11)
        self.bus.pass_time()

    async def repeat(self, n: int) -> None:
        """What informed a task is told again, as another event."""
        told = [
            record.envelope
            for record in self.bus.since(0)
            if record.envelope
            and isinstance(record.envelope.event, e.ChildFinished | e.TimerFired | e.InputReceived)
        ]
        if told:
            made = told[n % len(told)]
            await self.bus.put_in(replace(made, event_id=derived_id(made.event_id, "repeat", n)))

    async def cancel(self, n: int) -> None:
        self.follow()
        open_tasks = [task for task in self.tasks.values() if not task.closed]
        if open_tasks and not open_tasks[0].cancel_requested:
            task = open_tasks[n % len(open_tasks)]
            made = envelope(e.CancelRequested(reason="why"), to=task.owner, task_id=task.task_id)
            root = replace(made, root_task_id=task.root_task_id)
            await self.bus.put_in(root, {task.task_id: task.moved})

    def follow(self) -> None:
        """Fold what is new."""
        for record in self.bus.since(self.seen):
            self.seen = record.position
            if record.envelope:
                task_id = record.envelope.task_id
                self.tasks[task_id] = evolve(self.tasks.get(task_id, EMPTY), record)

    async def run(self, program: Program) -> str:
        """Run a program to its end, with its children; gives its task's id."""
        task_id = ""
        self.stage.programs["root"] = program
        async with anyio.create_task_group() as tasks:
            for name in AGENTS:
                for _ in range(2):
                    tasks.start_soon(self.live, name)
            await anyio.wait_all_tasks_blocked()
            task_id = await self.rig.submit("p", "root", budget={"tokens": 100})
            while not await self.settled():
                await self.go_on()
            self.over = True
            tasks.cancel_scope.cancel()
        return task_id

    async def settled(self) -> bool:
        """Whether every task is closed and nothing is undone."""
        self.follow()
        if not all(t.closed or t.task_id in self.abandoned for t in self.tasks.values()):
            return False
        return all([await self.bus.backlog(name) == Backlog() for name in AGENTS])

    async def go_on(self) -> None:
        """What is due happens; if nothing is, and nothing comes, somebody let go of a delivery."""
        now = self.rig.clock.now()
        due = sorted(
            (at, task.task_id, timer_id)
            for task in self.tasks.values()
            for timer_id, at in timers_of(task).items()
        )
        tasks = [task for task in self.tasks.values() if not task.closed]
        idle = tasks and all(task.turn is None for task in tasks)
        if idle and await self.people(tasks):
            return
        if due and (idle or due[0][0] <= now):
            at, task_id, timer_id = due[0]
            wait_s = (at - now).total_seconds()
            if wait_s > NEVER_S / 2:
                self.abandon(tasks)
                return
            self.rig.clock.advance(max(0.0, wait_s))
            await self.tell(self.tasks[task_id], e.TimerFired(timer_id=timer_id), "ledger")
        elif not await self.anything():
            self.stills += 1
            assert self.stills < _STILL, (
                f"stuck: {[t for t in self.tasks.values() if not t.closed]}"
            )
            self.pass_time()

    def abandon(self, tasks: Sequence[Task]) -> None:
        """A dead-lettered task keeps its children for the redrive: one may wait for ever."""
        for task in tasks:
            assert self.tasks[task.parent_task_id].dead_letter, "nothing happens any more"
        self.abandoned = {task.task_id for task in tasks}

    async def anything(self) -> bool:
        """Wait for an event; False if none comes."""
        if all(task.closed for task in self.tasks.values()):
            await anyio.sleep(_STILL_S)  # the last ones are acknowledged
            return await self.settled()
        with anyio.move_on_after(_STILL_S + self.limits.hold_s):
            async with self.bus.tail("s0", after=self.seen) as batches:
                async for _ in batches:
                    return True
        return False

    async def people(self, tasks: Sequence[Task]) -> bool:
        """Answer a question, or send a signal that is waited for."""
        for task in tasks:
            assert task.leg is not None
            for question in task.leg.questions:
                if question.prompt == "answer me":
                    answer = encode_value("yes")
                    await self.tell(
                        task, e.InputReceived(request_id=question.id, answer=answer), "gateway"
                    )
                    return True
            if any(w.what == SIGNAL and w.id.startswith("go/") for w in task.leg.waits):
                await self.tell(task, e.Signaled(name="go", value=encode_value(1)), "gateway")
                return True
        return False

    async def tell(self, task: Task, event: e.TaskEvent, sender: str) -> None:
        made = envelope(event, to=task.owner, sender=sender, task_id=task.task_id)
        made = replace(
            made,
            root_task_id=task.root_task_id,
            event_id=derived_id(task.task_id, repr(event), self.seen),
        )
        await self.bus.put_in(made)


async def play(
    program: Program, mishaps: Sequence[Mishap] = (), limits: Limits = LIMITS
) -> tuple[World, Task]:
    """Run a program; gives its world, with every task closed, and its own task."""
    world = World(mishaps, limits)
    with anyio.fail_after(1e6):
        task_id = await world.run(program)
    return world, world.tasks[task_id]
