"""Which deliveries of what happened to a task open a turn: most do not, and cost one small read.

A role never changes, so what was read of a task is kept: of a thousand reports that come together,
one reads.

Source: design, section 4.
"""

from collections import OrderedDict
from typing import NamedTuple

import anyio

from mesh.bus.port import Bus
from mesh.core.carrier import Roles, follow
from mesh.core.envelope import Record

__all__ = ["Wake", "Wakes"]

_HELD = 256
"""Tasks whose roles are kept."""


class Wake(NamedTuple):
    """Whether a delivery opened a turn, and the task's history if it was read for that."""

    opens_turn: bool
    history: list[Record] | None


class _Known:
    def __init__(self) -> None:
        self.roles = Roles()
        self.read_s = float("-inf")
        self.reading = anyio.Lock()
        self.users = 0


class Wakes:
    """The roles of deliveries, as far as this process has read them."""

    def __init__(self, bus: Bus, *, apart_s: float) -> None:
        self._bus, self._apart_s = bus, apart_s
        self._tasks: OrderedDict[str, _Known] = OrderedDict()

    async def open_turn(self, task_id: str, root_task_id: str, position: int) -> Wake:
        """Whether the delivery at a position opened a turn.

        Raises:
            Unavailable: The task cannot be read now.
        """
        known = self._tasks.setdefault(task_id, _Known())
        self._tasks.move_to_end(task_id)
        known.users += 1
        try:
            async with known.reading:
                role = known.roles.known(position)
                records: list[Record] | None = None
                if role is None:
                    await anyio.sleep(max(0.0, known.read_s + self._apart_s - anyio.current_time()))
                    records = await self._read(known, task_id, root_task_id)
                    # What was not read after all is for the holder to judge.
                    role = known.roles.known(position) is not False
            return Wake(role, records)
        finally:
            known.users -= 1
            self._forget()

    async def _read(self, known: _Known, task_id: str, root_task_id: str) -> list[Record] | None:
        """Read what is new; gives the whole history if that was all of it."""
        after = known.roles.task.position
        records = await self._bus.history(task_id, root_task_id=root_task_id, after=after)
        known.roles, known.read_s = follow(known.roles, records), anyio.current_time()
        return None if after else records

    def _forget(self) -> None:
        for task_id in list(self._tasks):
            if len(self._tasks) <= _HELD:
                break
            if not self._tasks[task_id].users:
                del self._tasks[task_id]
