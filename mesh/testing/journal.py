"""What happened in a mesh of one process, by task, kept up to date as it happens."""

import anyio

from mesh.bus.port import Bus
from mesh.core.envelope import Record

__all__ = ["Journal"]


class Journal:
    """Every task's records, to be read without waiting."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._tasks: dict[str, list[Record]] = {}
        self._position = 0
        self._moved = anyio.Event()

    async def follow(self) -> None:
        """Read the log, for ever."""
        async with self._bus.tail("s0", after=0) as batches:
            async for records in batches:
                for record in records:
                    task_id = record.subject.split(".")[4]
                    self._tasks.setdefault(task_id, []).append(record)
                self._position = records[-1].position
                self._moved.set()
                self._moved = anyio.Event()

    async def read(self) -> None:
        """Wait until all that stands on the log now is here."""
        (log,) = await self._bus.info()
        while self._position < log.last:
            await self._moved.wait()

    def history(self, task_id: str) -> tuple[Record, ...]:
        """One task's records, oldest first; empty if there is no such task."""
        return tuple(self._tasks.get(task_id, ()))

    def tasks(self) -> list[str]:
        """Every task, in the order of their submits."""
        return list(self._tasks)
