"""The client for programs without an event loop: the same names, blocking."""

from collections.abc import AsyncGenerator, Generator, Iterable, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal
from typing_extensions import Unpack

from mesh.client.handle import TaskHandle
from mesh.client.mesh import EventFilter, Mesh, SubmitOptions, open_mesh
from mesh.client.output import Output
from mesh.wire.v1.api_pb2 import Agent, DeadLetterEntry, Event, RedriveOutcome, StateAt, Task
from mesh.wire.v1.gateway_pb2 import GetStatusResponse, WatchTaskResponse

__all__ = ["BlockingMesh", "BlockingTask", "connect_blocking"]

T = TypeVar("T")


class BlockingTask:
    """A `TaskHandle` whose methods block."""

    def __init__(self, portal: BlockingPortal, handle: TaskHandle) -> None:
        self.id, self.warnings, self.duplicate = handle.id, handle.warnings, handle.duplicate
        self._portal, self._handle = portal, handle

    def info(self) -> Task:
        """See `TaskHandle.info`."""
        return self._portal.call(self._handle.info)

    def result(self, *, timeout_s: float | None = None, as_type: Any = None) -> Any:
        """See `TaskHandle.result`."""
        result = partial(self._handle.result, timeout_s=timeout_s, as_type=as_type)
        return self._portal.call(result)

    def watch(self, *, after: int = 0, live: bool = False) -> Generator[WatchTaskResponse]:
        """See `TaskHandle.watch`."""
        return _stepped(self._portal, self._handle.watch(after=after, live=live))

    def stream(self) -> Generator[Output]:
        """See `TaskHandle.stream`."""
        return _stepped(self._portal, self._handle.stream())

    def cancel(self, reason: str = "") -> Task:
        """See `TaskHandle.cancel`."""
        return self._portal.call(self._handle.cancel, reason)

    def answer(self, value: Any, *, question_id: str = "") -> Task:
        """See `TaskHandle.answer`."""
        return self._portal.call(partial(self._handle.answer, value, question_id=question_id))

    def signal(self, name: str, value: Any = None) -> Task:
        """See `TaskHandle.signal`."""
        return self._portal.call(partial(self._handle.signal, name, value))

    def unpark(self, reason: str = "") -> Task:
        """See `TaskHandle.unpark`."""
        return self._portal.call(self._handle.unpark, reason)


class BlockingMesh:
    """A `Mesh` whose methods block."""

    def __init__(self, portal: BlockingPortal, mesh: Mesh) -> None:
        self._portal, self._mesh = portal, mesh

    def submit(
        self, agent: str, payload: Any = None, **options: Unpack[SubmitOptions]
    ) -> BlockingTask:
        """See `Mesh.submit`."""
        handle = self._portal.call(partial(self._mesh.submit, agent, payload, **options))
        return BlockingTask(self._portal, handle)

    def task(self, task_id: str) -> BlockingTask:
        """See `Mesh.task`."""
        return BlockingTask(self._portal, self._mesh.task(task_id))

    def tasks(
        self, *, states: tuple[str, ...] = (), agent: str = "", limit: int = 0
    ) -> Generator[Task]:
        """See `Mesh.tasks`."""
        return _stepped(self._portal, self._mesh.tasks(states=states, agent=agent, limit=limit))

    def events(
        self,
        *,
        positions: tuple[int, int] = (0, 0),
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 0,
        **which: Unpack[EventFilter],
    ) -> Generator[Event]:
        """See `Mesh.events`."""
        events = self._mesh.events(
            positions=positions, since=since, until=until, limit=limit, **which
        )
        return _stepped(self._portal, events)

    def tail(self, *, first: int = 0, **which: Unpack[EventFilter]) -> Generator[Event]:
        """See `Mesh.tail`."""
        return _stepped(self._portal, self._mesh.tail(first=first, **which))

    def agents(self, name: str = "") -> list[Agent]:
        """See `Mesh.agents`."""
        return self._portal.call(self._mesh.agents, name)

    def dead_letters(
        self, *, agent: str = "", since: datetime | None = None
    ) -> Generator[DeadLetterEntry]:
        """See `Mesh.dead_letters`."""
        return _stepped(self._portal, self._mesh.dead_letters(agent=agent, since=since))

    def redrive(self, task_id: str) -> Task:
        """See `Mesh.redrive`."""
        return self._portal.call(self._mesh.redrive, task_id)

    def redrive_all(self, task_ids: Iterable[str]) -> Generator[RedriveOutcome]:
        """See `Mesh.redrive_all`."""
        return _stepped(self._portal, self._mesh.redrive_all(task_ids))

    def state(
        self,
        task_id: str,
        *,
        version: int | None = None,
        position: int | None = None,
        time: datetime | None = None,
    ) -> StateAt:
        """See `Mesh.state`."""
        state = partial(self._mesh.state, task_id, version=version, position=position, time=time)
        return self._portal.call(state)

    def status(self) -> GetStatusResponse:
        """See `Mesh.status`."""
        return self._portal.call(self._mesh.status)


@contextmanager
def connect_blocking(
    address: str, *, patience_s: float = 30.0, headers: Mapping[str, str] | None = None
) -> Generator[BlockingMesh]:
    """A mesh by the address of its gateway; one thread runs its event loop until the end.

    Args:
        address: Host and port.
        patience_s: How long the gateway may be gone before a call gives up, seconds.
        headers: W3C trace headers to send along.
    """
    opened = partial(open_mesh, address, patience_s=patience_s, carrier=lambda: headers or {})
    with (
        start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(opened()) as mesh,
    ):
        yield BlockingMesh(portal, mesh)


def _stepped(portal: BlockingPortal, items: AsyncGenerator[T]) -> Generator[T]:
    """An asynchronous generator, one step a call; leaving the loop ends it."""
    try:
        while True:
            try:
                yield portal.call(items.__anext__)
            except StopAsyncIteration:
                return
    finally:
        portal.call(items.aclose)
