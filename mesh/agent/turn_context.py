"""The context that a running handler is given."""

import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from mesh.agent.checked import a_default, a_function, a_text, amounts, an_amount, parts_of
from mesh.agent.context import NOTHING, Duration, Part
from mesh.agent.execution import Execution
from mesh.agent.offspring import Spawn
from mesh.agent.operation import AllOf, FirstOf, Operation
from mesh.agent.payload import json_schema_of
from mesh.agent.retry import Retry
from mesh.agent.step import return_type
from mesh.clock import Clock
from mesh.core import event as e
from mesh.core.ids import derived_id
from mesh.core.packet import Decision, RelayPacket
from mesh.errors import HandlerInvalid

__all__ = ["TurnContext"]

# Any: values have the types of their authors.


class TurnContext:
    """The context of one run of a handler."""

    def __init__(
        self,
        execution: Execution,
        *,
        retry: Retry,
        packet: RelayPacket,
        clock: Clock,
    ) -> None:
        turn = execution.turn
        self.task_id, self.hop, self.attempt = turn.cause.task_id, turn.task.hops, turn.attempt
        self.packet = packet
        self._execution, self._asking = execution, execution.asking
        self._retry, self._clock = retry, clock
        self._derived = 0
        self._decisions: list[Decision] = []
        self._constraints: list[str] = []

    def step(
        self, name: str, fn: Callable[..., Any], *args: Any, retry: Retry | None = None
    ) -> Operation[Any]:
        """Run a function once."""
        a_function(fn, "`ctx.step`")
        name = a_text(name, "the name of `ctx.step`")
        return self._asking.step(name, fn, args, retry or self._retry, return_type(fn))

    def delegate(
        self,
        agent: str,
        input: Any = None,
        *,
        returns: Any = Any,
        objective: str = "",
        deadline: Duration | datetime | None = None,
        budget: Mapping[str, int] | None = None,
    ) -> Operation[Any]:
        """Start a child task."""
        spawn = Spawn(objective=objective, deadline=self._instant(deadline), budget=amounts(budget))
        agent = a_text(agent, "the agent of `ctx.delegate`")
        return self._asking.delegate(agent, input, spawn, returns)

    def gather(
        self, *parts: Part, failures: Literal["raise", "collect"] = "raise"
    ) -> Operation[Any]:
        """All values, in order."""
        if failures not in ("raise", "collect"):
            raise HandlerInvalid(f'`failures` is "raise" or "collect", not `{failures!r}`')
        return AllOf(self._execution, self._operations(parts), collect=failures == "collect")

    def race(self, *parts: Part) -> Operation[tuple[int, Any]]:
        """The first to come back."""
        parts = parts_of(parts, "`ctx.race`")
        return FirstOf(self._execution, self._operations(parts))

    def sleep(self, duration: Duration) -> Operation[None]:
        """Wait."""
        return self._asking.sleep(lambda: self._clock.now() + _span(duration))

    def sleep_until(self, time: datetime) -> Operation[None]:
        """Wait until an instant."""
        return self._asking.sleep(lambda: _aware(time))

    def ask(
        self,
        prompt: str,
        schema: Any = Any,
        *,
        expires: Duration | datetime | None = None,
        default: Any = NOTHING,
    ) -> Operation[Any]:
        """Ask a person."""
        kind = Any if isinstance(schema, dict) else schema
        if isinstance(schema, str):
            raise HandlerInvalid(f"`ctx.ask` takes a type or a JSON Schema, not `{schema!r}`")
        if default is not NOTHING:
            a_default(default, kind)
            if expires is None:
                raise HandlerInvalid("a `default` of `ctx.ask` takes effect when it `expires`")
        return self._asking.ask(prompt, _schema(schema), self._instant(expires), default, kind)

    def signal(self, name: str, returns: Any = Any) -> Operation[Any]:
        """The next signal of a name."""
        return self._asking.signal(name, returns)

    def compensate(self, fn: Callable[..., Any], *args: Any, retry: Retry | None = None) -> None:
        """Register an undo."""
        a_function(fn, "`ctx.compensate`")
        self._asking.compensate(fn, args, retry or self._retry)

    def spend(self, counter: str, amount: int) -> None:
        """Use so much of a counter."""
        self._asking.spend(counter, an_amount(amount, "`ctx.spend`"))

    def emit(self, text: str) -> None:
        """Show live output."""
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise HandlerInvalid(f"`ctx.emit` takes a str, not `{text!r}`")
        self._execution.emit(text)

    def now(self) -> datetime:
        """This instant."""
        return self._asking.now()

    def uuid(self) -> UUID:
        """The next derived id."""
        return UUID(hex=derived_id(self._asking.opened_id, "ctx.uuid", self._next()))

    def random(self) -> float:
        """The next derived number."""
        seed = derived_id(self._asking.opened_id, "ctx.random", self._next())
        return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:7], "big") / 2**56

    def decide(self, id: str, summary: str, why: str = "") -> None:
        """Note a decision, stored with the outcome."""
        self._execution.check_inside()
        self._decisions.append(Decision(id=id, summary=summary, why=why))

    def constraint(self, rule: str) -> None:
        """Note a standing rule, stored with the outcome."""
        self._execution.check_inside()
        self._constraints.append(rule)

    def notes(self) -> e.Noted | None:
        """What was noted so far, None if nothing."""
        if not self._decisions and not self._constraints:
            return None
        return e.Noted(decisions=tuple(self._decisions), constraints=tuple(self._constraints))

    def _next(self) -> int:
        self._execution.check_inside()
        self._derived += 1
        return self._derived

    def _operations(self, parts: tuple[Part, ...]) -> list[Operation[Any]]:
        return [
            part if isinstance(part, Operation) else self._execution.branch(part) for part in parts
        ]

    def _instant(self, when: Duration | datetime | None) -> datetime | None:
        if when is None or isinstance(when, datetime):
            return _aware(when) if when else None
        return self._clock.now() + _span(when)


def _schema(schema: Any) -> str:
    return json.dumps(schema) if isinstance(schema, dict) else json_schema_of(schema)


def _span(duration: Duration) -> timedelta:
    return duration if isinstance(duration, timedelta) else timedelta(seconds=duration)


def _aware(time: datetime) -> datetime:
    if time.tzinfo is None:
        raise ValueError(f"`{time}` has no time zone; write e.g. datetime.now(UTC)")
    return time
