"""What the ledger needs of a database.

Source: design, section 5.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from mesh.core.envelope import Record

__all__ = ["GENESIS", "Checkpoint", "Commit", "EventQuery", "Row", "Store", "StoredEvent"]

GENESIS = bytes(32)
"""The hash chain before the first event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """How far the ledger got in one shard.

    `first` is the first position ever recorded, `position` the last, `count` how many, `chain`
    the head of the hash chain (32 bytes), `log_created_at` which log it was read from.
    """

    shard: str
    first: int = 0
    position: int = 0
    count: int = 0
    chain: bytes = GENESIS
    log_created_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """A record as the ledger keeps it: the columns that queries need, and the chain behind it.

    `kind` is "" for a record that is unreadable.
    """

    shard: str
    record: Record
    chain: bytes
    task_id: str = ""
    kind: str = ""
    sender: str = ""
    to: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of a projection.

    `projection` is its name (`task`, `agent`, `dead_letter`), `key` unique in it, `state` the
    folded state as bytes, `order` what lists are sorted by, `tags` what they are filtered by.
    `state` None deletes the row.
    """

    projection: str
    key: str
    state: bytes | None
    order: int = 0
    tags: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """One transaction: events, what they did to the projections, and the checkpoint after it."""

    events: Sequence[StoredEvent]
    rows: Sequence[Row]
    checkpoint: Checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class EventQuery:
    """Which events, ascending by position; empty fields do not filter.

    `first` and `last` are positions, inclusive, `last` 0 for the end; `since` and `until` are the
    broker's time, inclusive; `agent` is sender or addressee; `limit` is >= 1.
    """

    shard: str = "s0"
    task_id: str = ""
    agent: str = ""
    kind: str = ""
    first: int = 1
    last: int = 0
    since: datetime | None = None
    until: datetime | None = None
    limit: int = 100


class Store(Protocol):
    """One tenant's database, written by one process. Every write is synced before it returns."""

    async def commit(self, commit: Commit, *, expected: Checkpoint) -> None:
        """Write one transaction, or nothing.

        Args:
            commit: Events in ascending positions, following on `expected`.
            expected: The checkpoint that this writer believes is stored; the default
                `Checkpoint(shard=...)` before the first.

        Raises:
            CheckpointConflict: Another one is stored.
            HistoryCorrupt: An event of these positions is stored already.
            Unavailable: The database does not answer; the write may have happened, so read the
                checkpoint before going on.
        """
        ...

    async def checkpoint(self, shard: str) -> Checkpoint:
        """The stored checkpoint, or the default one."""
        ...

    async def events(self, query: EventQuery) -> list[StoredEvent]:
        """At most `query.limit` events, ascending by position, envelopes decoded."""
        ...

    async def count(self, shard: str) -> tuple[int, int, int]:
        """First position, last position and number of the events that really stand there."""
        ...

    async def row(self, projection: str, key: str) -> Row | None:
        """One row of a projection."""
        ...

    async def rows(
        self, projection: str, *, tags: dict[str, list[str]], before: int = 0, limit: int = 100
    ) -> list[Row]:
        """Rows in descending `order`, below `before` unless that is 0.

        Each of `tags` must have one of the values given for it.
        """
        ...
