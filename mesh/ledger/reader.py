"""Questions to the store: tasks, events, states then and now."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from mesh.core.envelope import Record
from mesh.core.fold import fold
from mesh.core.point import Point, state_at
from mesh.core.projection import Activity, DeadLetterEntry
from mesh.core.task import State, Task
from mesh.errors import Invalid, TaskUnknown
from mesh.ledger import row as rows_of
from mesh.store.port import Checkpoint, EventQuery, Store, StoredEvent
from mesh.wire.codec import decode_task, state_sha256

__all__ = ["Reader", "Rebuilt"]

_PAGE = 1000
_COUNTERS = [f.name for f in fields(Activity) if f.name not in {"agent", "last_position"}]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """A task as the projection has it, and as its stored events fold to it now."""

    live: Task
    rebuilt: Task

    @property
    def same(self) -> bool:
        """Whether the two are the same to the byte."""
        return state_sha256(self.live) == state_sha256(self.rebuilt)


class Reader:
    """What the ledger answers; reads only, and may run beside the recorder.

    Every method raises `Unavailable` when the store does not answer. Lists come with the token of
    their next page, 0 when there is none; a token is only good for the list that gave it.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def task(self, task_id: str) -> Task | None:
        """A task as the projection has it; None if it was never submitted."""
        found = await self._placed(task_id)
        return found[0] if found else None

    async def tasks(
        self,
        *,
        states: Sequence[State] = (),
        agent: str = "",
        before: int = 0,
        limit: int = 100,
    ) -> tuple[list[Task], int]:
        """Tasks, the last submitted first.

        Args:
            states: Only these; empty for all.
            agent: Only those that it owns, or owned last; "" for all.
            before: Token of the page, 0 for the first.
            limit: Most tasks of a page, >= 1. A page may have fewer and still not be the last.
        """
        tags: dict[str, list[str]] = {}
        if states:
            tags["state"] = [state.value for state in states]
        if agent:
            tags["owner"] = [agent]
        rows = await self._store.rows(rows_of.TASK, tags=tags, before=before, limit=limit)
        tasks = [decode_task(row.state) for row in rows if row.state is not None]
        known = [task for task in tasks if task.state is not State.UNKNOWN]
        return known, rows[-1].order if len(rows) == limit else 0

    async def events(self, query: EventQuery) -> list[StoredEvent]:
        """Events that match, ascending; the next page begins above the last one's position.

        A query for a task reads the shard that the task lives in, whatever it names.
        """
        if query.task_id and (row := await self._store.row(rows_of.TASK, query.task_id)):
            query = replace(query, shard=rows_of.place_of(row.order)[0])
        return await self._store.events(query)

    async def history(self, task_id: str, *, after: int = 0, to: int = 0) -> list[Record]:
        """One task's records, ascending, above `after` and up to `to` (0 for the end)."""
        row = await self._store.row(rows_of.TASK, task_id)
        if row is None:
            return []
        shard, _ = rows_of.place_of(row.order)
        records: list[Record] = []
        while True:
            page = await self._store.events(
                EventQuery(shard=shard, task_id=task_id, first=after + 1, last=to, limit=_PAGE)
            )
            records += [event.record for event in page]
            if len(page) < _PAGE:
                return records
            after = records[-1].position

    async def state_at(self, task_id: str, point: Point) -> Task:
        """A task's state at a point of its history.

        Raises:
            TaskUnknown: It was never submitted.
            Invalid: The point is outside the history, or above what the ledger has reached.
        """
        placed = await self._placed(task_id)
        if placed is None:
            raise TaskUnknown(task_id)
        task, shard = placed
        reached = (await self._store.checkpoint(shard)).position
        if point.position is not None and point.position > reached:
            raise Invalid(f"the ledger has reached position {reached}, not yet {point.position}")
        return state_at(await self.history(task_id, to=task.position), point)

    async def dead_letters(
        self, *, agent: str = "", after: int = 0, limit: int = 100
    ) -> tuple[list[DeadLetterEntry], int]:
        """Dead letters that stand, oldest first; `after` is the token of the page."""
        tags = {"agent": [agent]} if agent else {}
        rows = await self._store.rows(rows_of.DEAD_LETTER, tags=tags, before=-after, limit=limit)
        entries = [rows_of.decode_dead_letter(row.state) for row in rows if row.state is not None]
        return entries, -rows[-1].order if len(rows) == limit else 0

    async def activity(self) -> list[Activity]:
        """What each agent did, in all shards together, by name."""
        total: dict[str, Activity] = {}
        # As many rows as agents times shards: no more than a page would be.
        for row in await self._store.rows(rows_of.AGENT, tags={}, limit=100_000):
            if row.state is None:
                continue
            one = rows_of.decode_activity(row.state)
            sum_ = total.get(one.agent, Activity(agent=one.agent))
            counts = {name: getattr(sum_, name) + getattr(one, name) for name in _COUNTERS}
            last = max(sum_.last_position, one.last_position)
            total[one.agent] = replace(sum_, **counts, last_position=last)
        return [total[name] for name in sorted(total)]

    async def checkpoint(self, shard: str) -> Checkpoint:
        """How far the ledger got."""
        return await self._store.checkpoint(shard)

    async def rebuilt(self, task_id: str) -> Rebuilt:
        """A task's projection beside a fold of its stored bytes, up to the same position.

        Raises:
            TaskUnknown: It was never submitted.
        """
        live = await self.task(task_id)
        if live is None:
            raise TaskUnknown(task_id)
        return Rebuilt(live=live, rebuilt=fold(await self.history(task_id, to=live.position)))

    async def _placed(self, task_id: str) -> tuple[Task, str] | None:
        row = await self._store.row(rows_of.TASK, task_id)
        if row is None or row.state is None:
            return None
        task = decode_task(row.state)
        return None if task.state is State.UNKNOWN else (task, rows_of.place_of(row.order)[0])
