"""A thousand children that report at once: their parent reads its history a handful of times."""

import anyio
import pytest

from mesh import Agent, Context, Reply
from mesh.agent.outcome import Outcome
from mesh.agent.payload import encode_value
from mesh.agent.worker import Worker
from mesh.bus.inproc import InprocBus
from mesh.bus.port import Backlog
from mesh.core import event as e
from mesh.core.envelope import Record
from mesh.core.task import State
from tests.make import TENANT, envelope
from tests.runtime.durable import resting
from tests.runtime.rig import FAST, Rig, running

pytestmark = pytest.mark.anyio
MANY = 1000


class CountingBus(InprocBus):
    """Counts reads of a history by anybody but the test."""

    reads = 0
    test = 0

    async def history(
        self, task_id: str, *, root_task_id: str = "", after: int = 0
    ) -> list[Record]:
        """As the port says."""
        self.reads += anyio.get_current_task().id != self.test
        return await super().history(task_id, root_task_id=root_task_id, after=after)


async def report(rig: Rig, task_id: str, children: list[str]) -> None:
    """All at once, as their agents would."""
    for n, child_id in enumerate(children):
        event = e.ChildFinished(
            child_task_id=child_id, state=State.COMPLETED, result=encode_value(n)
        )
        await rig.bus.append([envelope(event, to="parent", sender="child", task_id=task_id)], {})


@pytest.mark.parametrize("busy", [False, True])
async def test_a_thousand_reports_at_once_are_read_a_handful_of_times(busy: bool) -> None:
    """Also while the parent runs, and hears of each of them."""
    rig, parent = Rig(), Agent("parent")
    rig.bus = bus = CountingBus(tenant=TENANT, clock=rig.clock)
    bus.test = anyio.get_current_task().id
    running_step, told = anyio.Event(), anyio.Event()

    async def work() -> None:
        running_step.set()
        await told.wait()

    @parent.on(int)
    async def handle(ctx: Context, n: int) -> Outcome:
        parts = [ctx.delegate("child", i) for i in range(n)]
        if busy:
            await ctx.step("work", work)
        found = await ctx.gather(*parts)
        return Reply([len(found), len(set(found))])

    ports = rig.ports()
    ports.known_agents.add("child")
    task_id = await rig.submit("parent", MANY)
    async with running(Worker(parent, ports, FAST)):
        if busy:
            with anyio.fail_after(10):
                await running_step.wait()
        else:
            await resting(rig, task_id)
        history = await rig.history(task_id)
        made = [r.envelope.event for r in history if r.envelope]
        children = [event.child_task_id for event in made if isinstance(event, e.Delegated)]
        bus.reads = 0
        await report(rig, task_id, children)
        with anyio.fail_after(30):
            while busy and await bus.backlog("parent") != Backlog(held=1):
                await anyio.lowlevel.checkpoint()  # only the delivery is left that it runs on
        told.set()
        await rig.acked("parent")
    task = await rig.task(task_id)
    assert task.result is not None
    assert task.result.data == b"[1000,1000]"
    assert bus.reads <= 20
