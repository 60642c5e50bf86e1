"""The children of a task, as `mesh task show` lists them."""

from typing import TYPE_CHECKING

from mesh.cli.output import say
from mesh.core.event import ChildFinished, Delegated
from mesh.errors import Unavailable
from mesh.wire.rpc import translated
from mesh.wire.v1.gateway_pb2 import ListEventsRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mesh.client.line import Line
    from mesh.wire.v1.api_pb2 import Event, Task
    from mesh.wire.v1.gateway_pb2 import ListEventsResponse

__all__ = ["children_of"]

_LINES = 20
"""Most children that are shown one by one."""
_PAGE = 1000
_ANSWER_S = 2.0


async def children_of(line: "Line", task: "Task") -> str:
    """Every task that a task delegated, a line each: id, agent, how it ended or that it is open.

    The log, which `task` was read from, knows those that are open; the others only the ledger
    does. If that does not answer, this is said and "" returned.
    """
    try:
        delegated = await _events(line, task.task_id, Delegated.kind)
        if not delegated:
            return ""
        finished = await _events(line, task.task_id, ChildFinished.kind)
    except Unavailable as error:
        say(f"mesh: children that have ended are not shown: {error}")
        return ""
    states = {_said(event, "childTaskId"): _said(event, "state") for event in finished}
    states |= {child.task_id: "open" for child in task.children}
    agents = {_said(event, "childTaskId"): _said(event, "agent") for event in delegated}
    agents |= {child.task_id: child.agent for child in task.children}  # the ledger may be behind
    lines = [f"{child}  {agent}  {states.get(child, 'ended')}" for child, agent in agents.items()]
    if len(lines) > _LINES:
        least = "at least " if len(delegated) == _PAGE else ""
        more = f"… and {least}{len(lines) - _LINES} more; `mesh trace` draws them all"
        lines = [*lines[:_LINES], more]
    return "\n".join(lines)


async def _events(line: "Line", task_id: str, kind: str) -> "Sequence[Event]":
    request = ListEventsRequest(task_id=task_id, kind=kind, page_size=_PAGE)
    with translated("the ledger"):
        # Without the patience of other calls: what the log alone can tell must not wait for it.
        reply: ListEventsResponse = await line.stub.ListEvents(request, timeout=_ANSWER_S)
    return reply.events


def _said(event: "Event", name: str) -> str:
    return event.body.fields[name].string_value
