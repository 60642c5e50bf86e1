"""What a leg has recorded: what its handler asked for, and what came back, in order.

A handler runs again over this: each thing it asks for must be what stands at its ordinal, and what
comes back reaches it in the order of the log, so that every run takes the same way.

Source: design, section 4.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from heapq import heappop, heappush

from mesh.core import event as e
from mesh.core.envelope import Record

__all__ = ["Asked", "Completion", "LegRecord", "Question"]

Completion = e.StepRecorded | e.ChildFinished | e.TimerFired | e.InputReceived | e.Signaled
"""What comes back to a handler."""
Question = (
    e.StepRecorded
    | e.AttemptFailed
    | e.Delegated
    | e.TimerSet
    | e.InputRequested
    | e.CompensationRegistered
    | e.Spent
)
"""What a handler asked for, as it is recorded."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a handler asked for at an ordinal: `step`, `delegate`, `sleep`, `ask`, and its name."""

    verb: str
    name: str
    event: Question

    def __str__(self) -> str:
        return f"{self.verb} `{self.name}`" if self.name else self.verb


class LegRecord:
    """The record of one leg, growing.

    Args:
        owner: The leg's agent; reports to anybody else are not for it.
        opened_position: Where the leg was opened; what stands before belongs to other legs.
    """

    def __init__(self, owner: str, opened_position: int) -> None:
        self._owner, self._opened_position = owner, opened_position
        self._known: set[int] = set()
        self._waiting: list[tuple[int, Completion]] = []
        self._failed_step = 0
        self.fired: set[str] = set()
        """Timers that fired."""
        self.asked: dict[int, Asked] = {}
        """By ordinal, 1-based."""
        self.attempts: dict[int, list[e.AttemptFailed]] = {}
        """Failed attempts of steps and undos since the last redrive, by ordinal."""
        self.told = 0
        """Characters that the handler itself emitted, as far as they are recorded."""

    @property
    def last_ordinal(self) -> int:
        """The highest ordinal that is recorded, 0 if none is."""
        return max(self.asked, default=0)

    def add(self, records: Iterable[Record]) -> None:
        """Take in more of the history; what is known already changes nothing."""
        for record in records:
            if record.position < self._opened_position or record.position in self._known:
                continue
            self._known.add(record.position)
            if record.envelope is not None:
                self._take(record.position, record.envelope.to, record.envelope.event)

    @property
    def has_next(self) -> bool:
        """Whether something that is known did not come back yet."""
        return bool(self._waiting)

    def next(self) -> Completion | None:
        """What comes back next, in the order of the log; None if nothing that is known does."""
        return heappop(self._waiting)[1] if self._waiting else None

    def retry_at(self, ordinal: int) -> datetime | None:
        """When a failed step or undo may be tried again; None if it did not fail."""
        attempts = self.attempts.get(ordinal)
        return attempts[-1].retry_at if attempts else None

    def _take(self, position: int, to: str, event: e.TaskEvent) -> None:
        mine = not event.undoes if isinstance(event, e.StepRecorded) else to == self._owner
        if isinstance(event, Completion) and mine:
            heappush(self._waiting, (position, event))
        if isinstance(event, e.TimerFired):
            self.fired.add(event.timer_id)
        if isinstance(event, e.AttemptFailed) and event.ordinal:
            self.attempts.setdefault(event.ordinal, []).append(event)
        elif isinstance(event, e.DeadLettered):
            self._failed_step = event.step
        elif isinstance(event, e.Redriven):
            self._forget_failures()
        elif isinstance(event, e.ProgressReported) and event.run and not event.by_step:
            self.told += len(event.text)
        if isinstance(event, Question) and (asked := _asked(event)):
            known = self.asked.get(event.ordinal)
            if known is None or known.verb == asked.verb:  # an undo fails at its registration's
                self.asked[event.ordinal] = asked

    def _forget_failures(self) -> None:
        """A redrive tries again what the dead letter was about."""
        failed, self._failed_step = self._failed_step, 0
        self.attempts.clear()
        self.asked = {
            ordinal: asked
            for ordinal, asked in self.asked.items()
            if ordinal != failed and not isinstance(asked.event, e.AttemptFailed)
        }
        self._waiting = [
            (position, event)
            for position, event in self._waiting
            if not (isinstance(event, e.StepRecorded) and event.ordinal == failed)
        ]


def _asked(event: Question) -> Asked | None:
    """What a handler asked for; None for what it did not."""
    if not event.ordinal:
        return None  # an undo, a pause before a retry, a run of the handler
    match event:
        case e.StepRecorded() | e.AttemptFailed():
            return Asked("step", event.name, event)
        case e.Delegated():
            return Asked("delegate", event.agent, event)
        case e.TimerSet():
            return Asked("sleep", "", event)
        case e.InputRequested():
            return Asked("ask", "", event)
        case e.CompensationRegistered():
            return Asked("compensate", event.name, event)
        case e.Spent():
            return Asked("spend", event.counter, event)
