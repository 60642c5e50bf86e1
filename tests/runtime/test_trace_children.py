"""The trace of a task and its children, drawn from the log, against the spans that were live."""

import pytest

from mesh.agent.context import Context
from mesh.agent.definition import Agent
from mesh.agent.outcome import Fail, Handoff, Outcome, Reply
from mesh.core import event as e
from mesh.core.envelope import Record
from mesh.core.task import State
from mesh.replay.trace import Status, trace_of
from tests.runtime.rig import Rig, running

pytestmark = pytest.mark.anyio


def agents() -> tuple[Agent, Agent, Agent]:
    planner, reader, writer = Agent("planner"), Agent("reader"), Agent("writer")

    @planner.on(int)
    async def plan(ctx: Context, n: int) -> Handoff:
        await ctx.step("think", str, n)
        parts = (ctx.delegate("reader", i) for i in range(n))
        found = await ctx.gather(*parts, failures="collect")
        return Handoff("writer", [x for x in found if isinstance(x, int)])

    @reader.on(int)
    async def read(ctx: Context, n: int) -> Outcome:
        return Reply(n) if n else Fail("nothing to read")

    @writer.on(list[int])
    async def write(ctx: Context, found: list[int]) -> Reply:
        return Reply(sum(found))

    return planner, reader, writer


async def tree(rig: Rig, task_id: str) -> list[Record]:
    records = await rig.history(task_id)
    for record in list(records):
        if record.envelope and isinstance(record.envelope.event, e.Delegated):
            records += await tree(rig, record.envelope.event.child_task_id)
    return records


async def test_one_trace_holds_the_children_as_they_were_live() -> None:
    rig = Rig()
    async with running(*(rig.worker(agent) for agent in agents())):
        task_id = await rig.submit("planner", 3)
        await rig.until(task_id, State.COMPLETED)
        for name in ("planner", "reader", "writer"):
            await rig.acked(name)
    trace = trace_of(await tree(rig, task_id))
    live = {
        s.spec.span_id: s.spec
        for s in rig.telemetry.spans
        if s.spec.name.split()[0] in ("process", "invoke_agent", "send")
    }
    drawn = {s.spec.span_id: s.spec for s in trace.spans[1:]}
    assert drawn.keys() == live.keys()
    for span_id, spec in drawn.items():
        seen = live[span_id]
        assert (spec.name, spec.kind, spec.trace_id) == (seen.name, seen.kind, seen.trace_id)
        assert (spec.parent_span_id, spec.links) == (seen.parent_span_id, seen.links)
        assert spec.attributes == seen.attributes
    assert (trace.task_id, trace.hops, trace.state) == (task_id, 1, State.COMPLETED)
    assert [s.depth for s in trace.spans].count(0) == 1
    assert {s.spec.trace_id for s in trace.spans} == {trace.trace_id}


async def test_children_hang_below_the_run_that_delegated_and_its_next_turn_below_the_last() -> (
    None
):
    rig = Rig()
    async with running(*(rig.worker(agent) for agent in agents())):
        task_id = await rig.submit("planner", 2)
        await rig.until(task_id, State.COMPLETED)
    spans = trace_of(await tree(rig, task_id)).spans
    by_id = {s.spec.span_id: s for s in spans}
    names = {s.spec.span_id: s.spec.name.split(".")[-1].replace("process ", "") for s in spans}
    sent = [s for s in spans if s.spec.name.startswith("send") and s.spec.name.endswith("reader")]
    [first] = {s.spec.parent_span_id for s in sent}
    assert (by_id[first].agent, by_id[first].status, by_id[first].attempt) == (
        "planner",
        Status.OK,
        1,
    )
    reports = [s for s in spans if s.spec.name.startswith("send") and s.agent == "reader"]
    assert [names[s.spec.parent_span_id] for s in reports] == ["reader", "reader"]
    [handed] = [
        s for s in spans if s.spec.name.startswith("send") and names[s.spec.span_id] == "writer"
    ]
    resumed = by_id[handed.spec.parent_span_id]
    assert resumed.spec.parent_span_id in {s.spec.span_id for s in reports}
    failed = [s for s in spans if s.spec.name == "invoke_agent reader" and s.error]
    assert [s.error for s in failed] == ["agent.failed"]
