"""One delivery's turn as the log sees it: its role, its claim, its appends.

Nothing here knows about handlers. Every append is fenced on what this holder has read; what
follows a refusal or a lost answer is decided by `mesh.core.carrier`, never by hope.

Source: design, section 4.
"""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from math import inf

import anyio

from mesh.agent.definition import Agent
from mesh.agent.offspring import report
from mesh.agent.ports import Ports
from mesh.bus.port import Delivery
from mesh.core import event as e
from mesh.core.backoff import Backoff
from mesh.core.carrier import Hold, Next, Rule, caught_up, reclaimed, reread, taken, tried, wrote
from mesh.core.decide import claim, fail
from mesh.core.envelope import Envelope, Record, Sender
from mesh.core.payload import Failure
from mesh.core.subject import LOG
from mesh.core.task import Task
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
        cause: The delivery's envelope.
        hold: What this holder knows.
        records: The task's history as far as it was read or written here, ascending.
        attempt: Which run this one is, 1-based.
        started_at: When it began.
    """

    def __init__(self, agent: Agent, ports: Ports, delivery: Delivery, cause: Envelope) -> None:
        self.cause, self.delivery = cause, delivery
        self.hold = Hold(
            position=delivery.record.position,
            instance=ports.instance,
            redelivered=delivery.redelivered,
        )
        self.records: list[Record] = []
        self._news: list[Record] = []
        self.attempt = 1
        self.started_at = ports.clock.now()
        self._ports = ports
        self.sender = Sender(
            agent=agent.name, instance=ports.instance, behaviour_version=agent.behaviour
        )
        self._ending, self._read = False, False
        self._writing = anyio.Lock()

    @property
    def task(self) -> Task:
        """Folded state as far as this holder has read or written."""
        return self.hold.task

    @property
    def claimed(self) -> bool:
        """Whether this holder tried to claim the turn."""
        return bool(self.hold.claims)

    @property
    def informed(self) -> bool:
        """Whether this holder would know if somebody had carried the turn before it.

        A broker that was killed may have lost how often it gave a delivery out, so that one comes
        again as if it were new.
        """
        return self._read or self.claimed

    def news(self) -> list[Record]:
        """What was read or written since this was asked last; some of it may come twice."""
        news, self._news = self._news, []
        return news

    def recall(self) -> None:
        """Give all that is known as news again: for another run over the record."""
        self._news = list(self.records)

    @property
    def failures(self) -> int:
        """How often the handler failed without progress, if this run fails too."""
        turn = self.task.turn
        if turn is None:
            return self.attempt
        return max(1, turn.attempts) if turn.claim_open else turn.attempts + 1

    def left_s(self) -> float:
        """Seconds until the task's deadline; infinite without one."""
        if self.task.overdue:
            return 0.0
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

    async def judge(self, history: list[Record] | None = None) -> Next:
        """Read what matters and find the delivery's role.

        Args:
            history: The task's whole history, if it was just read.

        Returns:
            ACK if it opened no turn or the turn is over, DROP if somebody else has claimed it,
            WIND_UP if a cancel waits, AGAIN if this holder is to run it.
        """
        fresh = not self.delivery.redelivered
        self._read = True
        if history is not None:
            self.records = history
        elif fresh and isinstance(self.cause.event, e.TaskSubmitted):
            self.records = [self.delivery.record]  # nothing can stand before a submit
            self._read = False
        else:
            self.records = await self._history(after=0)
        self.recall()
        lease_valid = self.delivery.lease_valid
        self.hold, verdict = taken(self.hold, self.records, lease_valid=lease_valid)
        if turn := self.task.turn:
            self.attempt = turn.attempts + 1
        return verdict

    async def claim_first(self) -> Next:
        """Claim before running, as every redelivery must.

        Returns:
            GO_ON when the claim is stored, WIND_UP when a cancel came right after it, ACK or DROP
            otherwise.
        """
        if not self.delivery.lease_valid:
            return Next.DROP
        envelopes = self._envelopes((claim(self.task, self.cause),), LOG)
        try:
            self._stored(envelopes, await self._append(envelopes))
        except Unavailable:
            return Next.DROP
        except Contested as error:
            verdict = await self._reread(envelopes, reclaimed)
            if verdict is Next.DROP:
                _log.info("claim of task `%s` refused, dropping it: %s", self.cause.task_id, error)
            return verdict
        return Next.GO_ON

    async def claim_running(self) -> Next:
        """Claim while the handler runs already; the order after a refusal is `commit`'s."""
        async with self._writing:
            # Behind the end of its run a claim would take a turn that may be another's by now.
            if self._ending or self.claimed or not self.delivery.lease_valid:
                return Next.GO_ON
            return await self._commit((claim(self.task, self.cause),), LOG)

    async def record(
        self,
        *events: e.TaskEvent,
        beside: Sequence[Envelope] = (),
        catch_up: bool = False,
        despite_cancel: bool = False,
    ) -> Next:
        """Append what the handler did so far, as one; the claim goes with the first of these.

        Args:
            events: Oldest first.
            beside: First events of children, in the same commit.
            catch_up: Read afterwards what informed the task up to this append.
            despite_cancel: They may stand after a requested cancel: they wind up.

        Returns:
            GO_ON when they are stored and this holder carries on; otherwise what the log demands.
        """
        async with self._writing:
            if not self.claimed:
                if not self.delivery.lease_valid:
                    return Next.DROP
                events = (claim(self.task, self.cause), *events)
            verdict = await self._commit(events, LOG, beside, despite_cancel=despite_cancel)
            return await self._catch_up() if verdict is Next.GO_ON and catch_up else verdict

    async def commit(
        self,
        *events: e.TaskEvent,
        to: str = LOG,
        catch_up: bool = False,
        despite_cancel: bool = False,
    ) -> Next:
        """Append what ends this run, as one; the parent of an ended task is told in it.

        Args:
            events: Oldest first.
            to: Addressee of the last one.
            catch_up: Read afterwards whether they ended the turn, as a wait may be met already.
            despite_cancel: They may stand after a requested cancel: they wind up, or give back.

        Returns:
            GO_ON when they are stored; otherwise what the log demands: ACK, DROP or WIND_UP.

        Raises:
            EnvelopeInvalid: The log can never take them.
        """
        self._ending = True
        async with self._writing:
            verdict = await self._commit(events, to, despite_cancel=despite_cancel)
            return await self._catch_up() if verdict is Next.GO_ON and catch_up else verdict

    async def _commit(
        self,
        events: Sequence[e.TaskEvent],
        to: str,
        beside: Sequence[Envelope] = (),
        *,
        despite_cancel: bool = False,
    ) -> Next:
        """Append events under the lock; they are built once and keep their ids."""
        if self.task.cancel_requested and not despite_cancel:
            return Next.WIND_UP  # a hint may have told so since the handler ended
        envelopes = self._envelopes(events, to)
        beside = (*beside, *self._reports(envelopes))
        tries = 0
        while True:
            tries += 1
            try:
                self._stored(envelopes, await self._append(envelopes, beside))
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
        """Read what is new of the task.

        Returns:
            GO_ON if this holder still carries it; otherwise what the log demands: ACK, DROP or
            WIND_UP.
        """
        async with self._writing:
            return await self._reread(())

    async def _after(self, error: Contested, envelopes: Sequence[Envelope]) -> Next:
        """Read the task after a refused or unanswered append, and follow the rule."""
        verdict = await self._reread(envelopes)
        self._ports.telemetry.count(APPENDS_REFUSED)
        _log.warning(
            "append to task `%s` %s (%s): %s",
            self.cause.task_id,
            "refused" if isinstance(error, Fenced) else "unanswered",
            error,
            verdict.value,
        )
        return verdict

    async def _reread(self, envelopes: Sequence[Envelope], rule: Rule = reread) -> Next:
        """Follow the rule at the head of the log; `envelopes` are what was tried to append."""
        new = await self._history(after=self.hold.base.position)
        self._read = True
        before = self.hold
        self.hold, verdict = rule(before, new, envelopes)
        if self.hold is not before:
            self._learn(before.base.position, new)
        return verdict

    async def _catch_up(self) -> Next:
        """Read up to the last own append, no further."""
        base, last = self.hold.base.position, self.task.position
        new = [r for r in await self._history(after=base) if r.position <= last]
        self.hold, verdict = caught_up(self.hold, new)
        self._learn(base, new)
        return verdict

    def _learn(self, base: int, new: Sequence[Record]) -> None:
        """Replace what was written here, above a position, by what was read there."""
        self.records = [r for r in self.records if r.position <= base] + list(new)
        self._news += new

    async def _append(
        self, envelopes: Sequence[Envelope], beside: Sequence[Envelope] = ()
    ) -> tuple[int, ...]:
        telemetry = self._ports.telemetry
        everything = (*envelopes, *beside)
        expected = {v.task_id: 0 for v in beside if isinstance(v.event, e.TaskSubmitted)}
        with ExitStack() as spans:
            for envelope in everything:
                if envelope.to != LOG:  # a fact is sent to nobody
                    spans.enter_context(telemetry.span(sending(envelope, self.delivery.shard)))
            telemetry.count(SENT, len(everything))
            return await self._ports.bus.append(
                everything, {self.cause.task_id: self.task.moved, **expected}
            )

    async def _history(self, *, after: int) -> list[Record]:
        """The task's records, waiting for the bus as long as it takes."""
        tries = 0
        while True:
            tries += 1
            try:
                return await self._ports.bus.history(
                    self.cause.task_id, root_task_id=self.cause.root_task_id, after=after
                )
            except Unavailable as error:
                _log.warning("task `%s` cannot be read: %s", self.cause.task_id, error)
                await anyio.sleep(_PATIENCE.delay_s(tries, self._ports.ids.random()))

    def _stored(self, envelopes: Sequence[Envelope], positions: Sequence[int]) -> None:
        now = self._ports.clock.now()
        shard = self.delivery.shard
        records = [
            Record(position=p, stored_at=now, subject=str(v.subject(shard)), raw=b"", envelope=v)
            for v, p in zip(envelopes, positions[: len(envelopes)], strict=True)
        ]
        self.hold = wrote(self.hold, records)
        self.records += records
        self._news += records
        for envelope in envelopes:
            if metric := _COUNTED.get(type(envelope.event)):
                self._ports.telemetry.count(metric)

    def _envelopes(self, events: Sequence[e.TaskEvent], to: str) -> list[Envelope]:
        # Fresh ids: derived ones could be those of an append that an earlier hold of this process
        # made of the same delivery, and the log would take this one for its repetition.
        now, ids = self._ports.clock.now(), self._ports.ids
        made = [
            replace(
                self.cause.next(
                    event,
                    event_id=ids.fresh(),
                    sender=self.sender,
                    occurred_at=now,
                ),
                hop=self.task.hops,
                attempt=self.attempt,
                started_at=self.started_at,
            )
            for event in events
        ]
        self.hold = tried(self.hold, made)
        made[-1] = replace(made[-1], to=to)
        return [stamped(envelope) for envelope in made]

    def _reports(self, envelopes: Sequence[Envelope]) -> tuple[Envelope, ...]:
        """What the parent is told when the task ends."""
        ends = isinstance(envelopes[-1].event, e.CLOSING)
        return (report(self.task, envelopes),) if ends and self.task.parent_task_id else ()
