"""The cited brief's agents as a mesh in one process, with nothing but the clock made up."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mesh import Agent
from mesh.agent.payload import decode_value
from mesh.agent.ports import Limits
from mesh.core import event as e
from mesh.core.task import CLOSED, State, Task
from services.brief.message import Brief
from services.critic.agent import critic
from services.planner.agent import planner
from services.reader.agent import reader
from services.writer.agent import writer
from tests.runtime.rig import FAST, Rig, running

AGENTS = (planner, reader, writer, critic)


@dataclass(frozen=True)
class Ended:
    """A task that has ended, and its children's."""

    rig: Rig
    task: Task
    children: tuple[Task, ...]

    @property
    def state(self) -> State:
        return self.task.state

    @property
    def brief(self) -> Brief:
        """What came of it; it must have succeeded."""
        assert self.task.failure is None, self.task.failure
        assert self.task.result is not None
        brief: Brief = decode_value(self.task.result, Brief)
        return brief

    @property
    def error(self) -> str:
        """Why it did not succeed."""
        assert self.task.failure is not None
        return self.task.failure.message

    @property
    def route(self) -> list[str]:
        """Whom it was handed to."""
        return [hop.target for hop in self.task.handoffs]

    @property
    def decided(self) -> dict[str, str]:
        """Decisions of its packet and the reasons."""
        return {decision.id: decision.why for decision in self.task.decisions}


async def ended(
    value: Any,
    *,
    to: str = "planner",
    agents: Sequence[Agent] = AGENTS,
    limits: Limits = FAST,
) -> Ended:
    """Submit a value to an agent and wait for the outcome of the task and of its children."""
    rig = Rig()
    async with running(*(rig.worker(agent, limits) for agent in agents)):
        task_id = await rig.submit(to, value)
        task = await rig.until(task_id, *CLOSED)
        records = await rig.history(task_id)
        events = [record.envelope.event for record in records if record.envelope]
        delegated = [event for event in events if isinstance(event, e.Delegated)]
        children = [await rig.until(each.child_task_id, *CLOSED) for each in delegated]
    return Ended(rig, task, tuple(children))


def replaying(limits: Limits = FAST) -> Limits:
    """Limits that run every handler again over its record after each thing that came back."""
    return replace(limits, always_replay=True)
