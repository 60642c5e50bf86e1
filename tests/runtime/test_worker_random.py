"""Workers that are killed, drained, delayed and doubled at random: the log stays right."""

from dataclasses import dataclass, field, replace

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.agent.context import Context
from mesh.agent.definition import Agent
from mesh.agent.outcome import Fail, Handoff, Outcome, Reply
from mesh.agent.ports import Limits
from mesh.bus.inproc import Fault
from mesh.bus.port import Backlog
from mesh.core import event as e
from mesh.core.envelope import Record
from mesh.core.fold import evolve, fold
from mesh.core.task import EMPTY, State, Task
from mesh.errors import Fatal
from tests.make import TENANT
from tests.runtime.faulty_bus import FaultyBus, Settled
from tests.runtime.rig import FAST, Rig, run_worker

NEXT = {"a": "b", "b": "a"}
ENDS = ("reply", "hand off", "hand off", "fail", "raise", "raise fatal")
CLAIMS = (e.WorkStarted, e.Resumed)
# One at a time, so that what a process lost goes to another one.
QUICK = replace(FAST, drain_s=0.0, concurrency=1)
SLOW = replace(QUICK, claim_after_s=0.0)


@dataclass(frozen=True)
class Operation:
    """One thing that happens; each takes what it needs of the rest."""

    what: str
    n: int
    m: int
    agent: str
    script: list[str]
    slow: bool
    seconds: float
    fault: Fault
    settled: Settled


WHATS = (
    *("submit", "submit", "start", "kill", "stop", "cancel", "hint"),
    *("advance", "advance", "fault", "unconfirmed", "repeat", "go on", "go on", "go on"),
)
OPERATIONS = st.lists(
    st.builds(
        Operation,
        what=st.sampled_from(WHATS),
        n=st.integers(0, 5),
        m=st.integers(0, 5),
        agent=st.sampled_from("ab"),
        script=st.lists(st.sampled_from(ENDS), max_size=6),
        slow=st.booleans(),
        seconds=st.sampled_from([0.5, 4.0, 11.0]),
        fault=st.sampled_from(Fault),
        settled=st.sampled_from(Settled),
    ),
    min_size=4,
    max_size=24,
)


@dataclass
class World:
    """The workers of two agents, and what their handlers are to do."""

    rig: Rig
    bus: FaultyBus
    tasks: anyio.abc.TaskGroup
    submitted: list[str]
    scripts: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    alive: list[tuple[anyio.CancelScope, anyio.Event]] = field(
        default_factory=list[tuple[anyio.CancelScope, anyio.Event]]
    )
    held: list[anyio.Event] = field(default_factory=list[anyio.Event])
    over: bool = False

    def agent(self, name: str) -> Agent:
        agent = Agent(name)

        @agent.on(str)
        async def run(ctx: Context, text: str) -> Outcome:
            if not self.over:
                self.held.append(told := anyio.Event())
                await told.wait()
            ctx.decide(f"{name}{ctx.attempt}", "seen")
            script = self.scripts[ctx.task_id]  # how its runs end, one by one
            end = script.pop(0) if script else "reply"
            match end:
                case "hand off":
                    return Handoff(NEXT[name], text)
                case "fail":
                    return Fail("on purpose")
                case "raise":
                    raise ValueError("on purpose")
                case "raise fatal":
                    raise Fatal("on purpose")
                case _:
                    return Reply(text)

        return agent

    async def live(self, name: str, limits: Limits) -> None:
        """One process, until it is stopped or killed."""
        worker = self.rig.worker(self.agent(name), limits)
        scope, stop = anyio.CancelScope(), anyio.Event()
        self.alive.append((scope, stop))
        with scope:
            async with anyio.create_task_group() as tasks:
                await tasks.start(run_worker, worker)
                await stop.wait()
                worker.stop()

    async def do(self, it: Operation) -> None:
        """One operation; what cannot be done now is left out."""
        task_id = self.submitted[it.n % len(self.submitted)] if self.submitted else ""
        match it.what:
            case "submit":
                await self.submit(it.agent, it.script)
            case "start":
                self.tasks.start_soon(self.live, it.agent, SLOW if it.slow else QUICK)
            case "kill" | "stop" if self.alive:
                self.end(it)
            case "cancel" | "hint" | "repeat" if task_id:
                await self.tell(it, task_id)
            case "go on" if self.held:
                self.held.pop(it.n % len(self.held)).set()
            case _:
                self.disturb(it)

    def disturb(self, it: Operation) -> None:
        if it.what == "advance":
            self.rig.clock.advance(it.seconds)
        elif it.what == "fault":
            self.bus.faults.append(it.fault)
        elif it.what == "unconfirmed":
            self.bus.settlements.append(it.settled)

    def end(self, it: Operation) -> None:
        scope, stop = self.alive.pop(it.n % len(self.alive))
        if it.what == "kill":
            scope.cancel()
        else:
            stop.set()

    async def submit(self, agent: str, script: list[str]) -> None:
        with self.bus.calm():
            task_id = await self.rig.submit(agent, "x")
        self.submitted.append(task_id)
        self.scripts[task_id] = list(script)

    async def tell(self, it: Operation, task_id: str) -> None:
        records = await self.rig.history(task_id)
        chosen = records[min(it.m, len(records) - 1)].envelope
        if it.what == "hint":
            await self.bus.hint(f"cancel.{task_id}")
        elif it.what == "repeat" and chosen and chosen.to in NEXT:
            self.bus.repeat(chosen.to, records[min(it.m, len(records) - 1)])
        elif it.what == "cancel" and not fold(records).closed:
            with self.bus.calm():
                await self.rig.cancel(task_id, hint=it.slow)

    async def settle(self) -> None:
        """Let everything end: faults stop, each agent has a process, time passes."""
        self.over = True
        for told in self.held:
            told.set()
        self.bus.faults.clear()
        self.bus.settlements.clear()
        for name in NEXT:
            self.tasks.start_soon(self.live, name, QUICK)
        for _ in range(200):
            await anyio.sleep(0.001)
            await anyio.wait_all_tasks_blocked()
            states = [await self.rig.task(task_id) for task_id in self.submitted]
            left = [await self.bus.backlog(name) for name in NEXT]
            if all(task.closed for task in states) and left == [Backlog()] * len(NEXT):
                break
            self.rig.clock.advance(11)
        for _, stop in self.alive:
            stop.set()


async def scenario(operations: list[Operation]) -> dict[str, list[Record]]:
    rig = Rig()
    rig.bus = bus = FaultyBus(tenant=TENANT, clock=rig.clock).equip()
    submitted: list[str] = []
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            world = World(rig, bus, tasks, submitted)
            # Every agent is known, so that a handoff to one that is down is a handoff.
            for name in NEXT:
                tasks.start_soon(world.live, name, QUICK)
                tasks.start_soon(world.live, name, SLOW)
            await anyio.wait_all_tasks_blocked()
            for operation in operations:
                await world.do(operation)
                await anyio.wait_all_tasks_blocked()
            await world.settle()
        assert [await bus.backlog(name) for name in NEXT] == [Backlog()] * len(NEXT)
        return {task_id: await rig.history(task_id) for task_id in submitted}


def check(history: list[Record]) -> None:
    """The oracle: what a history must be, whatever happened."""
    task: Task = EMPTY
    claimed, writer, turn = False, "", 0
    for record in history:
        envelope = record.envelope
        assert envelope is not None
        event, sender = envelope.event, envelope.sender
        assert not task.closed, f"{envelope.kind} after the end"
        if sender.agent in NEXT:
            assert sender.agent == task.owner
            if sender.instance != writer and claimed and not isinstance(event, e.DeadLettered):
                assert isinstance(event, CLAIMS), f"{envelope.kind} of {sender.instance}, unclaimed"
            claimed, writer = claimed or isinstance(event, CLAIMS), sender.instance
            if task.cancel_requested:
                assert isinstance(event, (e.Canceled, e.WorkReleased, *CLAIMS)), envelope.kind
        task = evolve(task, record)
        if task.turn and task.turn.delivery_position != turn:
            claimed, writer, turn = False, "", task.turn.delivery_position
        assert task.hops == len(task.handoffs)
    assert task.closed
    assert sum(isinstance(r.envelope.event, e.CLOSING) for r in history if r.envelope) == 1
    assert not task.cancel_requested or task.state is State.CANCELED
    assert fold(history) == task


def test_whatever_happens_each_task_ends_once(request: pytest.FixtureRequest) -> None:
    @settings(
        max_examples=400 if request.config.getoption("--bars") else 60,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        print_blob=True,
    )
    @given(OPERATIONS)
    def holds(operations: list[Operation]) -> None:
        for history in anyio.run(scenario, operations).values():
            check(history)

    holds()
