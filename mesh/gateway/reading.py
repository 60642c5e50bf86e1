"""One task's whole history: what the log still has, and from the ledger what it has not.

Source: design, sections 3 and 5.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mesh.bus.port import Bus
from mesh.core.envelope import Envelope, Record
from mesh.core.event import TaskSubmitted
from mesh.core.fold import fold
from mesh.core.subject import Subject
from mesh.core.task import State, Task
from mesh.errors import TaskUnknown

__all__ = ["Archive", "Reading", "read", "read_on"]


class Archive(Protocol):
    """What the gateway asks the ledger for."""

    async def history(self, task_id: str, *, after: int = 0, to: int = 0) -> list[Record]:
        """One task's records that the ledger has, ascending, above `after` and up to `to`.

        `to` 0 is the end; empty if there are none.

        Raises:
            Unavailable: The ledger does not answer.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One task as it was read: its records, their fold, and what to fence the next append on.

    `fence` is the position of the last moving event that the log still has, 0 if it has none.
    """

    records: Sequence[Record]
    task: Task
    fence: int

    @property
    def shard(self) -> str:
        """The shard that the records stand in."""
        return Subject.parse(self.records[0].subject).shard

    @property
    def last(self) -> Envelope:
        """The newest event that can be read; a known task has one."""
        return next(r.envelope for r in reversed(self.records) if r.envelope is not None)


async def read(bus: Bus, archive: Archive, task_id: str) -> Reading:
    """Read and fold a task, complete when the read began.

    Raises:
        TaskUnknown: Neither the log nor the ledger has it.
        Unavailable: The log cannot be read now, or its beginning is in the ledger only and that
            does not answer.
    """
    logged = await bus.history(task_id)
    records = logged
    if not (logged and _begins(logged[0])) and await _was_trimmed(bus):
        to = logged[0].position - 1 if logged else 0
        records = [*await archive.history(task_id, to=to), *logged]
    task = fold(records)
    if task.state is State.UNKNOWN:
        raise TaskUnknown(task_id)
    first_logged = logged[0].position if logged else task.moved + 1
    return Reading(
        records=records, task=task, fence=task.moved if task.moved >= first_logged else 0
    )


async def read_on(bus: Bus, reading: Reading) -> Reading:
    """The same task with what was stored since; complete when this read began.

    Raises:
        Unavailable: The log cannot be read now.
    """
    task = reading.task
    new = await bus.history(task.task_id, root_task_id=task.root_task_id, after=task.position)
    after = fold(new, task)
    fence = after.moved if after.moved > task.moved else reading.fence
    return Reading(records=[*reading.records, *new], task=after, fence=fence)


def _begins(record: Record) -> bool:
    return record.envelope is not None and isinstance(record.envelope.event, TaskSubmitted)


async def _was_trimmed(bus: Bus) -> bool:
    return any(log.first > 1 for log in await bus.info())
