"""Gateways on the in-process ports, and an agent that does what a test says."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta

from mesh.blob.inproc import InprocBlobs
from mesh.bus.inproc import InprocBus
from mesh.core import event as e
from mesh.core.envelope import Envelope, Record, Sender
from mesh.core.fold import fold
from mesh.core.payload import Failure, Payload
from mesh.core.task import State, Task
from mesh.gateway.desk import Desk, Parts, open_desk
from mesh.gateway.submission import Submission
from mesh.registry.inproc import InprocRegistry
from mesh.registry.port import Card, InputType, Presence
from mesh.telemetry.inproc import NoTelemetry
from mesh.testing.clock import ManualClock, ManualIds
from tests.make import START, TENANT

HELLO = Payload(content_type="application/json", data=b'{"say": "hello"}')
OTHER = Payload(content_type="application/json", data=b'{"say": "bye"}')
FAILURE = Failure(code="test.failed", message="it broke", details={"by": "the test"})


class KeptArchive:
    """A ledger that kept what the log then forgot."""

    def __init__(self) -> None:
        self.kept: dict[str, list[Record]] = {}
        self.asked: list[str] = []

    async def history(self, task_id: str, *, after: int = 0, to: int = 0) -> list[Record]:
        self.asked.append(task_id)
        records = self.kept.get(task_id, [])
        return [r for r in records if r.position > after and (not to or r.position <= to)]


class GatewayRig:
    """One in-process mesh: what gateways share, and the log that agents write to."""

    def __init__(self, *, shards: int = 1, bus: type[InprocBus] = InprocBus) -> None:
        self.clock = ManualClock()
        self.shards = shards
        self.bus = bus(tenant=TENANT, clock=self.clock, shards=shards)
        self.blobs = InprocBlobs()
        self.registry = InprocRegistry()
        self.archive = KeptArchive()
        self._gateways = 0
        self._events = 0

    def parts(self) -> Parts:
        """The parts of one more gateway process."""
        self._gateways += 1
        return Parts(
            bus=self.bus,
            blobs=self.blobs,
            registry=self.registry,
            archive=self.archive,
            clock=self.clock,
            ids=ManualIds(0xAA00 + self._gateways),
            telemetry=NoTelemetry(),
            shards=self.shards,
            tenant=TENANT,
            instance=f"{self._gateways}-gateway",
            settle_s=2.0,
        )

    @asynccontextmanager
    async def desks(self, count: int) -> AsyncGenerator[list[Desk]]:
        """Gateways, as many as asked."""
        async with AsyncExitStack() as stack:
            yield [await stack.enter_async_context(open_desk(self.parts())) for _ in range(count)]

    @asynccontextmanager
    async def agent(self, name: str) -> AsyncGenerator[None]:
        """An agent that is registered, and alive until the block ends."""
        card = Card(
            name=name,
            behaviour_version="1",
            inputs=(InputType(schema="", content_type="application/json", json_schema="{}"),),
        )
        presence = Presence(
            agent=name,
            instance=f"1-{name}",
            behaviour_version="1",
            host="here",
            pid=1,
            concurrency=1,
            started_at=START,
        )
        async with self.registry.announce(card, presence):
            yield

    async def task(self, task_id: str) -> Task:
        """A task as the log has it."""
        return fold(await self.bus.history(task_id))

    async def act(self, task_id: str, *events: e.TaskEvent, to: str = "log") -> int:
        """Append what the owner of a task would; gives the last position."""
        position = 0
        for event in events:
            records = await self.bus.history(task_id)
            task, last = fold(records), _last(records)
            self._events += 1
            self.clock.advance(1)
            envelope = replace(
                last.next(
                    event,
                    event_id=f"{self._events:032x}",
                    sender=Sender(agent=task.owner, instance="1-agent"),
                    occurred_at=START + timedelta(seconds=self._events),
                ),
                to=to,
            )
            fence: Mapping[str, int] = {task_id: task.moved} if event.event_class == "m" else {}
            (position,) = await self.bus.append([envelope], fence)
        return position

    async def dead_lettered(self, desk: Desk) -> str:
        """A task that its second agent could not run."""
        submitted = await desk.submit(submission())
        task_id = submitted.task.task_id
        await self.act(task_id, e.HandedOff(input=OTHER), to="writer")
        turn = (await self.task(task_id)).turn
        assert turn is not None
        await self.act(
            task_id,
            e.WorkStarted(),
            e.DeadLettered(
                delivery_id=turn.delivery_id,
                delivery_position=turn.delivery_position,
                attempts=5,
                failure=FAILURE,
            ),
        )
        assert (await self.task(task_id)).state is State.FAILED
        return task_id

    async def forget(self, task_id: str, *, ids_too: bool = False) -> None:
        """Trim the log above a task, after the archive kept it.

        A log remembers event ids for a while longer, unless it is told not to.
        """
        records = await self.bus.history(task_id)
        self.archive.kept[task_id] = records
        if ids_too:
            self.bus.recreate("s0")
            for record in records:
                self.bus.put(record.subject.replace(task_id, "f" * 32), b"something else")
        self.bus.trim("s0", below=records[-1].position + 1)


def submission(
    agent: str = "planner",
    input: Payload | None = HELLO,
    *,
    key: str = "",
    request_id: str = "",
) -> Submission:
    """A submit, short to write."""
    return Submission(agent=agent, input=input, key=key, request_id=request_id)


def kinds(records: Sequence[Record]) -> list[str]:
    """A history by the last words of its kinds."""
    return [r.envelope.kind.removeprefix("task.") if r.envelope else "?" for r in records]


def _last(records: Sequence[Record]) -> Envelope:
    return next(r.envelope for r in reversed(records) if r.envelope is not None)
