"""One delivery's turn as the log sees it: its role, its claim, its appends.

Nothing here knows about handlers. Every append is fenced on what this holder has read; what
follows a refusal or a lost answer is decided by `mesh.core.leg`, never by hope.

Source: design, section 4.
"""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from math import inf

import anyio

from mesh.agent.definition import Agent
from mesh.agent.ports import Ports
from mesh.bus.port import Delivery
from mesh.core import event as e
from mesh.core.backoff import Backoff
from mesh.core.decide import fail, start
from mesh.core.envelope import Envelope, Record, Sender
from mesh.core.ids import derived_id
from mesh.core.leg import Next, after_refusal, opens_turn, turn_over
from mesh.core.payload import Failure
from mesh.core.subject import LOG
from mesh.core.task import EMPTY, Task, fold
from mesh.errors import Contested, Fenced, Unavailable
from mesh.telemetry.context import stamped
from mesh.telemetry.names import (
    APPENDS_REFUSED,
    ATTEMPTS_FAILED,
    DEAD_LETTERED,
    HANDOFFS,
    SENT,
    sending,
)
from mesh.telemetry.port import Metric

__all__ = ["Turn"]

_log = logging.getLogger(__name__)
_COUNTED: dict[type[e.TaskEvent], Metric] = {
    e.HandedOff: HANDOFFS,
    e.AttemptFailed: ATTEMPTS_FAILED,
    e.DeadLettered: DEAD_LETTERED,
}
_PATIENCE = Backoff(first_s=0.1, limit_s=2.0)


class Turn:
    """A held delivery and its holder's knowledge of the task.

    Attributes:
        task: Folded state as far as this holder has read or written.
        cause: The delivery's envelope.
        attempt: Which run this one is, 1-based.
        started_at: When it began.
    """

    def __init__(self, agent: Agent, ports: Ports, delivery: Delivery, cause: Envelope) -> None:
        self.cause, self.delivery = cause, delivery
        self.task: Task = EMPTY
        self.attempt = 1
        self.started_at = ports.clock.now()
        self._ports = ports
        self._position = delivery.record.position
        self._sender = Sender(
            agent=agent.name, instance=ports.instance, behaviour_version=agent.behaviour
        )
        # Every claim tried, stored or not: one whose answer was lost is still this holder's.
        self._claims: set[str] = set()
        self._ending = False
        self._writing = anyio.Lock()

    @property
    def claimed(self) -> bool:
        """Whether this holder tried to claim the turn."""
        return bool(self._claims)

    def left_s(self) -> float:
        """Seconds until the task's deadline; infinite without one."""
        deadline = self.task.deadline
        return (deadline - self._ports.clock.now()).total_seconds() if deadline else inf

    def overdue(self) -> e.Failed:
        """How a task ends whose deadline has passed."""
        details = {
            "deadline": self.task.deadline.isoformat() if self.task.deadline else "",
            "now": self._ports.clock.now().isoformat(),
        }
        message = f"the deadline {details['deadline']} has passed"
        failure = Failure(code="guard.deadline", message=message, details=details)
        return fail(self.task, failure)

    async def judge(self) -> Next:
        """Read what matters and find the delivery's role.

        Returns:
            ACK if it opened no turn or the turn is over, DROP if somebody else has claimed it,
            WIND_UP if a cancel waits, AGAIN if this holder is to run it.
        """
        fresh = not self.delivery.redelivered
        if fresh and isinstance(self.cause.event, e.TaskSubmitted):
            records = [self.delivery.record]  # nothing can stand before a submit
        else:
            records = await self._history()
        own = [r for r in records if r.position <= self._position]
        at_delivery = fold(own)
        if not opens_turn(at_delivery, self._position):
            return Next.ACK
        self.task = fold(records[len(own) :], at_delivery)
        turn = self.task.turn
        if turn is None or turn_over(self.task, self._position):
            return Next.ACK
        self.attempt = turn.attempts + 1
        if fresh and (turn.claim_id or not self.delivery.lease_valid):
            return Next.DROP
        return Next.WIND_UP if self.task.cancel_requested else Next.AGAIN

    async def claim_first(self) -> Next:
        """Claim before running, as every redelivery must.

        Returns:
            GO_ON when the claim is stored, WIND_UP when a cancel came right after it, ACK or DROP
            otherwise.
        """
        if not self.delivery.lease_valid:
            return Next.DROP
        envelopes = self._envelopes((start(self.task),), LOG)
        try:
            self._stored(envelopes, await self._append(envelopes))
        except Unavailable:
            return Next.DROP
        except Contested as error:
            records = await self._history()
            verdict = self._heed(records, envelopes)
            if verdict is Next.ACK or _stand(envelopes, records):
                return verdict
            _log.info("claim of task `%s` refused, dropping it: %s", self.cause.task_id, error)
            return Next.DROP
        return Next.GO_ON

    async def claim_running(self) -> Next:
        """Claim while the handler runs already; the order after a refusal is `commit`'s."""
        async with self._writing:
            # Behind the end of its run a claim would take a turn that may be another's by now.
            if self._ending or self.claimed or not self.delivery.lease_valid:
                return Next.GO_ON
            return await self._commit((start(self.task),), LOG)

    async def commit(
        self, *events: e.TaskEvent, to: str = LOG, despite_cancel: bool = False
    ) -> Next:
        """Append what ends this run, as one.

        Args:
            events: Oldest first.
            to: Addressee of the last one.
            despite_cancel: They may stand after a requested cancel: they wind up, or give back.

        Returns:
            GO_ON when they are stored; otherwise what the log demands: ACK, DROP or WIND_UP.

        Raises:
            EnvelopeInvalid: The log can never take them.
        """
        self._ending = True
        async with self._writing:
            return await self._commit(events, to, despite_cancel=despite_cancel)

    async def _commit(
        self, events: Sequence[e.TaskEvent], to: str, *, despite_cancel: bool = False
    ) -> Next:
        """Append events under the lock; they are built once and keep their ids."""
        if self.task.cancel_requested and not despite_cancel:
            return Next.WIND_UP  # a hint may have told so since the handler ended
        envelopes = self._envelopes(events, to)
        tries = 0
        while True:
            tries += 1
            try:
                self._stored(envelopes, await self._append(envelopes))
                return Next.GO_ON
            except Unavailable as error:
                _log.warning("task `%s` waits for the bus: %s", self.cause.task_id, error)
            except Contested as error:
                verdict = await self._after(error, envelopes)
                if verdict is Next.WIND_UP and despite_cancel:
                    verdict = Next.AGAIN
                if verdict is not Next.AGAIN:
                    return verdict
                if tries == 1:
                    continue  # moved meanwhile, as a cancel or a stranger may: at once
            await anyio.sleep(_PATIENCE.delay_s(tries, self._ports.ids.random()))

    async def look(self) -> Next:
        """Read the task again.

        Returns:
            GO_ON if this holder still carries it; otherwise what the log demands: ACK, DROP or
            WIND_UP.
        """
        async with self._writing:
            return self._heed(await self._history(), ())

    async def _after(self, error: Contested, envelopes: Sequence[Envelope]) -> Next:
        """Read the task after a refused or unanswered append, and follow the rule."""
        verdict = self._heed(await self._history(), envelopes)
        self._ports.telemetry.count(APPENDS_REFUSED)
        _log.warning(
            "append to task `%s` %s (%s): %s",
            self.cause.task_id,
            "refused" if isinstance(error, Fenced) else "unanswered",
            error,
            verdict.value,
        )
        return verdict

    def _heed(self, records: Sequence[Record], envelopes: Sequence[Envelope]) -> Next:
        """Follow the rule at the head of the log; `envelopes` are what this holder tried to append.

        The head becomes what later appends are fenced on only while this holder carries the turn:
        knowing what another one wrote must never let a former carrier write after it.
        """
        head = fold(records)
        verdict = after_refusal(
            head,
            position=self._position,
            claims=self._claims,
            instance=self._ports.instance,
            stored=_stand(envelopes, records),
        )
        if verdict not in (Next.ACK, Next.DROP):
            self.task = head
        return verdict

    async def _append(self, envelopes: Sequence[Envelope]) -> tuple[int, ...]:
        telemetry = self._ports.telemetry
        with ExitStack() as spans:
            for envelope in envelopes:
                if envelope.to != LOG:  # a fact is sent to nobody
                    spans.enter_context(telemetry.span(sending(envelope, self.delivery.shard)))
            telemetry.count(SENT, len(envelopes))
            return await self._ports.bus.append(envelopes, {self.cause.task_id: self.task.moved})

    async def _history(self) -> list[Record]:
        """The task's records, waiting for the bus as long as it takes."""
        tries = 0
        while True:
            tries += 1
            try:
                return await self._ports.bus.history(
                    self.cause.task_id, root_task_id=self.cause.root_task_id
                )
            except Unavailable as error:
                _log.warning("task `%s` cannot be read: %s", self.cause.task_id, error)
                await anyio.sleep(_PATIENCE.delay_s(tries, self._ports.ids.random()))

    def _stored(self, envelopes: Sequence[Envelope], positions: Sequence[int]) -> None:
        now = self._ports.clock.now()
        shard = self.delivery.shard
        records = [
            Record(position=p, stored_at=now, subject=str(v.subject(shard)), raw=b"", envelope=v)
            for v, p in zip(envelopes, positions, strict=True)
        ]
        self.task = fold(records, self.task)
        for envelope in envelopes:
            if metric := _COUNTED.get(type(envelope.event)):
                self._ports.telemetry.count(metric)

    def _envelopes(self, events: Sequence[e.TaskEvent], to: str) -> list[Envelope]:
        # The version makes the id of each append its own: it grows with everything stored.
        now, version = self._ports.clock.now(), self.task.version
        made = [
            replace(
                self.cause.next(
                    event,
                    event_id=derived_id(self.cause.event_id, event.kind, version),
                    sender=self._sender,
                    occurred_at=now,
                ),
                hop=self.task.hops,
                attempt=self.attempt,
                started_at=self.started_at,
            )
            for event in events
        ]
        self._claims.update(v.event_id for v in made if isinstance(v.event, e.WorkStarted))
        made[-1] = replace(made[-1], to=to)
        return [stamped(envelope) for envelope in made]


def _stand(envelopes: Sequence[Envelope], records: Sequence[Record]) -> bool:
    """Whether these very events, by id and instance, are in the history."""
    there = {
        (r.envelope.event_id, r.envelope.sender.instance) for r in records if r.envelope is not None
    }
    return all((v.event_id, v.sender.instance) in there for v in envelopes)
