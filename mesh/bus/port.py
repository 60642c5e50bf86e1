"""What the mesh needs of a log that is also its bus.

Source: design, sections 1 and 3.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from mesh.core.envelope import Envelope, Record

__all__ = ["HINT_LIMIT_BYTES", "Backlog", "Bus", "Delivery", "Hint", "Inbox", "LogInfo"]

HINT_LIMIT_BYTES = 512 * 1024
"""Most that one hint carries; a broker that takes less per message carries less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogInfo:
    """One shard's log.

    `first` is the lowest position that still stands (`last + 1` when none does), `last` the
    highest ever given; `created_at` tells a recreated log from the one that was there before.
    """

    shard: str
    first: int
    last: int
    created_at: datetime
    replicas: int = 1


@dataclass(frozen=True, slots=True)
class Backlog:
    """An agent's undone deliveries: `waiting` for their first holder, and `held` since then."""

    waiting: int = 0
    held: int = 0


@dataclass(frozen=True, slots=True)
class Hint:
    """Something that happened, told outside the log: what it is about, and what it carries."""

    topic: str
    data: bytes = field(default=b"", repr=False)


class Delivery(Protocol):
    """One event addressed to an agent, held by this process until it is settled.

    While it is held its lease is extended; `drop` stops that, so that it comes again when the
    lease runs out. Settling twice is an error of the caller.
    """

    @property
    def record(self) -> Record:
        """What was delivered."""
        ...

    @property
    def shard(self) -> str:
        """The shard it stands in."""
        ...

    @property
    def redelivered(self) -> bool:
        """Whether somebody may have held it before; a hint that errs to True."""
        ...

    @property
    def lease_valid(self) -> bool:
        """Whether, by this process's own monotonic clock, nobody else can hold it yet."""
        ...

    async def ack(self) -> None:
        """It is done with for good."""
        ...

    async def nak(self, delay_s: float) -> None:
        """Deliver it again after `delay_s` seconds."""
        ...

    def drop(self) -> None:
        """Stop holding it, without a word."""
        ...


class Inbox(Protocol):
    """One process's share of an agent's deliveries; replicas share one durable consumer."""

    def __aiter__(self) -> AsyncIterator[Delivery]:
        """Deliveries as they come, never more than `max_held` unsettled ones at a time.

        Survives a broker that goes away and comes back. Ends when `stop` was called and what had
        been pulled is handed out.
        """
        ...

    def stop(self) -> None:
        """Pull nothing more; what was pulled but not handed out is given back."""
        ...


class Bus(Protocol):
    """The log of one tenant, in shards."""

    async def append(
        self, envelopes: Sequence[Envelope], expected: Mapping[str, int]
    ) -> tuple[int, ...]:
        """Store events, all of them or none: the only write there is.

        Args:
            envelopes: Oldest first, >= 1, all of one shard (of their root task).
            expected: For each task that the batch moves: the position of its last moving event
                that the writer has seen, 0 if none. A task not named here is not fenced.

        Returns:
            The positions given, in the order of `envelopes`, ascending. An event that stands
            already, as this very event, counts as stored.

        Raises:
            Fenced: Another writer moved a task first; nothing was written.
            Unresolved: No answer in time, or an answer that does not tell; read the task.
            Unavailable: Nothing was sent, the bus cannot be reached now.
            LogFull: The log takes no more.
            EnvelopeInvalid: An event cannot be encoded, or is too large for the bus.
        """
        ...

    async def history(
        self, task_id: str, *, root_task_id: str = "", after: int = 0
    ) -> list[Record]:
        """One task's records that the log still has, complete at the leader when the read began.

        Args:
            task_id: The task.
            root_task_id: Root of its tree, when known; otherwise every shard is searched.
            after: Only positions above this one.

        Returns:
            Both classes, ascending, no gaps but those that trimming left. Empty if there is none.

        Raises:
            Unavailable: The bus cannot be read completely now.
        """
        ...

    async def head(self, task_id: str, *, root_task_id: str) -> Record | None:
        """The last record that moved a task, asked of the leader: one small question.

        For whoever needs to know where a task stands, without reading its history. Who owns it
        now: the record's addressee, or, of a fact addressed to `log`, its sender (both stand in
        its subject); a task that is closed has no owner, which its kind tells. What to fence the
        next move on: the record's position, 0 if there is none.

        Only an append tells for certain: the task may move while the answer is under way, and a
        leader elected a moment ago may not know yet all that was stored before.

        Args:
            task_id: The task.
            root_task_id: Root of its tree; it tells the one shard to ask.

        Returns:
            As the leader has it, so never older than an append it has acknowledged before.
            Informing events are passed over; a record without an envelope counts, as for the
            fence. None if there is none, or the log has trimmed it.

        Raises:
            Unavailable: The leader cannot be read now.
        """
        ...

    async def info(self) -> list[LogInfo]:
        """Every shard's log, in order of the shards."""
        ...

    async def backlog(self, agent: str) -> Backlog:
        """What is undone of an agent's deliveries, all shards together; nothing of an unknown one.

        Raises:
            Unavailable: The bus does not answer.
        """
        ...

    def inbox(self, agent: str, *, max_held: int) -> AbstractAsyncContextManager[Inbox]:
        """Take part in an agent's deliveries, from all shards; leaving gives back what is held."""
        ...

    def tail(
        self, shard: str, *, after: int, batch: int = 500
    ) -> AbstractAsyncContextManager[AsyncIterator[list[Record]]]:
        """Everything in a shard above `after`, ascending, then what comes, for ever.

        No gap and no duplicate, whatever is written meanwhile and whoever restarts; batches hold
        1 to `batch` records.

        Raises:
            HistoryCorrupt: Position `after + 1` is not what comes next: it was trimmed, or the
                log was recreated and is shorter than `after`. The text says which.
        """
        ...

    async def hint(self, topic: str, data: bytes = b"") -> None:
        """Tell whoever listens that something happened; may be lost, never stored.

        Args:
            topic: What it is about, parts with dots between.
            data: What goes with it, at most `HINT_LIMIT_BYTES`.

        Raises:
            PayloadTooLarge: It is more than that, or than the broker takes; nothing was sent.
        """
        ...

    def hints(self, topic: str) -> AbstractAsyncContextManager[AsyncIterator[Hint]]:
        """Hints on a topic, with `*` for any one part between dots.

        Those of one sender come in the order they were sent; slow readers lose some.
        """
        ...
