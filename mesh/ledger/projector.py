"""From records to rows: each projection folded on from what the store has."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from mesh.core import event as e
from mesh.core.envelope import Record
from mesh.core.fold import evolve
from mesh.core.ids import derived_id
from mesh.core.projection import (
    Activity,
    agents_of,
    count,
    dead_lettered,
    needs_notice,
    task_of,
)
from mesh.core.task import EMPTY, Task
from mesh.ledger import row as rows_of
from mesh.store.port import Row, Store
from mesh.wire.codec import decode_task

__all__ = ["Projector", "notice_id"]

_HELD = 2000


@dataclass(slots=True)
class _Batch:
    """What a batch changed; later records see the changes of earlier ones."""

    tasks: dict[str, tuple[Task, int]] = field(default_factory=dict[str, "tuple[Task, int]"])
    agents: dict[str, Activity] = field(default_factory=dict[str, Activity])
    other: dict[tuple[str, str], Row] = field(default_factory=dict["tuple[str, str]", Row])


class Projector:
    """Folds batches; keeps the tasks and counts it saw last, so as not to read them again.

    What it keeps is only true while every batch it folded was committed: `keep` after a commit,
    `forget` after anything else.
    """

    def __init__(self, store: Store, *, tenant: str) -> None:
        self._store, self._tenant = store, tenant
        self._tasks: OrderedDict[str, tuple[Task, int]] = OrderedDict()
        self._agents: dict[str, Activity] = {}
        self._batch = _Batch()
        self.owes = False
        """Whether the last batch owes a notice of something unreadable."""

    async def fold(self, shard: str, records: Sequence[Record]) -> list[Row]:
        """The rows that these records change, each once; folding a record again changes nothing.

        Raises:
            Unavailable: A row could not be read.
        """
        self._batch = batch = _Batch()
        self.owes = any(needs_notice(record) for record in records)
        for record in records:
            before = EMPTY
            after = EMPTY
            if task_id := task_of(record):
                before, order = await self._task(task_id, rows_of.order_of(shard, record.position))
                # A torn commit may have left the row ahead of the checkpoint.
                after = evolve(before, record) if record.position > before.position else before
                batch.tasks[task_id] = after, order
            for agent in agents_of(record):
                key = rows_of.agent_key(shard, agent)
                batch.agents[key] = count(await self._agent(key, agent), record)
            for key, entry in dead_lettered(before, record, after).items():
                changed = (
                    rows_of.dead_letter_row(key, entry, shard=shard)
                    if entry
                    else rows_of.gone(rows_of.DEAD_LETTER, key)
                )
                batch.other[changed.projection, key] = changed
            for timer in rows_of.timer_rows(before, record, after, shard=shard):
                batch.other[timer.projection, timer.key] = timer
            self._note(shard, record)
        # Tasks last: what follows from a task's change is written before its row says it was made.
        return [
            *batch.other.values(),
            *(rows_of.agent_row(activity, shard=shard) for activity in batch.agents.values()),
            *(rows_of.task_row(t, key=key, order=order) for key, (t, order) in batch.tasks.items()),
        ]

    def keep(self) -> None:
        """The last batch was committed."""
        for key, value in self._batch.tasks.items():
            self._tasks[key] = value
            self._tasks.move_to_end(key)
        while len(self._tasks) > _HELD:
            self._tasks.popitem(last=False)
        self._agents |= self._batch.agents
        self._batch = _Batch()

    def forget(self) -> None:
        """The last batch may not be what the store has: read everything again."""
        self._tasks.clear()
        self._agents.clear()
        self._batch = _Batch()

    async def _task(self, task_id: str, order: int) -> tuple[Task, int]:
        known = self._batch.tasks.get(task_id) or self._tasks.get(task_id)
        if known:
            return known
        row = await self._store.row(rows_of.TASK, task_id)
        if row is None or row.state is None:
            return EMPTY, order
        return decode_task(row.state), row.order

    async def _agent(self, key: str, agent: str) -> Activity:
        known = self._batch.agents.get(key) or self._agents.get(key)
        if known:
            return known
        row = await self._store.row(rows_of.AGENT, key)
        if row is None or row.state is None:
            return Activity(agent=agent)
        return rows_of.decode_activity(row.state)

    def _note(self, shard: str, record: Record) -> None:
        """Owe a notice of what nobody can read, until the notice itself is recorded."""
        if needs_notice(record):
            key = notice_id(self._tenant, shard, record)
            self._batch.other[rows_of.NOTICE, key] = rows_of.notice_row(key, record, shard=shard)
        elif record.envelope and isinstance(record.envelope.event, e.DeadLettered):
            key = record.envelope.event_id
            self._batch.other[rows_of.NOTICE, key] = rows_of.gone(rows_of.NOTICE, key)


def notice_id(tenant: str, shard: str, record: Record) -> str:
    """Event id of the notice of an unreadable message; whoever computes it, it is the same."""
    return derived_id(f"{tenant}/{shard}/{record.position}", "unreadable")
