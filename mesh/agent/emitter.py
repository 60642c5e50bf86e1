"""Live output of a handler: shown at once, outside the log, and recorded with the next append.

A chunk is known by its run and its number in it. What is not recorded yet is kept, and shown again
to whoever missed it; what is recorded stands in the log as `ProgressReported`.

Source: design, section 1.
"""

import json
from collections import deque
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass

import anyio
import anyio.from_thread

from mesh.agent.ports import Ports
from mesh.agent.record import LegRecord
from mesh.agent.turn import Turn
from mesh.core import event as e
from mesh.errors import MeshError

__all__ = ["EMIT_TOPIC", "RESEND_TOPIC", "Emitter"]

EMIT_TOPIC, RESEND_TOPIC = "emit", "resend"
"""Chunks are hints on `emit.<task>`; a hint on `resend.<task>` asks for those not recorded.

A hint is JSON: `run`, `number` of the first of its chunks, the `texts` of one or more, and `after`,
the position of the last event of the task that the run knew.
"""
_RECORD_CHARS = 64 * 1024
"""Most text of one recorded event."""
_CHUNK_CHARS = 16 * 1024
_FLUSH_S = 0.2


@dataclass(frozen=True, slots=True)
class _Chunk:
    """One chunk; `after` is the last event that the run knew, so that watchers can order both."""

    number: int
    text: str
    by_step: bool
    after: int


class Emitter:
    """Shows what one run of a handler emits.

    Args:
        ports: The outside world.
        turn: The turn that carries the run.
        record: What earlier runs have recorded: what the handler says again is not shown again.
        start: Called at the first chunk: `publish` is to run from then on.
    """

    def __init__(
        self, ports: Ports, turn: Turn, record: LegRecord, start: Callable[[], None]
    ) -> None:
        self._bus, self._turn, self._record, self._start = ports.bus, turn, record, start
        self._run = ports.ids.fresh()
        self._kept: list[_Chunk] = []
        self._unsent: deque[_Chunk] = deque()
        self._emitted = self._told = 0
        self._came = anyio.Event()

    @property
    def used(self) -> bool:
        """Whether anything was emitted."""
        return self._emitted > 0

    def emit(self, text: str, *, handler: Container[int]) -> None:
        """Show text, from the event loop or from the thread of a step.

        Args:
            text: It.
            handler: Ids of the tasks that run the handler; any other is a step, which runs again
                only if it is not recorded, and then shows again what it shows.
        """
        try:
            by_step = anyio.get_current_task().id not in handler
        except anyio.NoEventLoopError:
            anyio.from_thread.run_sync(self._emit, text, True)
        else:
            self._emit(text, by_step)

    def resend(self) -> None:
        """Show again what is not recorded."""
        self._unsent = deque(self._kept)
        self._came.set()

    def recorded(self) -> list[e.TaskEvent]:
        """What to append of the text since the last append; `forget` it once it is stored."""
        return [
            e.ProgressReported(
                text="".join(chunk.text for chunk in chunks),
                run=self._run,
                first_number=chunks[0].number,
                last_number=chunks[-1].number,
                by_step=chunks[0].by_step,
            )
            for chunks in _together(self._kept)
        ]

    def forget(self, upto: int) -> None:
        """The text of the chunks up to this number is stored."""
        self._kept = [chunk for chunk in self._kept if chunk.number > upto]

    @property
    def last(self) -> int:
        """Number of the last chunk."""
        return self._emitted

    async def publish(self) -> None:
        """Send chunks as they come, for ever."""
        while True:
            await self._came.wait()
            self._came = anyio.Event()
            await self._send()

    async def flush(self) -> None:
        """Send what is left, if that goes at once."""
        with anyio.move_on_after(_FLUSH_S):
            await self._send()

    def _emit(self, text: str, by_step: bool) -> None:
        if not by_step:
            known = max(0, self._record.told - self._told)
            self._told += len(text)
            text = text[known:]
        if text and not self._emitted:
            self._start()
        after = self._turn.task.position
        for start in range(0, len(text), _CHUNK_CHARS):
            self._emitted += 1
            chunk = _Chunk(self._emitted, text[start : start + _CHUNK_CHARS], by_step, after)
            self._kept.append(chunk)
            self._unsent.append(chunk)
        self._came.set()

    async def _send(self) -> None:
        topic = f"{EMIT_TOPIC}.{self._turn.cause.task_id}"
        while self._unsent:
            chunks = self._take_unsent()
            shown = {
                "run": self._run,
                "number": chunks[0].number,
                "texts": [chunk.text for chunk in chunks],
                "after": chunks[0].after,
            }
            try:
                await self._bus.hint(topic, json.dumps(shown).encode())
            except MeshError:
                return  # nobody sees it live; it is recorded all the same

    def _take_unsent(self) -> list[_Chunk]:
        """What goes with one hint: what was said token by token would be too many of them."""
        chunks = [self._unsent.popleft()]
        size = len(chunks[0].text)
        while self._unsent and self._unsent[0].after == chunks[0].after:
            size += len(self._unsent[0].text)
            if size > _CHUNK_CHARS:
                break
            chunks.append(self._unsent.popleft())
        return chunks


def _together(chunks: list[_Chunk]) -> Iterator[list[_Chunk]]:
    """Chunks as they are recorded: of one source each, and not too many."""
    group: list[_Chunk] = []
    size = 0
    for chunk in chunks:
        size += len(chunk.text)
        if group and (size > _RECORD_CHARS or chunk.by_step != group[0].by_step):
            yield group
            group, size = [], len(chunk.text)
        group.append(chunk)
    if group:
        yield group
