"""A whole mesh in one process, with a clock that only a test moves.

It is made of the real parts, on ports in memory: the workers that run agents, the gateway's desk,
the ledger's recorder and timers. Every pause is left to a timer, so nothing waits for real time,
and what happens depends on what the test does alone.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, TypedDict

import anyio
from typing_extensions import Unpack

from mesh.agent.definition import Agent
from mesh.agent.payload import encode_value
from mesh.agent.ports import Limits
from mesh.bus.beside import beside
from mesh.errors import TaskUnknown
from mesh.gateway.desk import Desk, open_desk
from mesh.gateway.submission import Submission
from mesh.testing.clock import ManualClock
from mesh.testing.engine import Engine
from mesh.testing.task import Insides, LocalTask

__all__ = ["LocalMesh", "SubmitOptions", "local_mesh"]

Span = float | timedelta
"""Seconds, or a span of time."""
_NEVER_S = 1e6
"""A claim by real time would make histories depend on how fast the machine is."""


class SubmitOptions(TypedDict, total=False):
    """What a submit may say besides agent and payload; `deadline` from now, or an instant."""

    key: str
    deadline: Span | datetime
    labels: Mapping[str, str]
    objective: str
    priority: int
    max_hops: int
    budget: Mapping[str, int]


class LocalMesh:
    """A mesh of one process; made by `local_mesh`."""

    def __init__(self, engine: Engine, desk: Desk) -> None:
        self._engine = engine
        self._insides = Insides(
            desk=desk, journal=engine.journal, blobs=engine.blobs, settle=engine.settled
        )

    @property
    def now(self) -> datetime:
        """What time it is, aware, UTC; `advance` moves it."""
        return self._engine.clock.now()

    @property
    def tasks(self) -> list[LocalTask]:
        """Every task, children too, in the order of their submits."""
        return [self.task(task_id) for task_id in self._insides.journal.tasks()]

    def task(self, task_id: str) -> LocalTask:
        """A task by its id.

        Raises:
            TaskUnknown: There is no such task.
        """
        if not self._insides.journal.history(task_id):
            raise TaskUnknown(task_id)
        return LocalTask(self._insides, task_id)

    async def submit(
        self, agent: str, payload: Any = None, **options: Unpack[SubmitOptions]
    ) -> LocalTask:
        """Give an agent a task, as the gateway does; it runs when something is waited for.

        Args:
            agent: Its name.
            payload: A pydantic model, dataclass, protobuf message, `str`, `bytes` or JSON value.
            options: See `SubmitOptions`.

        Raises:
            AgentUnknown: The mesh has no agent of this name; see `others` of `local_mesh`.
            PayloadInvalid: The payload has no JSON form.
            KeyConflict: The key belongs to a task with another agent or payload.
        """
        unknown = options.keys() - SubmitOptions.__annotations__.keys()
        if unknown:
            known = ", ".join(SubmitOptions.__annotations__)
            raise TypeError(f"submit() has no option {min(unknown)!r}; there are {known}")
        submission = Submission(
            agent=agent,
            input=None if payload is None else encode_value(payload),
            key=options.get("key", ""),
            deadline=self._instant(options.get("deadline")),
            labels=options.get("labels", {}),
            objective=options.get("objective", ""),
            priority=options.get("priority", 0),
            max_hops=options.get("max_hops", 0),
            budget=options.get("budget", {}),
        )
        submitted = await self._insides.desk.submit(submission)
        await self._insides.journal.read()
        return self.task(submitted.task.task_id)

    async def settled(self) -> None:
        """Run until nothing is running, and nothing is due: each task waits, is held, or closed.

        Raises:
            TimeoutError: Something still ran after `patience_s` real seconds; the text names it.
        """
        await self._engine.settled()

    async def advance(self, duration: Span) -> None:
        """Let time pass; what comes due on the way happens in its order, each at its own time.

        Returns when nothing is running.

        Args:
            duration: How much, >= 0.

        Raises:
            TimeoutError: As `settled`.
        """
        await self._engine.advance(_span(duration))

    async def advance_to_next(self) -> timedelta:
        """Let time pass until the next thing that is due has happened; for retries and the like.

        Returns:
            How much passed; nothing if nothing is due, ever.

        Raises:
            TimeoutError: As `settled`.
        """
        return await self._engine.advance_to_next()

    async def replace(self, agent: Agent) -> None:
        """Deploy another declaration of an agent: the old process stops, a new one starts."""
        await self._engine.stop(agent.name)
        await self._engine.start(agent)

    async def crash(self, agent: str) -> None:
        """Kill an agent's process, wherever it is, and start it again.

        What it was about to do is lost, what it recorded is not: its handlers run again.
        """
        await self._engine.crash(agent)

    def _instant(self, when: Span | datetime | None) -> datetime | None:
        return when if when is None or isinstance(when, datetime) else self.now + _span(when)


@asynccontextmanager
async def local_mesh(
    *agents: Agent,
    others: Sequence[str] = (),
    always_replay: bool = False,
    start: datetime | None = None,
    patience_s: float = 10.0,
) -> AsyncGenerator[LocalMesh]:
    """Run agents in this process, without a server, on a clock that stands still.

    Args:
        agents: Which; each gets one process.
        others: Names of agents that exist but do not run here: what is handed to them stays there.
            To have an answer from one, declare a small agent of that name in the test.
        always_replay: Run every handler again over its record after each thing that came back: one
            that does not always take the same way is parked at once.
        start: What time it is, aware; 2026-01-01 UTC by default.
        patience_s: How many real seconds may pass until nothing is running; `math.inf` for a
            debugger.

    Raises:
        HandlerInvalid: An agent has no handler.
        ValueError: Two agents have one name.
    """
    names = [*(agent.name for agent in agents), *others]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"there are two agents `{min(twice)}`")
    limits = Limits(
        claim_after_s=_NEVER_S, hold_s=0, drain_s=1, wakes_apart_s=0, always_replay=always_replay
    )
    engine = Engine(limits, patience_s, ManualClock(start) if start else ManualClock())
    await engine.know(others)
    ready = anyio.Event()

    async def run() -> None:
        await engine.run(agents, ready)

    async with (
        # Outermost, so that what a test raises leaves as itself and not in a group.
        beside(run, engine.record, engine.journal.follow),
        open_desk(engine.gateway()) as desk,
    ):
        await ready.wait()
        yield LocalMesh(engine, desk)


def _span(duration: Span) -> timedelta:
    return duration if isinstance(duration, timedelta) else timedelta(seconds=duration)
