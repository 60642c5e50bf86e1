"""What a handler asks for and waits for: one thing, all of several, or the first of several.

Nothing here does anything: an operation is resolved by the execution that made it.
"""

from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Generic, Protocol, TypeVar, cast

from mesh.core.event import Wait

__all__ = ["AllOf", "Branch", "FirstOf", "Leaf", "Operation", "Scheduler"]

T = TypeVar("T")
Groups = list[tuple[Wait, ...]]
"""Groups of waits; the leg is to go on when any one group is met."""

# Any: what an operation gives has the type that its caller knows.


class Scheduler(Protocol):
    """Who lets a branch of a handler wait, and lets it go on."""

    async def wait(self, operation: "Operation[Any]") -> None:
        """Return once the operation is done."""
        ...

    def check_inside(self) -> None:
        """Whether the handler itself is asking, or a branch of it.

        Raises:
            HandlerInvalid: It is not.
        """
        ...

    def ready(self, operation: "Operation[Any]") -> None:
        """Let who waits for the operation go on, in its turn."""
        ...


class Operation(Generic[T]):
    """Something asked for; `await` it for its value, as often as you like, or gather it."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._outcome: T | Exception | None = None
        self._watchers: list[Callable[[], None]] = []
        self.done = False
        self.used = False
        """Whether anybody waits, or waited, for it."""

    def __await__(self) -> Generator[Any, Any, T]:
        self.used = True
        if not self.done:
            yield from self._scheduler.wait(self).__await__()
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return cast("T", self._outcome)

    @property
    def outcome(self) -> T | Exception | None:
        """The value or the error, once it is done."""
        return self._outcome

    def resolve(self, outcome: T | Exception) -> None:
        """It is done; a second time changes nothing."""
        if self.done:
            return
        self.done, self._outcome = True, outcome
        self._scheduler.ready(self)
        for watcher in self._watchers:
            watcher()

    def watch(self, watcher: Callable[[], None]) -> None:
        """Call when it is done."""
        self.used = True
        self._watchers.append(watcher)

    def groups(self) -> Groups:
        """What a suspended leg must wait for; empty if nothing outside can resolve it."""
        return []


class Leaf(Operation[T]):
    """A child, a timer, a question or a signal: one wait."""

    def __init__(self, scheduler: Scheduler, what: str, id: str) -> None:
        super().__init__(scheduler)
        self.what, self.id = what, id

    def groups(self) -> Groups:
        """The one wait."""
        return [] if self.done else [(Wait(what=self.what, id=self.id),)]


class Branch(Operation[T]):
    """A coroutine that runs beside its handler."""

    def __init__(self, scheduler: Scheduler, coroutine: Awaitable[T]) -> None:
        super().__init__(scheduler)
        self.coroutine = coroutine


class AllOf(Operation[list[Any]]):
    """All of several, in their order."""

    def __init__(
        self, scheduler: Scheduler, parts: Sequence[Operation[Any]], *, collect: bool
    ) -> None:
        super().__init__(scheduler)
        self._parts, self._collect = parts, collect
        self._missing = sum(1 for part in parts if not part.done)
        for part in parts:
            part.used = True
            if part.done:
                self._look(part)
            else:
                part.watch(partial(self._count, part))
        if not self._missing:
            self._finish()

    def groups(self) -> Groups:
        """All at once where each part is a single wait; otherwise whatever lets a part go on."""
        found = [part.groups() for part in self._parts if not part.done]
        if all(len(groups) == 1 for groups in found):
            waits = (wait for groups in found for wait in groups[0])
            fast = not self._collect
            return [tuple(replace(wait, fail_fast=fast) for wait in waits)] if found else []
        return [group for groups in found for group in groups]

    def _count(self, part: Operation[Any]) -> None:
        self._missing -= 1
        self._look(part)
        if not self._missing:
            self._finish()

    def _look(self, part: Operation[Any]) -> None:
        if not self._collect and isinstance(part.outcome, Exception):
            self.resolve(part.outcome)

    def _finish(self) -> None:
        self.resolve([part.outcome for part in self._parts])


class FirstOf(Operation[tuple[int, Any]]):
    """The first of several: which one, and what it gave."""

    def __init__(self, scheduler: Scheduler, parts: Sequence[Operation[Any]]) -> None:
        super().__init__(scheduler)
        self._parts = parts
        for index, part in enumerate(parts):
            part.used = True
            if part.done:
                self._won(index)
            else:
                part.watch(partial(self._won, index))

    def groups(self) -> Groups:
        """Any of them."""
        return [group for part in self._parts if not part.done for group in part.groups()]

    def _won(self, index: int) -> None:
        outcome = self._parts[index].outcome
        self.resolve(outcome if isinstance(outcome, Exception) else (index, outcome))
