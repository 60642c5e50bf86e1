"""What is due: timers, expiries and deadlines of one shard, fired when the clock says so.

The rows of the `timer` projection say what is to be fired; they are read once, and then followed
commit by commit. A row goes when the fold no longer lists its timer: because it fired, or because
the task went on without it. So nothing is remembered here that a restart would have to find again:
what still stands is still to be fired, under the same event id.

Nobody is asked who owns the task when a timer has fired, though the owner may have changed before:
the recorder reads that hand-off anyway, and the row, still standing, is then written anew for the
new owner and fires at once. Only a deadline can meet this. A timer that was set, and a question,
belong to one leg, and end with it.

Two ledgers on one database are kept apart by its lock, or by the recorder's checkpoint; until the
second one notices, both fire the same events under the same ids.

Source: design, sections 3 and 5.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from heapq import heapify, heappop, heappush

import anyio

from mesh.core.backoff import Backoff
from mesh.core.envelope import Envelope, Sender
from mesh.errors import EnvelopeInvalid, Fenced, MeshError, Unavailable, Unresolved
from mesh.ledger.recorder import Parts, Recorder
from mesh.ledger.row import TIMER, decode_timer
from mesh.store.port import Row

__all__ = ["Timers"]

_log = logging.getLogger(__name__)

_BATCH = 250
"""Most events of one append."""
_AT_ONCE = 4
"""Most appends under way."""
_PAGE = 1000
_LOOK_S = 0.5
"""Longest wait before the clock is looked at again: it may jump, and it is not the loop's."""
_AGAIN = Backoff(first_s=0.1, limit_s=1.0)
"""An append waits for a broker that is away by itself: no long pauses on top of that."""


@dataclass(slots=True)
class _Timer:
    """One that stands; `taken` from when its event is being appended, for good if it was stored."""

    due: datetime
    state: bytes
    taken: bool = False


class Timers:
    """Fires what is due in one shard; made before the recorder runs, which it follows."""

    def __init__(self, parts: Parts, recorder: Recorder, *, shard: str = "s0") -> None:
        self._parts, self._recorder, self._shard = parts, recorder, shard
        self._timers: dict[str, _Timer] = {}
        self._heap: list[tuple[datetime, str]] = []
        """Every timer that is not taken, and some that are gone."""
        self._changed = anyio.Event()
        self._certain = False
        """Whether all that was ever fired here is recorded, or known to be stored."""
        recorder.follow(shard, self)

    async def run(self) -> None:
        """Fire what is due, when it is due, for ever.

        Raises:
            Halted: The shard's recorder stopped, or the broker forbids to append.
        """
        failures = 0
        while True:
            try:
                await self.fire_due()
                failures = 0
            except (Unavailable, Unresolved) as error:
                failures += 1
                wait_s = _AGAIN.delay_s(failures, self._parts.ids.random())
                _log.warning("timers of shard %s wait %.1f s: %s", self._shard, wait_s, error)
                await anyio.sleep(wait_s)
            else:
                await self._until_due()

    async def fire_due(self) -> int:
        """Append the event of every timer that is due by the clock, never of one that is not.

        Waits for the recorder to reach the end of the log where it is not certain what was fired
        before: at the start, and after an append without an answer.

        Returns:
            How many were appended.

        Raises:
            Unresolved: An append had no answer; what is not recorded is appended again next time.
            Unavailable: The bus cannot be reached, or the log is full; as above.
            Halted: The shard's recorder stopped, or the broker forbids to append.
        """
        await self._reckon()
        due = self._take_due()
        if not due:
            return 0
        done: set[str] = set()
        appended: list[str] = []
        failed: list[MeshError] = []
        keys = list(due)
        parts = [keys[start : start + _BATCH] for start in range(0, len(keys), _BATCH)]
        limiter = anyio.Semaphore(_AT_ONCE)

        async def fire(part: list[str]) -> None:
            async with limiter:
                if failed:
                    return  # a bus that is away or hangs is not asked once more for each part
                try:
                    appended.extend(await self._append(part, due, done))
                except MeshError as error:
                    self._certain = self._certain and not isinstance(error, Unresolved)
                    failed.append(error)

        try:
            async with anyio.create_task_group() as tasks:
                for part in parts:
                    tasks.start_soon(fire, part)
        except BaseException:
            self._certain = False
            raise
        finally:
            for key, timer in due.items():
                if key not in done and self._timers.get(key) is timer:
                    timer.taken = False
                    heappush(self._heap, (timer.due, key))
        if failed:
            raise failed[0]
        return len(appended)

    def next_due(self) -> datetime | None:
        """When the next timer that is recorded and not fired is due; None if there is none."""
        while self._heap and self._stale(*self._heap[0]):
            heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    async def load(self) -> None:
        """Read all timers of the shard; what was appended since stays so.

        Raises:
            Unavailable: The store does not answer.
        """
        timers: dict[str, _Timer] = {}
        before, limit = 0, _PAGE
        while True:
            page = await self._parts.store.rows(
                TIMER, tags={"shard": [self._shard]}, before=before, limit=limit
            )
            timers |= {row.key: self._timer(row.key, row.state) for row in page if row.state}
            if len(page) < limit:
                break
            # Many may be due in one millisecond: it is read again, in a larger page if need be.
            following = page[-1].order + 1
            limit = limit * 2 if following == before else limit
            before = following
        self._timers = timers
        self._compact()
        self._wake()

    def take(self, rows: Sequence[Row]) -> None:
        """These rows were committed."""
        for row in rows:
            if row.projection != TIMER:
                continue
            if row.state is None:
                self._timers.pop(row.key, None)
                continue
            timer = self._timers[row.key] = self._timer(row.key, row.state)
            if not timer.taken:
                heappush(self._heap, (timer.due, row.key))
        if len(self._heap) > 2 * len(self._timers) + _PAGE:
            self._compact()
        self._wake()

    async def _reckon(self) -> None:
        """Have all that stands in the log recorded, where it may hold what was fired before.

        A row may be of a task that has moved on since, or whose timer was fired before a restart.
        To fire it again would change nothing, but it would stand there twice. Up to the log's end
        as it is now, not to where it grows meanwhile.
        """
        if self._certain:
            return
        for log in await self._parts.bus.info():
            if log.shard == self._shard:
                await self._recorder.wait_for(log.last, shard=self._shard)
        self._certain = True

    async def _append(
        self, keys: Sequence[str], due: dict[str, _Timer], done: set[str]
    ) -> Sequence[str]:
        """Append the events of timers that still stand; gives which, and marks what is done."""
        keys = [key for key in keys if self._timers.get(key) is due[key]]
        if not keys:
            return keys
        try:
            # They inform, so nothing fences them.
            await self._parts.bus.append([self._event(due[key].state) for key in keys], {})
        except (Fenced, EnvelopeInvalid) as error:
            if len(keys) > 1:  # all or none: one of them stands already, or cannot be written
                return [key for one in keys for key in await self._append([one], due, done)]
            # It stands when another process, killed since, was heard too late for `_reckon`.
            if isinstance(error, EnvelopeInvalid):
                _log.error("timer %s cannot be fired: %s", keys[0], error)
            done.update(keys)
            return []
        done.update(keys)
        return keys

    def _event(self, state: bytes) -> Envelope:
        parts = self._parts
        sender = Sender(agent="ledger", instance=parts.instance)
        return replace(decode_timer(state), sender=sender, occurred_at=parts.clock.now())

    def _take_due(self) -> dict[str, _Timer]:
        now = self._parts.clock.now()
        due: dict[str, _Timer] = {}
        while (at := self.next_due()) is not None and at <= now:
            _, key = heappop(self._heap)
            due[key] = self._timers[key]
            due[key].taken = True
        return due

    async def _until_due(self) -> None:
        changed, due, wait_s = self._changed, self.next_due(), math.inf
        if due is not None:
            wait_s = min(_LOOK_S, (due - self._parts.clock.now()).total_seconds())
        with anyio.move_on_after(wait_s):
            await changed.wait()

    def _timer(self, key: str, state: bytes) -> _Timer:
        """The one that is known if the row is the same."""
        known = self._timers.get(key)
        if known is not None and known.state == state:
            return known
        return _Timer(decode_timer(state).occurred_at, state)

    def _stale(self, due: datetime, key: str) -> bool:
        timer = self._timers.get(key)
        return timer is None or timer.taken or timer.due != due

    def _compact(self) -> None:
        self._heap = [(timer.due, key) for key, timer in self._timers.items() if not timer.taken]
        heapify(self._heap)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
