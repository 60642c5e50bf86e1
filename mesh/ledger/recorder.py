"""From the log to the store: one reader per shard, one transaction per batch.

Source: design, section 5.
"""

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

import anyio
from anyio.abc import TaskGroup

from mesh.blob.port import BlobStore
from mesh.bus.port import Bus, LogInfo
from mesh.clock import Clock, IdSource
from mesh.core.backoff import Backoff
from mesh.core.envelope import Record
from mesh.errors import CheckpointConflict, Halted, HistoryCorrupt, Unavailable
from mesh.ledger.blobs import BlobCopier
from mesh.ledger.check import check_shard, stored_events
from mesh.ledger.notice import Announcer
from mesh.ledger.projector import Projector
from mesh.store.port import Checkpoint, Commit, Row, Store

__all__ = ["Follower", "Parts", "Recorder"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a recorder works with.

    Attributes:
        bus: The log to be recorded.
        store: Where to; nobody else writes to it.
        blobs_from: Where agents put large payloads.
        blobs_to: Where copies of them are kept.
        clock: For the time of the ledger's own events.
        ids: For the jitter of its waits.
        tenant: Whose log it is.
        instance: This process.
        batch: Most events of one transaction, >= 1.
        backoff: Wait after something did not answer.
    """

    bus: Bus
    store: Store
    blobs_from: BlobStore
    blobs_to: BlobStore
    clock: Clock
    ids: IdSource
    tenant: str = "default"
    instance: str = ""
    batch: int = 500
    backoff: Backoff = field(default_factory=Backoff)


class Follower(Protocol):
    """Who keeps up with a shard's projections without asking the store each time."""

    async def load(self) -> None:
        """Read what the store has; called before anything is recorded, and after each doubt.

        Raises:
            Unavailable: The store does not answer; it is called again.
        """
        ...

    def take(self, rows: Sequence[Row]) -> None:
        """These rows were committed."""
        ...


@dataclass(slots=True)
class _Shard:
    """What this recorder knows of one shard."""

    possible: list[Checkpoint] = field(default_factory=list[Checkpoint])
    """What can be stored if nobody else writes: the last known, and what was tried after it."""
    position: int = 0
    stored: int = 0
    """Last position whose event was there at the start."""
    moved: anyio.Event = field(default_factory=anyio.Event)
    owes: anyio.Event = field(default_factory=anyio.Event)
    followers: list[Follower] = field(default_factory=list[Follower])
    halted: Halted | None = None
    failures: int = 0


class Recorder:
    """Records every shard that `run` is called for, one transaction at a time.

    One recorder per store: its shards share what it keeps of projections.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._projector = Projector(parts.store, tenant=parts.tenant)
        self._copier = BlobCopier(parts.blobs_from, parts.blobs_to)
        self._writing = anyio.Lock()
        self._shards: dict[str, _Shard] = {}

    async def run(self, shard: str) -> None:
        """Record a shard from its checkpoint on, for ever.

        What does not answer is tried again; a blob, the bus or the store may come and go.

        Raises:
            HistoryCorrupt: Log and store disagree: recreated, trimmed, missing or altered; the
                text names what, and where. Nothing was overwritten.
            CheckpointConflict: Another ledger writes to this store.
            Halted: Anything else that must not be gone on with, such as a wrong setting.
        """
        state = self._state(shard)
        try:
            async with _together() as tasks:
                tasks.start_soon(self._announce, shard)
                await self._record_on(shard)
        except Halted as error:
            state.halted = error
            self._tell(state)
            _log.error("recorder of shard %s stopped: %s", shard, error)
            raise

    async def wait_for(self, position: int, *, shard: str = "s0") -> None:
        """Return once a shard is recorded up to a position.

        Raises:
            Halted: Its recorder stopped before that; the error it stopped with.
        """
        state = self._state(shard)
        while state.position < position:
            if state.halted:
                raise state.halted
            await state.moved.wait()

    def follow(self, shard: str, follower: Follower) -> None:
        """Tell somebody of what is committed in a shard, before `wait_for` says it is recorded.

        Only of use before `run`.
        """
        self._state(shard).followers.append(follower)

    def position(self, shard: str) -> int:
        """How far this recorder got in a shard; 0 before it has read the checkpoint."""
        return self._state(shard).position

    async def _record_on(self, shard: str) -> None:
        state = self._state(shard)
        while True:
            try:
                await self._follow(shard)
            except Unavailable as error:
                state.failures += 1
                wait_s = self._parts.backoff.delay_s(state.failures, self._parts.ids.random())
                _log.warning("recorder of shard %s tries again in %.1f s: %s", shard, wait_s, error)
                await anyio.sleep(wait_s)

    async def _follow(self, shard: str) -> None:
        parts, state = self._parts, self._state(shard)
        async with self._writing:
            # Whatever failed may have failed after a fold: rows are read again.
            self._projector.forget()
            checkpoint = await parts.store.checkpoint(shard)
        _check_mine(state, checkpoint)
        info, state.stored = await check_shard(parts.bus, parts.store, checkpoint)
        if state.stored > checkpoint.position:
            _log.warning(
                "shard %s: the store was damaged and has positions %d to %d without their"
                " checkpoint; they are what the log has and are recorded anew from it",
                *(shard, checkpoint.position + 1, state.stored),
            )
        for follower in state.followers:
            await follower.load()
        self._reached(state, checkpoint)
        state.owes.set()  # debts of an earlier run
        async with parts.bus.tail(shard, after=checkpoint.position, batch=parts.batch) as batches:
            async for records in batches:
                checkpoint = await self._record(checkpoint, records, info)
                state.failures = 0

    async def _record(
        self, before: Checkpoint, records: Sequence[Record], info: LogInfo
    ) -> Checkpoint:
        shard, state = before.shard, self._state(before.shard)
        _check_next(before, records)
        await self._copier.copy(shard, records)
        events = stored_events(shard, before.chain, records)
        after = replace(
            before,
            first=before.first or records[0].position,
            position=records[-1].position,
            count=before.count + len(records),
            chain=events[-1].chain,
            log_created_at=info.created_at,
        )
        async with self._writing:
            rows = await self._projector.fold(shard, records)
            state.possible = [before, after]
            new = [event for event in events if event.record.position > state.stored]
            try:
                await self._parts.store.commit(
                    Commit(events=new, rows=rows, checkpoint=after), expected=before
                )
            except BaseException:
                self._projector.forget()
                raise
            self._projector.keep()
        for follower in state.followers:
            follower.take(rows)
        self._reached(state, after)
        if self._projector.owes:
            state.owes.set()
        return after

    async def _announce(self, shard: str) -> None:
        """Pay what is owed, each time something may be."""
        parts, state = self._parts, self._state(shard)
        announcer = Announcer(
            parts.bus, parts.store, parts.clock, tenant=parts.tenant, instance=parts.instance
        )
        failures = 0
        while True:
            await state.owes.wait()
            state.owes = anyio.Event()
            try:
                if paid := await announcer.pay(shard):
                    _log.warning("shard %s: %d unreadable messages dead-lettered", shard, paid)
                failures = 0
            except Unavailable as error:
                failures += 1
                wait_s = parts.backoff.delay_s(failures, parts.ids.random())
                _log.warning("notices of shard %s wait %.1f s: %s", shard, wait_s, error)
                await anyio.sleep(wait_s)
                state.owes.set()

    def _state(self, shard: str) -> _Shard:
        return self._shards.setdefault(shard, _Shard())

    def _reached(self, state: _Shard, checkpoint: Checkpoint) -> None:
        state.possible = [checkpoint]
        state.position = checkpoint.position
        self._tell(state)

    @staticmethod
    def _tell(state: _Shard) -> None:
        state.moved.set()
        state.moved = anyio.Event()


@asynccontextmanager
async def _together() -> AsyncGenerator[TaskGroup]:
    """A task group whose first halt leaves as itself, not wrapped in a group."""
    try:
        async with anyio.create_task_group() as tasks:
            yield tasks
    except BaseExceptionGroup as group:
        halts, _ = group.split(Halted)
        if halts is None:
            raise
        error: BaseException = halts
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]  # pyright: ignore[reportUnknownMemberType]
        raise error from None


def _check_mine(state: _Shard, checkpoint: Checkpoint) -> None:
    """After a write without an answer, the store holds what stood before it or what it wrote."""
    if state.possible and checkpoint not in state.possible:
        raise CheckpointConflict(
            checkpoint.shard, expected=state.possible[-1].position, actual=checkpoint.position
        )


def _check_next(before: Checkpoint, records: Sequence[Record]) -> None:
    """Positions must follow on one another; only something that deletes leaves a hole."""
    expected = before.position + 1
    for record in records:
        if record.position != expected:
            raise HistoryCorrupt(
                f"shard `{before.shard}`: position {expected} is missing in the log,"
                f" {record.position} comes next: something deleted it before it was recorded"
            )
        expected += 1
