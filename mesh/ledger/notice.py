"""Notices of messages that nobody can read and nobody was asked to: dead-lettered by the ledger.

The recorder commits a debt with the message; this pays it, whenever the bus takes it. The debt is
gone when the notice itself is recorded. So it is written once, whatever dies in between, and a bus
that takes nothing does not hold up the recorder.
"""

from mesh.bus.port import Bus
from mesh.clock import Clock
from mesh.core import event as e
from mesh.core.envelope import Envelope, Record, Sender
from mesh.core.fold import fold
from mesh.core.ids import derived_id
from mesh.core.payload import Failure
from mesh.core.projection import task_of
from mesh.errors import Contested, EnvelopeInvalid, HistoryCorrupt
from mesh.ledger.projector import notice_id
from mesh.ledger.reader import Reader
from mesh.ledger.row import NOTICE, place_of
from mesh.store.port import EventQuery, Store

__all__ = ["Announcer"]


class Announcer:
    """Writes the notices that one shard owes."""

    def __init__(self, bus: Bus, store: Store, clock: Clock, *, tenant: str, instance: str) -> None:
        self._bus, self._store, self._clock = bus, store, clock
        self._tenant, self._instance = tenant, instance
        self._paid: set[str] = set()

    async def pay(self, shard: str) -> int:
        """Write every notice owed in a shard; gives how many it wrote or found written.

        Raises:
            Unavailable: The bus or the store does not answer; try again.
        """
        paid = 0
        before = 0
        while True:
            owed = await self._store.rows(NOTICE, tags={"shard": [shard]}, before=before)
            for debt in owed:
                before = debt.order
                if debt.key not in self._paid:
                    await self._pay(shard, place_of(debt.order)[1])
                    self._paid.add(debt.key)
                    paid += 1
            if not owed:
                return paid

    async def _pay(self, shard: str, position: int) -> None:
        found = await self._store.events(
            EventQuery(shard=shard, first=position, last=position, limit=1)
        )
        if not found:
            raise HistoryCorrupt(f"shard `{shard}`: position {position} is missing in the store")
        notice = await self._notice(shard, found[0].record)
        while True:
            records = await self._bus.history(notice.task_id, root_task_id=notice.root_task_id)
            if any(r.envelope and r.envelope.event_id == notice.event_id for r in records):
                return
            try:
                await self._bus.append([notice], {notice.task_id: fold(records).moved})
            except Contested:
                continue  # moved meanwhile, or no answer: the history tells which
            return

    async def _notice(self, shard: str, record: Record) -> Envelope:
        event_id = notice_id(self._tenant, shard, record)
        task_id = task_of(record) or derived_id(event_id, "task")
        task = await Reader(self._store).task(task_id)
        return Envelope(
            event_id=event_id,
            tenant=self._tenant,
            task_id=task_id,
            root_task_id=task.root_task_id if task else task_id,
            sender=Sender(agent="ledger", instance=self._instance),
            occurred_at=self._clock.now(),
            event=e.DeadLettered(
                delivery_position=record.position,
                failure=Failure(
                    code=EnvelopeInvalid.code,
                    message=record.fault,
                    details={"subject": record.subject, "shard": shard},
                ),
            ),
        )
