"""What a handler asks for in one run: each thing must be what is recorded at its ordinal.

Source: design, section 4.
"""

from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from mesh.agent.context import NOTHING
from mesh.agent.offspring import Spawn, child
from mesh.agent.operation import Leaf, Operation, Scheduler
from mesh.agent.payload import decode_value, encode_value
from mesh.agent.ports import Ports
from mesh.agent.record import Asked, Completion, LegRecord
from mesh.agent.retry import Retry
from mesh.agent.returned import outcome_of
from mesh.agent.step import Step
from mesh.agent.turn import Turn
from mesh.blob.claim import check_in
from mesh.core import event as e
from mesh.core.envelope import Envelope
from mesh.core.guards import check_delegation, check_spend, child_budget
from mesh.core.ids import derived_id
from mesh.core.leg import CHILD, INPUT, SIGNAL, TIMER, signal_id
from mesh.core.payload import Payload
from mesh.core.subject import check_name
from mesh.errors import (
    PayloadInvalid,
    Refused,
)

__all__ = ["Asking", "Diverged", "Draft"]

_NOW = "ctx.now"
STEP = "step"

Draft = Callable[[], Awaitable[tuple[e.TaskEvent, Envelope | None]]]
"""Makes an event to append, and the first event of a child if it delegates."""

# Any: the types of what a handler asks for are its author's.


class Diverged(BaseException):
    """Ends a run that asked for something else than its history recorded."""


@dataclass(frozen=True, slots=True)
class _Awaited:
    """An operation, the type that its value is to have, and where it was asked for."""

    operation: Operation[Any]
    kind: Any
    ordinal: int


class Asking:
    """Gives operations to a handler, and resolves them with what comes back.

    Attributes:
        ordinal: Of the last thing asked for, 1-based.
        opened_id: What ids are derived from.
        outbox: What is to be appended, in order.
        undos: Compensations by ordinal, registered in this run.
        tripped: The guard that ends the task.
        parked: Where the run left its record.
    """

    def __init__(
        self, scheduler: Scheduler, turn: Turn, ports: Ports, record: LegRecord, opened_id: str
    ) -> None:
        self._scheduler, self._turn, self._ports, self._record = scheduler, turn, ports, record
        self.opened_id = opened_id
        self.ordinal = 0
        self.outbox: list[Draft] = []
        self.undos: dict[int, Step] = {}
        self.tripped: Refused | None = None
        self.parked: e.Parked | None = None
        self._awaited: dict[tuple[str, str], _Awaited] = {}
        self._early: dict[tuple[str, str], Completion] = {}
        self._found: deque[tuple[_Awaited, Completion]] = deque()
        self._steps: dict[int, Step] = {}
        self._signals: tuple[Counter[str], Counter[str]] = Counter(), Counter()
        self._spending: Counter[str] = Counter()
        self._names: dict[int, str] = {}

    def step(
        self, name: str, fn: Callable[..., Any], args: tuple[Any, ...], retry: Retry, kind: Any
    ) -> Operation[Any]:
        """A function to run once."""
        ordinal, _ = self._next(STEP, name)
        self._steps[ordinal] = self._step(ordinal, name, fn, args, retry)
        operation: Operation[Any] = Operation(self._scheduler)
        return self._await(STEP, str(ordinal), _Awaited(operation, kind, ordinal))

    def delegate(self, agent: str, input: Any, spawn: Spawn, kind: Any) -> Operation[Any]:
        """A child task."""
        ordinal, asked = self._next("delegate", check_name(agent))
        child_id = derived_id(self.opened_id, e.Delegated.kind, ordinal)
        if asked is None:
            self._guard(lambda: check_delegation(self._turn.task, agent))
            for counter, amount in spawn.budget.items():
                self._reserve(counter, amount)
            event = e.Delegated(
                ordinal=ordinal,
                child_task_id=child_id,
                agent=agent,
                budget=child_budget(self._turn.task, spawn.budget),
            )
            payload = encode_value(input)
            self.outbox.append(lambda: self._delegated(event, payload, spawn))
        return self._leaf(CHILD, child_id, kind, ordinal)

    def sleep(self, until: Callable[[], datetime]) -> Operation[None]:
        """A timer."""
        ordinal, asked = self._next("sleep", "")
        timer_id = derived_id(self.opened_id, e.TimerSet.kind, ordinal)
        if asked is None:
            self._tell(e.TimerSet(ordinal=ordinal, timer_id=timer_id, fires_at=until()))
        return self._leaf(TIMER, timer_id, None, ordinal)

    def ask(
        self, prompt: str, json_schema: str, expires_at: datetime | None, default: Any, kind: Any
    ) -> Operation[Any]:
        """A question to a person."""
        ordinal, asked = self._next("ask", "")
        request_id = derived_id(self.opened_id, e.InputRequested.kind, ordinal)
        if asked is None:
            event = e.InputRequested(
                ordinal=ordinal,
                request_id=request_id,
                prompt=prompt,
                json_schema=json_schema,
                expires_at=expires_at,
                default=None if default is NOTHING else encode_value(default),
            )
            self._tell(event)
        return self._leaf(INPUT, request_id, kind, ordinal)

    def signal(self, name: str, kind: Any) -> Operation[Any]:
        """The next signal of a name that this leg did not ask for yet."""
        ordinal, _ = self._next("signal", check_name(name))
        wanted, _ = self._signals
        wanted[name] += 1
        return self._leaf(SIGNAL, signal_id(name, wanted[name]), kind, ordinal)

    def compensate(self, fn: Callable[..., Any], args: tuple[Any, ...], retry: Retry) -> None:
        """An undo, to be registered before anything else is done."""
        name = getattr(fn, "__qualname__", type(fn).__qualname__)
        ordinal, asked = self._next("compensate", name)
        self.undos[ordinal] = self._step(ordinal, name, fn, args, retry, undoes=ordinal)
        if asked is None:
            argument = encode_value(list(args))
            event = e.CompensationRegistered(ordinal=ordinal, name=name, argument=argument)
            self._tell(event)

    def spend(self, counter: str, amount: int) -> None:
        """Use so much of a counter."""
        ordinal, asked = self._next("spend", check_name(counter))
        if asked is None:
            self._reserve(counter, amount)
            self._tell(e.Spent(counter=counter, amount=amount, ordinal=ordinal))

    def now(self) -> datetime:
        """This instant; recorded."""
        ordinal, asked = self._next(STEP, _NOW)
        if asked is not None and isinstance(asked.event, e.StepRecorded) and asked.event.value:
            found: datetime = decode_value(asked.event.value, datetime)
            return found
        now = self._ports.clock.now()
        self._tell(e.StepRecorded(ordinal=ordinal, name=_NOW, value=encode_value(now)))
        return now

    async def feed(self, completion: Completion) -> None:
        """Give the handler what came back; it is kept for later if nobody asked for it yet."""
        key = self._key(completion)
        awaited = self._awaited.get(key)
        if awaited is None and isinstance(completion, e.TimerFired):
            awaited = self._awaited.get((INPUT, completion.timer_id))
        if awaited is None:
            self._early[key] = completion
        else:
            await self._resolve(awaited, completion)

    async def feed_early(self) -> bool:
        """Give the handler one thing that had come back before it was asked for; False if none."""
        if not self._found:
            return False
        await self._resolve(*self._found.popleft())
        return True

    def unrecorded_steps(self) -> list[Step]:
        """Steps that were asked for and have no result."""
        return [
            step
            for ordinal, step in self._steps.items()
            if not self._awaited[STEP, str(ordinal)].operation.done
        ]

    def expecting(self) -> bool:
        """Whether a signal is waited for."""
        return any(
            what == SIGNAL and not awaited.operation.done
            for (what, _), awaited in self._awaited.items()
        )

    def forgotten(self) -> list[str]:
        """What was asked for and never awaited, so that it was dropped with the run."""
        return [
            self._names[awaited.ordinal]
            for awaited in self._awaited.values()
            if not awaited.operation.used
        ]

    def lacks_undo(self) -> bool:
        """Whether an undo that is to run was not registered in this run."""
        leg = self._turn.task.leg
        return leg is not None and any(undo.ordinal not in self.undos for undo in leg.undos)

    def park_unasked(self, asked: str) -> None:
        """The record goes on, but the handler does not ask for what stands there."""
        ordinal = self.ordinal + 1
        while ordinal not in self._record.asked:
            ordinal += 1
        recorded = str(self._record.asked[ordinal])
        self.parked = e.Parked(ordinal=ordinal, recorded=recorded, asked=asked)

    def leftover(self) -> list[e.TaskEvent]:
        """What of the outbox goes with the outcome: facts, but nothing that was still to do."""
        told = [draft.event for draft in self.outbox if isinstance(draft, Told)]
        return [event for event in told if isinstance(event, e.Spent | e.StepRecorded)]

    def _next(self, verb: str, name: str) -> tuple[int, Asked | None]:
        self._scheduler.check_inside()
        self.ordinal += 1
        self._names[self.ordinal] = f"{verb} `{name}`" if name else verb
        asked = self._record.asked.get(self.ordinal)
        if asked is not None and (asked.verb, asked.name) != (verb, name):
            self.parked = e.Parked(
                ordinal=self.ordinal,
                recorded=str(asked),
                asked=self._names[self.ordinal],
            )
            raise Diverged
        return self.ordinal, asked

    def _step(
        self,
        ordinal: int,
        name: str,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        retry: Retry,
        undoes: int = 0,
    ) -> Step:
        key = derived_id(self.opened_id, "undo" if undoes else STEP, ordinal)
        return Step(
            ordinal=ordinal, name=name, fn=fn, args=args, retry=retry, key=key, undoes=undoes
        )

    def _leaf(self, what: str, id: str, kind: Any, ordinal: int) -> Operation[Any]:
        leaf: Leaf[Any] = Leaf(self._scheduler, what, id)
        return self._await(what, id, _Awaited(leaf, kind, ordinal))

    def _await(self, what: str, id: str, awaited: _Awaited) -> Operation[Any]:
        self._awaited[what, id] = awaited
        early = self._early.pop((what, id), None)
        if early is not None:
            self._found.append((awaited, early))
        return awaited.operation

    async def _resolve(self, awaited: _Awaited, completion: Completion) -> None:
        if awaited.operation.done:
            return  # a repeat, or the second of an answer and an expiry
        outcome = await self._outcome(awaited, completion)
        if self.parked is None:
            awaited.operation.resolve(outcome)

    def _tell(self, event: e.TaskEvent) -> None:
        self.outbox.append(Told(event))

    def _guard(self, check: Callable[[], object]) -> None:
        try:
            check()
        except Refused as error:
            self.tripped = error
            raise

    def _reserve(self, counter: str, amount: int) -> None:
        pending = self._spending[counter]
        self._guard(lambda: check_spend(self._turn.task, counter, amount, pending=pending))
        self._spending[counter] = pending + amount

    def sent(self) -> None:
        """What was in the outbox is stored, and counted in the task."""
        self._spending.clear()

    async def _delegated(
        self, event: e.Delegated, payload: Payload, spawn: Spawn
    ) -> tuple[e.TaskEvent, Envelope]:
        ports = self._ports
        await ports.require_agent(event.agent)
        turn = self._turn
        caused = replace(
            turn.cause.next(event, event_id="", sender=turn.sender, occurred_at=ports.clock.now()),
            attempt=turn.attempt,
            started_at=turn.started_at,
        )
        input = await check_in(payload, ports.blobs)
        return event, child(turn.task, caused, event, spawn, input)

    def _key(self, completion: Completion) -> tuple[str, str]:
        match completion:
            case e.StepRecorded():
                return STEP, str(completion.ordinal)
            case e.ChildFinished():
                return CHILD, completion.child_task_id
            case e.TimerFired():
                return TIMER, completion.timer_id
            case e.InputReceived():
                return INPUT, completion.request_id
            case e.Signaled():
                _, arrived = self._signals
                arrived[completion.name] += 1
                return SIGNAL, signal_id(completion.name, arrived[completion.name])

    async def _outcome(self, awaited: _Awaited, completion: Completion) -> Any:
        asked = self._record.asked.get(awaited.ordinal)
        question = asked.event if asked else None
        outcome = await outcome_of(
            completion, question, awaited.kind, self._ports.blobs, self._turn.cause.task_id
        )
        if isinstance(completion, e.StepRecorded) and isinstance(outcome, PayloadInvalid):
            self.parked = e.Parked(
                ordinal=completion.ordinal,
                recorded=f"step `{completion.name}` with a value that is not what it returns now",
                asked=str(outcome),
            )
        return outcome


class Told:
    """A draft that is an event already."""

    def __init__(self, event: e.TaskEvent) -> None:
        self.event = event

    async def __call__(self) -> tuple[e.TaskEvent, None]:
        """The event."""
        return self.event, None
