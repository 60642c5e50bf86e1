"""The trace drawn from the log against the spans that were opened while it happened."""

import pytest

from mesh.agent.context import Context
from mesh.agent.definition import Agent
from mesh.agent.outcome import Handoff, Reply
from mesh.core.task import State
from mesh.errors import Retryable
from mesh.replay.trace import Status, trace_of
from tests.runtime.rig import Rig, running

pytestmark = pytest.mark.anyio


def planner() -> Agent:
    agent = Agent("planner")
    left = [Retryable("not yet", after=0.0)]

    @agent.on(str)
    async def plan(ctx: Context, text: str) -> Handoff:
        ctx.decide("how", text, why="asked")
        if left:
            raise left.pop()
        return Handoff("writer", text)

    return agent


def writer() -> Agent:
    agent = Agent("writer")

    @agent.on(str)
    async def write(ctx: Context, text: str) -> Reply:
        return Reply(text.upper())

    return agent


async def test_the_log_alone_gives_the_live_spans() -> None:
    rig = Rig()
    async with running(rig.worker(planner()), rig.worker(writer())):
        task_id = await rig.submit("planner", "hello")
        await rig.until(task_id, State.COMPLETED)
        await rig.acked("writer")
    trace = trace_of(await rig.history(task_id))
    # The submit was put on the log without the gateway, and nobody is told of what goes to `log`.
    live = {
        s.spec.span_id: s.spec
        for s in rig.telemetry.spans
        if s.spec.name.split()[0] in ("process", "invoke_agent", "send")
        and not s.spec.name.endswith(".log")
    }
    drawn = {s.spec.span_id: s.spec for s in trace.spans[1:]}
    assert drawn.keys() == live.keys()
    for span_id, spec in drawn.items():
        seen = live[span_id]
        assert (spec.name, spec.kind, spec.trace_id) == (seen.name, seen.kind, seen.trace_id)
        assert (spec.parent_span_id, spec.links) == (seen.parent_span_id, seen.links)
        assert spec.attributes == seen.attributes
    assert [s.status for s in trace.spans if s.attempt and "invoke" in s.spec.name] == [
        Status.FAILED,
        Status.OK,
        Status.OK,
    ]
    assert all(s.ended for s in rig.telemetry.spans)
