"""One delivery's turn, as the IO glue does it, a line at a time.

Every function is a generator: it yields the line it is about to do, and is sent what fate has in
store for it ("" if nothing). Whoever holds the generator may let any others go first, or forget it,
which is a crash.

Source: design, section 4.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

from mesh.core import event as e
from mesh.core.carrier import Hold, Next, Rule, caught_up, reclaimed, reread, taken, tried, wrote
from mesh.core.decide import claim
from mesh.core.envelope import Envelope, Record, Sender
from mesh.core.ids import derived_id
from mesh.core.subject import LOG
from mesh.core.task import Task
from mesh.errors import Contested, Unavailable
from tests.make import START
from tests.unit.leg.log import Grip, Log
from tests.unit.leg.story import Story, tell

__all__ = ["APPEND", "Line", "Lines", "Turn"]

APPEND = ("down", "lost", "unanswered", "late")
"""What may happen to an append instead."""


@dataclass(frozen=True, slots=True)
class Line:
    """What is about to be done, and what else may become of it."""

    text: str
    fates: tuple[str, ...] = ()
    looks: tuple[str, ...] = ()


Lines = Generator[Line, str, Next]


class Turn:
    """What the holder of a delivery knows and does."""

    def __init__(self, log: Log, grip: Grip, agent: str) -> None:
        self.log, self.grip = log, grip
        cause = grip.delivery.record.envelope
        if cause is None:
            raise ValueError("an unreadable delivery has no turn")
        self.cause = cause
        self.hold = Hold(
            position=grip.position, instance=grip.instance, redelivered=grip.redelivered
        )
        self.records: list[Record] = []
        self.complete = 0
        self.attempt = 1
        self.sender = Sender(agent=agent, instance=grip.instance)

    @property
    def task(self) -> Task:
        """As far as it was read and written here."""
        return self.hold.task

    @property
    def claimed(self) -> bool:
        """Whether it tried to."""
        return bool(self.hold.claims)

    def story(self) -> Story:
        """What the handler can know."""
        return tell(self.records)

    def judge(self) -> Lines:
        """Read to the head, and find the role; by then the read may be old."""
        if not self.grip.redelivered and isinstance(self.cause.event, e.TaskSubmitted):
            self.records = [self.grip.delivery.record]
        else:
            yield Line("read")
            self.records = self.log.history()
        self.complete = self.records[-1].position
        yield Line("judge")
        self.hold, verdict = taken(self.hold, self.records, lease_valid=self.grip.lease)
        if turn := self.task.turn:
            self.attempt = turn.attempts + 1
        return verdict

    def claim_first(self) -> Lines:
        """As every redelivery must before anything else."""
        if not self.grip.lease:
            return Next.DROP
        envelopes = self._envelopes((claim(self.task, self.cause),), LOG)
        fate = yield Line("append claim", APPEND)
        try:
            self._append(envelopes, fate)
        except Unavailable:
            return Next.DROP
        except Contested:
            return (yield from self._reread(envelopes, reclaimed))
        return Next.GO_ON

    def claim_running(self) -> Lines:
        """Once the handler takes long."""
        if self.claimed or not self.grip.lease:
            return Next.GO_ON
        return (yield from self.commit(claim(self.task, self.cause)))

    def record(
        self, *events: e.TaskEvent, catch_up: bool = False, despite_cancel: bool = False
    ) -> Lines:
        """Append what the handler did so far; the claim goes with the first of these."""
        if not self.claimed:
            if not self.grip.lease:
                return Next.DROP
            events = (claim(self.task, self.cause), *events)
        verdict = yield from self.commit(*events, despite_cancel=despite_cancel)
        if verdict is Next.GO_ON and catch_up:
            verdict = yield from self.catch_up()
        return verdict

    def commit(self, *events: e.TaskEvent, to: str = LOG, despite_cancel: bool = False) -> Lines:
        """Append; the events are built once and keep their ids."""
        if self.task.cancel_requested and not despite_cancel:
            return Next.WIND_UP
        envelopes = self._envelopes(events, to)
        name = "+".join(event.kind.partition(".")[2] for event in events)
        while True:
            fate = yield Line(f"append {name}", APPEND)
            try:
                self._append(envelopes, fate)
            except Unavailable:
                continue
            except Contested:
                verdict = yield from self._reread(envelopes, reread)
                if verdict is Next.WIND_UP and despite_cancel:
                    verdict = Next.AGAIN
                if verdict is not Next.AGAIN:
                    return verdict
            else:
                return Next.GO_ON

    def look(self) -> Lines:
        """Read what is new."""
        return (yield from self._reread((), reread))

    def catch_up(self) -> Lines:
        """Read up to the last own append, no further."""
        base, last = self.hold.base.position, self.task.position
        yield Line("read up to it")
        new = [r for r in self.log.history(base) if r.position <= last]
        self.hold, verdict = caught_up(self.hold, new)
        self._learn(base, new)
        return verdict

    def _reread(self, envelopes: Sequence[Envelope], rule: Rule) -> Lines:
        yield Line("read again")
        before = self.hold
        new = self.log.history(before.base.position)
        self.hold, verdict = rule(before, new, envelopes)
        if self.hold is not before:
            self._learn(before.base.position, new)
        return verdict

    def _learn(self, base: int, new: Sequence[Record]) -> None:
        self.records = [r for r in self.records if r.position <= base] + list(new)
        self.complete = self.records[-1].position

    def _append(self, envelopes: Sequence[Envelope], fate: str) -> None:
        positions = self.log.append(envelopes, self.task.moved, self.grip, fate)
        records = [
            Record(position=p, stored_at=START, subject=str(v.subject("s0")), raw=b"", envelope=v)
            for v, p in zip(envelopes, positions, strict=True)
        ]
        self.hold = wrote(self.hold, records)
        self.records += records

    def _envelopes(self, events: Sequence[e.TaskEvent], to: str) -> list[Envelope]:
        # Ids are of this hold: the same process may have held the delivery before, at this version.
        of, version = f"{self.cause.event_id}/{self.grip.number}", self.task.version
        made = [
            self.cause.next(
                event,
                event_id=derived_id(of, event.kind, version + n),
                sender=self.sender,
                occurred_at=START,
            )
            for n, event in enumerate(events)
        ]
        self.hold = tried(self.hold, made)
        return [*made[:-1], replace(made[-1], to=to)]
