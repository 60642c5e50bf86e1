"""Live output of a handler: shown at once, outside the log, and recorded with the next append.

A chunk is known by its run and its number in it. What is not recorded yet is kept, and shown again
to whoever missed it; what is recorded stands in the log as `ProgressReported`.

Source: design, section 1.
"""

import json
from collections import deque
from collections.abc import Callable

import anyio
import anyio.from_thread

from mesh.bus.port import Bus
from mesh.core import event as e
from mesh.errors import MeshError

__all__ = ["EMIT_TOPIC", "RESEND_TOPIC", "Emitter"]

EMIT_TOPIC, RESEND_TOPIC = "emit", "resend"
"""Chunks are hints on `emit.<task>`; a hint on `resend.<task>` asks for those not recorded."""
_RECORD_CHARS = 64 * 1024
"""Most text of one recorded event."""
_CHUNK_CHARS = 16 * 1024
_FLUSH_S = 0.2


class Emitter:
    """Shows what one run of a handler emits.

    Args:
        bus: For the hints.
        task_id: Whose output it is.
        run: Id of the run.
        start: Called at the first chunk: `publish` is to run from then on.
    """

    def __init__(self, bus: Bus, task_id: str, run: str, start: Callable[[], None]) -> None:
        self._bus, self._task_id, self._run, self._start = bus, task_id, run, start
        self._kept: list[tuple[int, str]] = []
        self._unsent: deque[tuple[int, str]] = deque()
        self._emitted = 0
        self._came = anyio.Event()

    @property
    def used(self) -> bool:
        """Whether anything was emitted."""
        return self._emitted > 0

    def emit(self, text: str) -> None:
        """Show a chunk; from the event loop, or from the thread of a step."""
        try:
            anyio.get_current_task()
        except anyio.NoEventLoopError:
            anyio.from_thread.run_sync(self._emit, text)
        else:
            self._emit(text)

    def resend(self) -> None:
        """Show again what is not recorded."""
        self._unsent = deque(self._kept)
        self._came.set()

    def recorded(self) -> list[e.TaskEvent]:
        """What to append of the text since the last append; `forget` it once it is stored."""
        text = "".join(chunk for _, chunk in self._kept)
        return [
            e.ProgressReported(text=text[start : start + _RECORD_CHARS])
            for start in range(0, len(text), _RECORD_CHARS)
        ]

    def forget(self, upto: int) -> None:
        """The text of the chunks up to this number is stored."""
        self._kept = [(number, text) for number, text in self._kept if number > upto]

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

    def _emit(self, text: str) -> None:
        if not self._emitted:
            self._start()
        for start in range(0, len(text), _CHUNK_CHARS):
            self._emitted += 1
            chunk = (self._emitted, text[start : start + _CHUNK_CHARS])
            self._kept.append(chunk)
            self._unsent.append(chunk)
        self._came.set()

    async def _send(self) -> None:
        while self._unsent:
            number, text = self._unsent.popleft()
            chunk = {"run": self._run, "number": number, "text": text}
            try:
                await self._bus.hint(f"{EMIT_TOPIC}.{self._task_id}", json.dumps(chunk).encode())
            except MeshError:
                return  # nobody sees it live; it is recorded all the same
