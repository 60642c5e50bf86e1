"""The client of a gateway."""

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from typing import Any, TypedDict

import anyio
import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from typing_extensions import Unpack

from mesh.agent.payload import encode_value
from mesh.client.handle import TaskHandle, message_of
from mesh.client.line import CHANNEL_OPTIONS, Line
from mesh.clock import IdSource, SystemIds
from mesh.errors import Invalid, MeshError, Unavailable
from mesh.wire.v1 import gateway_pb2 as pb
from mesh.wire.v1.api_pb2 import Agent, DeadLetterEntry, Event, RedriveOutcome, StateAt, Task

__all__ = ["EventFilter", "Mesh", "SubmitOptions", "open_mesh"]

INT64 = 2**63 - 1
"""The largest number that the wire carries."""
_PAGE = 200
_AT_ONCE = 16


class SubmitOptions(TypedDict, total=False):
    """What a submit may say besides agent and payload.

    `key` makes it repeatable: the same key is the same task, from any gateway; `deadline` is an
    aware instant; `max_hops` 0 is the default; `request_id`, 32 hex digits, is for callers that
    repeat a whole submit themselves; `budget` limits what the task and all that it delegates may
    spend, by counter.
    """

    key: str | None
    deadline: datetime | None
    labels: Mapping[str, str] | None
    objective: str
    priority: int
    max_hops: int
    correlation_id: str
    request_id: str
    budget: Mapping[str, int] | None


class EventFilter(TypedDict, total=False):
    """Which events: `agent` is sender or addressee, `kind` a name such as `task.handed_off`."""

    task_id: str
    agent: str
    kind: str
    shard: str
    with_payload: bool
    with_raw: bool


class Mesh:
    """One mesh, through its gateway; every call may be made from any task of the program."""

    def __init__(self, line: Line) -> None:
        self._line = line

    async def submit(
        self, agent: str, payload: Any = None, **options: Unpack[SubmitOptions]
    ) -> TaskHandle:
        """Give an agent a task.

        Args:
            agent: Its name.
            payload: A pydantic model, dataclass, protobuf message, `str`, `bytes` or JSON value.
            options: See `SubmitOptions`.

        Raises:
            AgentUnknown: No agent of this name was ever registered.
            KeyConflict: The key belongs to a task with another agent or payload.
            PayloadInvalid: The payload has no JSON form.
            PayloadTooLarge: It is over 64 MiB.
            LogFull: The mesh takes no new work now.
            Unavailable: The gateway is gone; submit again with the same key or request id.
        """
        unknown = options.keys() - SubmitOptions.__annotations__.keys()
        if unknown:
            known = ", ".join(SubmitOptions.__annotations__)
            raise TypeError(f"submit() has no option {min(unknown)!r}; there are {known}")
        request = pb.SubmitTaskRequest(
            agent=agent,
            input=None if payload is None else message_of(encode_value(payload)),
            idempotency_key=options.get("key") or "",
            deadline=_instant(options.get("deadline"), "deadline"),
            labels=options.get("labels") or {},
            objective=options.get("objective", ""),
            priority=options.get("priority", 0),
            max_hops=options.get("max_hops", 0),
            correlation_id=options.get("correlation_id", ""),
            request_id=options.get("request_id") or self._line.ids.fresh(),
            budget=_budget(options.get("budget")),
        )
        reply = await self._line.call(self._line.stub.SubmitTask, request)
        return TaskHandle(
            self._line,
            reply.task.task_id,
            warnings=tuple(reply.warnings),
            duplicate=reply.duplicate,
        )

    def task(self, task_id: str) -> TaskHandle:
        """A task by its id; nothing is asked yet."""
        return TaskHandle(self._line, task_id)

    async def tasks(
        self, *, states: tuple[str, ...] = (), agent: str = "", limit: int = 0
    ) -> AsyncGenerator[Task]:
        """Tasks as the ledger knows them, newest first, without their results.

        Args:
            states: Only these, such as `WORKING`; empty for all.
            agent: Only those that it has; "" for all.
            limit: Most tasks to give; 0 for all.
        """
        unknown = [name for name in states if name not in Task.State.keys()]  # noqa: SIM118
        if unknown:
            raise Invalid(f"state `{unknown[0]}` does not exist; there are {Task.State.keys()}")
        request = pb.ListTasksRequest(
            states=[Task.State.Value(name) for name in states], agent=agent, page_size=_PAGE
        )
        given = 0
        while True:
            reply = await self._line.call(self._line.stub.ListTasks, request)
            for task in reply.tasks:
                yield task
                given += 1
                if given == limit:
                    return
            if not reply.next_page_token:
                return
            request.page_token = reply.next_page_token

    async def events(
        self,
        *,
        positions: tuple[int, int] = (0, 0),
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 0,
        **which: Unpack[EventFilter],
    ) -> AsyncGenerator[Event]:
        """Events as the ledger has them, oldest first.

        Args:
            positions: First and last, inclusive; 0 for the beginning and the end.
            since: Broker's time, inclusive, aware.
            until: Broker's time, inclusive, aware.
            limit: Most events to give; 0 for all.
            which: See `EventFilter`.
        """
        request = pb.ListEventsRequest(
            from_position=positions[0],
            to_position=positions[1],
            since=_instant(since, "since"),
            until=_instant(until, "until"),
            page_size=_PAGE,
            **which,
        )
        given = 0
        while True:
            reply = await self._line.call(self._line.stub.ListEvents, request)
            for event in reply.events:
                yield event
                given += 1
                if given == limit:
                    return
            if not reply.next_page_token:
                return
            request.page_token = reply.next_page_token

    async def tail(self, *, first: int = 0, **which: Unpack[EventFilter]) -> AsyncGenerator[Event]:
        """Events as they are stored, for ever; goes on where it was after a lost gateway.

        Args:
            first: First position to give; 0 for those from now on.
            which: See `EventFilter`.

        Raises:
            Invalid: The position is not in the log, or there is no such shard.
        """
        position = first or await self._end(which.get("shard", "s0"))

        def request() -> pb.TailEventsRequest:
            return pb.TailEventsRequest(from_position=position, **which)

        events = self._line.follow(self._line.stub.TailEvents, request)
        async with aclosing(events):
            async for event in events:
                position = event.position + 1
                yield event

    async def agents(self, name: str = "") -> list[Agent]:
        """Every agent ever registered, or one of them, and who is alive.

        Raises:
            AgentUnknown: There is none of this name.
        """
        request = pb.ListAgentsRequest(name=name)
        reply = await self._line.call(self._line.stub.ListAgents, request)
        return list(reply.agents)

    async def dead_letters(
        self, *, agent: str = "", since: datetime | None = None
    ) -> AsyncGenerator[DeadLetterEntry]:
        """Dead letters that were not redriven, oldest first.

        Args:
            agent: Only those of this agent; "" for all.
            since: Only those that it gave up on then or later, aware.
        """
        first = _instant(since, "since")
        request = pb.ListDeadLettersRequest(agent=agent, page_size=_PAGE)
        while True:
            reply = await self._line.call(self._line.stub.ListDeadLetters, request)
            for entry in reply.dead_letters:
                if first is None or entry.occurred_at.ToNanoseconds() >= first.ToNanoseconds():
                    yield entry
            if not reply.next_page_token:
                return
            request.page_token = reply.next_page_token

    async def redrive_all(self, task_ids: Iterable[str]) -> AsyncGenerator[RedriveOutcome]:
        """Redrive many, a few at a time; one that is refused does not keep the others back.

        Args:
            task_ids: Of the dead letters; one that stands twice is redriven once.

        Returns:
            What became of each, in their order: the task, or the error that refused it.

        Raises:
            Unavailable: The gateway is gone; those that were not given may be redriven or not.
        """
        rest = list(dict.fromkeys(task_ids))
        lost: list[Unavailable] = []
        while rest and not lost:
            chunk, rest = rest[:_AT_ONCE], rest[_AT_ONCE:]
            outcomes = [RedriveOutcome(task_id=task_id) for task_id in chunk]
            # No yield in here: a task group must be left where it was entered.
            async with anyio.create_task_group() as tasks:
                for outcome in outcomes:
                    tasks.start_soon(self._redrive, outcome, lost)
            for outcome in outcomes:
                if outcome.HasField("task") or outcome.HasField("error"):
                    yield outcome
        if lost:
            raise lost[0]

    async def redrive(self, task_id: str) -> Task:
        """Give a dead-lettered delivery to its agent again.

        Raises:
            TaskUnknown: There is no such task.
            NotDeadLettered: It did not end as a dead letter.
        """
        request = pb.RedriveTaskRequest(task_id=task_id, request_id=self._line.ids.fresh())
        return await self._line.call(self._line.stub.RedriveTask, request)

    async def state(
        self,
        task_id: str,
        *,
        version: int | None = None,
        position: int | None = None,
        time: datetime | None = None,
    ) -> StateAt:
        """A task's state at a point of its history; at most one of the three, none is the head.

        Raises:
            TaskUnknown: There is no such task.
            Invalid: It has no such version, or more than one point was given.
        """
        points = {"version": version, "position": position, "time": _instant(time, "time")}
        chosen: dict[str, Any] = {name: at for name, at in points.items() if at is not None}
        if len(chosen) > 1:
            raise Invalid(f"give one of {', '.join(chosen)}, not all")
        request = pb.GetStateRequest(task_id=task_id, **chosen)
        return await self._line.call(self._line.stub.GetState, request)

    async def status(self) -> pb.GetStatusResponse:
        """Where the log and the ledger stand."""
        return await self._line.call(self._line.stub.GetStatus, pb.GetStatusRequest())

    async def _redrive(self, outcome: RedriveOutcome, lost: list[Unavailable]) -> None:
        try:
            outcome.task.CopyFrom(await self.redrive(outcome.task_id))
        except Unavailable as error:
            lost.append(error)
        except MeshError as error:
            outcome.error.code, outcome.error.message = error.code, str(error)
            outcome.error.details.update(error.details())

    async def _end(self, shard: str) -> int:
        """The position that the next event of a shard gets."""
        status = await self.status()
        return next((s.log_last + 1 for s in status.shards if s.shard == shard), 0)


def _budget(budget: Mapping[str, int] | None) -> Mapping[str, int]:
    for counter, limit in (budget or {}).items():
        if not 0 <= limit <= INT64:
            raise Invalid(f"budget of `{counter}` is {limit}; it must be 0 to {INT64}")
    return budget or {}


def _instant(at: datetime | None, name: str) -> Timestamp | None:
    if at is None:
        return None
    if at.tzinfo is None:
        raise Invalid(f"`{name}` has no time zone: say `datetime.now(UTC)`, not `datetime.now()`")
    message = Timestamp()
    message.FromDatetime(at)
    return message


@asynccontextmanager
async def open_mesh(
    address: str,
    *,
    patience_s: float = 30.0,
    ids: IdSource | None = None,
    carrier: Callable[[], Mapping[str, str]] = dict,
) -> AsyncGenerator[Mesh]:
    """A mesh by the address of its gateway.

    Args:
        address: Host and port.
        patience_s: How long the gateway may be gone before a call gives up, seconds.
        ids: Fresh ids for requests; the system's by default.
        carrier: W3C trace headers to send along, read at each call.
    """
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        line = Line(
            channel, address, patience_s=patience_s, ids=ids or SystemIds(), carrier=carrier
        )
        yield Mesh(line)
