"""A leg: one agent's time with a task, as far as the log must know it to say who carries it.

It holds what is open: children that have not reported, timers that have not fired, questions
without an answer, undos that have not run; and, while the leg is suspended, the waits that are not
met. Values of steps and results of children are not here: who needs them reads the history.

Source: design, section 4.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TypeVar

from mesh.core.event import Parked, Wait
from mesh.core.payload import Failure

__all__ = [
    "CHILD",
    "DEADLINE",
    "INPUT",
    "SIGNAL",
    "TIMER",
    "Child",
    "Leg",
    "Question",
    "Timer",
    "Undo",
    "arrived",
    "signal_id",
    "suspended",
    "without",
]

T = TypeVar("T")
CHILD, TIMER, INPUT, SIGNAL = "child", "timer", "input", "signal"
"""What can be waited for."""
_OPEN = (CHILD, TIMER, INPUT)
"""What stands in a leg until it comes."""
DEADLINE = "deadline"
"""Id of the timer of a task's deadline, which nobody sets: the submit carries it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A task that was delegated and has not reported; `budget` is reserved for it."""

    id: str
    agent: str
    budget: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True, slots=True, kw_only=True)
class Timer:
    """A timer that was set and has not fired."""

    id: str
    fires_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question to a person that is open; it expires unless `expires_at` is None."""

    id: str
    prompt: str = ""
    json_schema: str = ""
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Undo:
    """A compensation that was registered and has not run."""

    ordinal: int
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """What is open in a leg.

    `opened_id` and `opened_position` are of the delivery that opened it; a redrive goes on with the
    same leg. `waits` are those not met yet, empty unless `suspended`. `parked` is set while the
    task is held. `attempts` and `failure` are carried over a pause before a retry. `failed` are
    the children that ended without a result, and the questions that expired.
    """

    opened_id: str
    opened_position: int
    children: tuple[Child, ...] = ()
    timers: tuple[Timer, ...] = ()
    questions: tuple[Question, ...] = ()
    signals: Mapping[str, int] = field(default_factory=dict[str, int])
    undos: tuple[Undo, ...] = ()
    suspended: bool = False
    waits: tuple[Wait, ...] = ()
    parked: Parked | None = None
    attempts: int = 0
    failure: Failure | None = None
    failed: tuple[str, ...] = ()

    @property
    def idle(self) -> bool:
        """Whether nobody carries the leg: it waits, or is held."""
        return self.suspended or self.parked is not None


def signal_id(name: str, number: int) -> str:
    """Id of the wait for the `number`-th signal of a name in a leg, 1-based."""
    return f"{name}/{number}"


def suspended(leg: Leg, waits: tuple[Wait, ...]) -> Leg | None:
    """The leg with what it still waits for; None if a group of the waits is met already."""
    if any(wait.fail_fast and wait.id in leg.failed for wait in waits):
        return None
    still = {(CHILD, child.id) for child in leg.children}
    still |= {(TIMER, timer.id) for timer in leg.timers}
    still |= {(INPUT, question.id) for question in leg.questions}
    open_waits = tuple(
        wait
        for wait in waits
        if ((wait.what, wait.id) in still if wait.what in _OPEN else not _signaled(leg, wait))
    )
    if {wait.group for wait in waits} - {wait.group for wait in open_waits}:
        return None
    return replace(leg, suspended=True, waits=open_waits)


def arrived(leg: Leg, what: str, id: str, *, failed: bool = False) -> tuple[Leg, bool]:
    """The leg without the wait for this, and whether a whole group of its waits is met by it.

    Args:
        leg: Where it is waited for, or not.
        what: What came.
        id: Which one.
        failed: It came without a result.
    """
    if failed:
        leg = replace(leg, failed=(*leg.failed, id))
    met = [wait for wait in leg.waits if wait.id == id and wait.what == what]
    if not met:
        return leg, False
    if failed and any(wait.fail_fast for wait in met):
        return leg, True
    waits = leg.waits
    for wait in met:
        waits = without(waits, wait)
    # Most groups are large and not met: looking for one that is left is short.
    whole = any(all(left.group != wait.group for left in waits) for wait in met)
    return replace(leg, waits=waits), whole


def without(items: tuple[T, ...], item: T) -> tuple[T, ...]:
    """The items without one of them; that one itself, not one that is equal."""
    for index, other in enumerate(items):
        if other is item:
            return items[:index] + items[index + 1 :]
    return items


def _signaled(leg: Leg, wait: Wait) -> bool:
    name, _, number = wait.id.rpartition("/")
    return number.isdigit() and leg.signals.get(name, 0) >= int(number)
