"""Two replicas that both loaded the same wake, with steps longer than the lease."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import anyio
import pytest

from mesh import Agent, Context, Reply
from mesh.agent.outcome import Outcome
from mesh.agent.worker import Worker
from mesh.bus.inproc import InprocBus
from mesh.core import event as e
from mesh.core.envelope import Envelope
from mesh.core.task import State
from tests.make import TENANT
from tests.runtime.durable import fire, resting
from tests.runtime.quick_loop import FlowingClock, run_quickly
from tests.runtime.rig import FAST, Rig, run_worker, running

STEPS = 3


class GatedBus(InprocBus):
    """Holds the first append of each process, once `gates` has a place for it."""

    gates: dict[str, anyio.Event]
    reached: dict[str, anyio.Event]

    async def append(
        self, envelopes: Sequence[Envelope], expected: Mapping[str, int]
    ) -> tuple[int, ...]:
        """As the port says, when the test says so."""
        instance = envelopes[0].sender.instance
        if gate := self.gates.pop(instance, None):
            self.reached[instance].set()
            await gate.wait()
        return await super().append(envelopes, expected)


def agent_of(rig: Rig, ran: Counter[str], again: list[str], task_ids: list[str]) -> Agent:
    agent = Agent("worker")

    async def work(name: str) -> str:
        ran[name] += 1
        for record in await rig.history(task_ids[0]):
            event = record.envelope.event if record.envelope else None
            if isinstance(event, e.StepRecorded) and event.name == name:
                again.append(name)
        if ran[name] == 1:
            rig.clock.advance(11)  # the lease is shorter than this
        await anyio.sleep(0.1)
        return name

    @agent.on(str)
    async def handle(ctx: Context, text: str) -> Outcome:
        await ctx.sleep(10)
        return Reply([await ctx.step(f"s{n}", work, f"s{n}") for n in range(STEPS)])

    return agent


async def race(turn: int) -> tuple[Counter[str], list[str], list[e.TaskEvent]]:
    rig = Rig(FlowingClock())
    rig.bus = bus = GatedBus(tenant=TENANT, clock=rig.clock)
    bus.gates, bus.reached = {}, {}
    ran, again, task_ids = Counter[str](), list[str](), list[str]()
    agent = agent_of(rig, ran, again, task_ids)
    limits = replace(FAST, concurrency=1, attempts=50, claim_after_s=(30, 0.05)[turn % 2])
    async with running(rig.worker(agent, limits)):
        task_ids.append(await rig.submit("worker", "x"))
        await resting(rig, task_ids[0])
        await rig.acked("worker")
    async with anyio.create_task_group() as tasks:
        gates: list[anyio.Event] = []
        for _ in range(2):
            ports = rig.ports()
            gates.append(anyio.Event())
            bus.gates[ports.instance], bus.reached[ports.instance] = gates[-1], anyio.Event()
            await tasks.start(run_worker, Worker(agent, ports, limits))
        await fire(rig, task_ids[0])
        with anyio.move_on_after(30):
            for reached in bus.reached.values():
                while not reached.is_set():
                    await anyio.sleep(1)
                    rig.clock.advance(11)  # so that the other replica gets it too
        both = all(reached.is_set() for reached in bus.reached.values())
        assert both, "both have loaded, and neither has appended"
        for n, gate in enumerate(gates[:: 1 if turn % 4 < 2 else -1]):
            gate.set()
            if not n and turn % 3:
                await anyio.sleep(turn % 3)
        with anyio.fail_after(10_000):
            await bus.settled("worker")
        tasks.cancel_scope.cancel()
    task = await rig.task(task_ids[0])
    assert task.state is State.COMPLETED
    history = await rig.history(task_ids[0])
    return ran, again, [record.envelope.event for record in history if record.envelope]


def test_of_two_replicas_with_one_wake_one_writes_and_no_recorded_step_runs_again(
    request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "mesh")

    async def once(turn: int) -> None:
        _, again, events = await race(turn)
        assert again == []
        recorded = [event.name for event in events if isinstance(event, e.StepRecorded)]
        assert recorded == [f"s{n}" for n in range(STEPS)]
        assert sum(isinstance(event, e.CLOSING) for event in events) == 1

    for turn in range(100 if request.config.getoption("--bars") else 20):
        run_quickly(lambda turn=turn: once(turn))
