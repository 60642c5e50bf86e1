"""What the bus tests need beside a bus: events, a way to wait, and hands on the log itself."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import anyio

from mesh.bus.port import Bus, Delivery, Inbox
from mesh.clock import SystemClock, SystemIds
from mesh.core.envelope import Envelope, Record, Sender
from mesh.core.event import (
    ChildFinished,
    HandedOff,
    StepRecorded,
    TaskEvent,
    TaskSubmitted,
    WorkStarted,
)
from mesh.core.payload import Payload
from mesh.core.subject import shard_of

SHARDS = 2
WAIT_S = 20.0
"""Longest that a test waits for what must come."""
_ids = SystemIds()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    """A bus, a second one over the same log as another process would have it, and the log."""

    bus: Bus
    other: Bus
    tenant: str
    ack_wait_s: float
    put: Callable[[str, bytes], Awaitable[int]]
    trim: Callable[[str, int], Awaitable[None]]
    """Forget what stands in a shard below a position."""
    pause: Callable[[], None]
    """Let both buses' clocks say that every lease ran out."""


OpenRig = Callable[..., AbstractAsyncContextManager[Rig]]
"""Opens a rig; `ack_wait_s` is how long a delivery is leased."""


@dataclass(frozen=True, slots=True)
class Events:
    """Makes events of one tenant; `instance` is the process that writes them."""

    tenant: str
    instance: str = "one"

    def of(self, task: str, event: TaskEvent, *, to: str = "log", root: str = "") -> Envelope:
        return Envelope(
            event_id=_ids.fresh(),
            tenant=self.tenant,
            task_id=task,
            root_task_id=root or task,
            sender=Sender(agent="gateway", instance=self.instance),
            occurred_at=SystemClock().now(),
            event=event,
            to=to,
        )

    def submitted(self, task: str, to: str = "planner", root: str = "") -> Envelope:
        return self.of(task, TaskSubmitted(), to=to, root=root)

    def started(self, task: str) -> Envelope:
        return self.of(task, WorkStarted())

    def step(self, task: str, size: int = 8) -> Envelope:
        value = Payload(content_type="application/octet-stream", data=b"x" * size)
        return self.of(task, StepRecorded(name="step", value=value))

    def handed_off(self, task: str, to: str = "writer") -> Envelope:
        return self.of(task, HandedOff(), to=to)

    def report(self, task: str, to: str = "planner") -> Envelope:
        return self.of(task, ChildFinished(state="COMPLETED"), to=to)


def new_task(shard: str = "") -> str:
    """A fresh task id, of a root that lives in the given shard, or in any."""
    while True:
        task = _ids.fresh()
        if not shard or shard_of(task, SHARDS) == shard:
            return task


def home(task: str) -> str:
    return shard_of(task, SHARDS)


async def submit(rig: Rig, task: str, to: str = "planner") -> int:
    (position,) = await rig.bus.append([Events(rig.tenant).submitted(task, to)], {task: 0})
    return position


async def take(inbox: Inbox) -> Delivery:
    """The next delivery."""
    with anyio.fail_after(WAIT_S):
        return await anext(aiter(inbox))


async def take_none(inbox: Inbox, seconds: float) -> None:
    """Watch that nothing is delivered for a while."""
    with anyio.move_on_after(seconds):
        delivery = await anext(aiter(inbox))
        raise AssertionError(f"delivered: {delivery.record}")


async def read(tail: AsyncIterator[list[Record]], count: int) -> list[Record]:
    """The next records of a tail, at least so many."""
    records: list[Record] = []
    with anyio.fail_after(WAIT_S):
        while len(records) < count:
            records += await anext(tail)
    return records
