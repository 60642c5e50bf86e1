"""The store in memory: for tests, and for a mesh in one process that keeps nothing."""

from bisect import bisect_left, insort
from collections.abc import Sequence

from mesh.errors import CheckpointConflict, HistoryCorrupt
from mesh.store.port import Checkpoint, Commit, EventQuery, Row, StoredEvent
from mesh.wire.codec import read_record

__all__ = ["InprocStore"]


class InprocStore:
    """One tenant's database in this process's memory.

    Nothing awaits inside a commit, so it is atomic on one event loop. `drop_event` and
    `replace_event` break it on purpose, for tests of those who must notice.
    """

    def __init__(self) -> None:
        self._events: dict[str, dict[int, StoredEvent]] = {}
        self._positions: dict[str, list[int]] = {}
        self._rows: dict[tuple[str, str], Row] = {}
        self._checkpoints: dict[str, Checkpoint] = {}

    async def commit(self, commit: Commit, *, expected: Checkpoint) -> None:
        """Write one transaction, or nothing; see `Store.commit`."""
        shard = commit.checkpoint.shard
        actual = self._checkpoints.get(shard, Checkpoint(shard=shard))
        if actual != expected:
            raise CheckpointConflict(shard, expected=expected.position, actual=actual.position)
        events = self._events.setdefault(shard, {})
        self._check_new(events, commit.events, shard)
        positions = self._positions.setdefault(shard, [])
        for event in commit.events:
            events[event.record.position] = event
            insort(positions, event.record.position)
        for row in commit.rows:
            if row.state is None:
                self._rows.pop((row.projection, row.key), None)
            else:
                self._rows[row.projection, row.key] = row
        self._checkpoints[shard] = commit.checkpoint

    async def checkpoint(self, shard: str) -> Checkpoint:
        """The stored checkpoint, or the default one."""
        return self._checkpoints.get(shard, Checkpoint(shard=shard))

    async def events(self, query: EventQuery) -> list[StoredEvent]:
        """Events that match, ascending; see `Store.events`."""
        events = self._events.get(query.shard, {})
        positions = self._positions.get(query.shard, [])
        found: list[StoredEvent] = []
        for position in positions[bisect_left(positions, query.first) :]:
            if len(found) == query.limit or (query.last and position > query.last):
                break
            if _matches(events[position], query):
                found.append(_decoded(events[position]))
        return found

    async def count(self, shard: str) -> tuple[int, int, int]:
        """First position, last position and number of the events that stand; zeros if none."""
        positions = self._positions.get(shard, [])
        return (positions[0], positions[-1], len(positions)) if positions else (0, 0, 0)

    async def row(self, projection: str, key: str) -> Row | None:
        """One row of a projection."""
        return self._rows.get((projection, key))

    async def rows(
        self, projection: str, *, tags: dict[str, list[str]], before: int = 0, limit: int = 100
    ) -> list[Row]:
        """Rows in descending `order`; see `Store.rows`."""
        found = [
            row
            for row in self._rows.values()
            if row.projection == projection
            and (not before or row.order < before)
            and all(row.tags.get(name) in values for name, values in tags.items())
        ]
        return sorted(found, key=lambda row: row.order, reverse=True)[:limit]

    def drop_event(self, shard: str, position: int) -> None:
        """Lose an event, as a broken disk would."""
        del self._events[shard][position]
        self._positions[shard].remove(position)

    def replace_event(self, event: StoredEvent) -> None:
        """Put another event in the place of one that stands."""
        self._events[event.shard][event.record.position] = event

    @staticmethod
    def _check_new(events: dict[int, StoredEvent], new: Sequence[StoredEvent], shard: str) -> None:
        for event in new:
            if event.record.position in events:
                raise HistoryCorrupt(
                    f"shard `{shard}`: position {event.record.position} is stored already,"
                    " above the checkpoint; `mesh store verify` shows what stands there"
                )


def _matches(event: StoredEvent, query: EventQuery) -> bool:
    stored_at = event.record.stored_at
    return (
        (not query.task_id or event.task_id == query.task_id)
        and (not query.kind or event.kind == query.kind)
        and (not query.agent or query.agent in (event.sender, event.to))
        and (query.since is None or stored_at >= query.since)
        and (query.until is None or stored_at <= query.until)
    )


def _decoded(event: StoredEvent) -> StoredEvent:
    record = event.record
    return StoredEvent(
        shard=event.shard,
        record=read_record(record.position, record.stored_at, record.subject, record.raw),
        chain=event.chain,
        task_id=event.task_id,
        kind=event.kind,
        sender=event.sender,
        to=event.to,
    )
