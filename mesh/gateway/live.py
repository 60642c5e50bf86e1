"""Live output of a task, over hints: heard once for all who watch, put in order for each.

Hints get lost, and come twice when they are asked for again. Nothing here may keep an event back:
what does not arrive in time is left to the events that record it.

Source: design, section 1; `mesh.agent.emitter`.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Any, cast

import anyio

from mesh.bus.port import Bus
from mesh.core.backoff import Backoff
from mesh.core.envelope import Record
from mesh.core.event import ProgressReported
from mesh.errors import MeshError

__all__ = ["Chunk", "LiveFeed", "LiveOrder", "ask_again", "read_chunks"]

_logger = logging.getLogger(__name__)
_GAP_S = 0.25
"""How long a missing chunk keeps those behind it back."""
_ASK_S = 1.0
"""How often one watcher asks for what it misses, at most."""
_HELD = 256
_RUNS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A piece of what one run emits: `number` from 1, `after` the last event that the run knew."""

    run: str
    number: int
    text: str
    after: int = 0


@dataclass(slots=True)
class _Run:
    """What a watcher waits for of one run."""

    next: int = 1
    held: dict[int, Chunk] = field(default_factory=dict[int, Chunk])
    due_s: float = inf


Offer = Callable[[list[Chunk]], None]
"""Takes chunks that came together."""


class LiveOrder:
    """Puts the chunks of a task in order, for one watcher.

    Args:
        run: Run of the last chunk that was seen before, "" for none.
        number: Its number.
    """

    def __init__(self, run: str = "", number: int = 0) -> None:
        self._runs: dict[str, _Run] = {run: _Run(number + 1)} if run else {}
        self._ready: list[Chunk] = []
        self._asked_s = -inf
        self._misses = False

    def put(self, chunk: Chunk, now_s: float) -> None:
        """Take in a chunk that arrived; one that was passed on before changes nothing."""
        run = self._run(chunk.run)
        if chunk.number < run.next:
            return
        run.held[chunk.number] = chunk
        self._release(run, now_s)
        if len(run.held) > _HELD:
            self._skip(run, now_s)

    def note(self, record: Record, now_s: float) -> None:
        """Learn from an event which chunks are recorded: those are waited for no more."""
        event = record.envelope.event if record.envelope else None
        if isinstance(event, ProgressReported) and event.run:
            run = self._run(event.run)
            if event.last_number >= run.next:
                run.next = event.last_number + 1
                run.held = {n: chunk for n, chunk in run.held.items() if n >= run.next}
                self._release(run, now_s)

    def ready(self, now_s: float) -> list[Chunk]:
        """What is to be passed on now; numbers of a run ascend."""
        for run in self._runs.values():
            if run.due_s <= now_s:
                self._skip(run, now_s)
        ready, self._ready = self._ready, []
        return ready

    def wait_s(self, now_s: float) -> float:
        """Seconds until something is ready though nothing more arrives; may be infinite."""
        if self._ready:
            return 0.0
        return max(0.0, min((run.due_s for run in self._runs.values()), default=inf) - now_s)

    def asks(self, now_s: float) -> bool:
        """Whether to ask for what is missing; then it counts as asked for."""
        if not self._misses or now_s < self._asked_s + _ASK_S:
            return False
        self._misses, self._asked_s = False, now_s
        return True

    def _run(self, run: str) -> _Run:
        # The newest stay: an old run, of a worker that was cut off, may still be heard.
        known = self._runs.pop(run, None) or _Run()
        self._runs[run] = known
        if len(self._runs) > _RUNS:
            del self._runs[next(iter(self._runs))]
        return known

    def _release(self, run: _Run, now_s: float) -> None:
        passed = run.next
        while run.next in run.held:
            self._ready.append(run.held.pop(run.next))
            run.next += 1
        if not run.held:
            run.due_s = inf
        elif run.due_s == inf or run.next > passed:
            run.due_s, self._misses = now_s + _GAP_S, True

    def _skip(self, run: _Run, now_s: float) -> None:
        """Go on behind a gap."""
        run.next = min(run.held)
        self._release(run, now_s)


class LiveFeed:
    """Hears what one task emits, while anybody watches it live."""

    def __init__(self, bus: Bus, task_id: str) -> None:
        self._bus, self._task_id = bus, task_id
        self._watchers: list[Offer] = []
        self._listening = False
        self.scope = anyio.CancelScope()

    @property
    def idle(self) -> bool:
        """Whether nobody watches."""
        return not self._watchers

    async def add(self, offer: Offer) -> None:
        """Give chunks to one more watcher, and ask for those that are not recorded yet."""
        self._watchers.append(offer)  # first: from here on it is to be removed
        if self._listening:
            await ask_again(self._bus, self._task_id)

    def remove(self, offer: Offer) -> None:
        """Give it no more."""
        self._watchers.remove(offer)

    async def run(self) -> None:
        """Listen, for ever."""
        backoff, failures = Backoff(limit_s=5.0), 0
        with self.scope:
            while True:
                try:
                    await self._listen()
                except MeshError as error:
                    _logger.info("live output of task %s: %s", self._task_id, error)
                self._listening = False
                failures += 1
                await anyio.sleep(backoff.delay_s(failures, 0.5))

    async def _listen(self) -> None:
        async with self._bus.hints(f"emit.{self._task_id}") as hints:
            # Not before: what is shown again must find somebody who listens.
            self._listening = True
            await ask_again(self._bus, self._task_id)
            async for hint in hints:
                chunks = read_chunks(hint.data)
                for offer in self._watchers if chunks else ():
                    offer(chunks)


async def ask_again(bus: Bus, task_id: str) -> None:
    """Ask whoever runs a task to show again what is not recorded; it may get lost."""
    await bus.hint(f"resend.{task_id}")


def read_chunks(data: bytes) -> list[Chunk]:
    """The chunks that a hint carries, numbers ascending; none if it is anything else."""
    try:
        found: Any = json.loads(data)  # Any: it comes from the network
    except ValueError:
        return []
    if not isinstance(found, dict):
        return []
    told = cast("dict[str, Any]", found)
    run, first, texts, after = (told.get(name) for name in ("run", "number", "texts", "after"))
    if not (isinstance(run, str) and isinstance(first, int) and isinstance(after, int)):
        return []
    parts = cast("list[object]", texts) if isinstance(texts, list) else []
    return [
        Chunk(run=run, number=number, text=str(text), after=after)
        for number, text in enumerate(parts, max(1, first))
    ]
