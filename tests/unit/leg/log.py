"""The log of the simulated world: the fence, one durable consumer for each agent, and the oracle.

Every append is judged when it is stored, every ack when it is made: whatever is wrong then is
raised as `Wrong` there, with the history in it.

Source: design, sections 3 and 4.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from mesh.core import event as e
from mesh.core.carrier import opens_turn
from mesh.core.envelope import Envelope, Record
from mesh.core.fold import evolve
from mesh.core.subject import LOG
from mesh.core.task import EMPTY, Task
from mesh.errors import Fenced, Unavailable, Unresolved
from tests.make import START
from tests.unit.leg.compare import as_folded, as_told
from tests.unit.leg.program import End, Program, Run
from tests.unit.leg.story import Story, Thing, tell

__all__ = ["Delivery", "Grip", "Log", "Wrong"]

_CLAIMS = (e.WorkStarted, e.Resumed)
_TAKES_OVER = (*_CLAIMS, e.DeadLettered)
_AFTER_CANCEL = (*_CLAIMS, e.WorkReleased, e.Canceled)


class Wrong(AssertionError):
    """The rule was broken."""


@dataclass(slots=True)
class Delivery:
    """One record addressed to an agent: `times` handed out, `held` by whoever has its lease."""

    record: Record
    times: int = 0
    acked: bool = False
    held: "Grip | None" = None


@dataclass(slots=True, eq=False)
class Grip:
    """One worker's hold of one delivery, its `number`-th; without `lease` it is a zombie."""

    delivery: Delivery
    instance: str
    redelivered: bool
    number: int
    lease: bool = True

    @property
    def position(self) -> int:
        """Of the delivery."""
        return self.delivery.record.position


@dataclass(slots=True)
class Log:
    """One task's history and what follows from it."""

    program: Program
    records: list[Record] = field(default_factory=list[Record])
    stories: list[Story] = field(default_factory=lambda: [Story()])
    task: Task = EMPTY
    moved: int = 0
    writers: dict[int, Grip] = field(default_factory=dict[int, Grip])
    ids: dict[str, Record] = field(default_factory=dict[str, Record])
    deliveries: dict[int, Delivery] = field(default_factory=dict[int, Delivery])
    openers: set[int] = field(default_factory=set[int])
    late: list[tuple[Grip, Sequence[Envelope], int]] = field(
        default_factory=list[tuple[Grip, Sequence[Envelope], int]]
    )
    runs: Counter[str] = field(default_factory=Counter[str])
    faults: Counter[str] = field(default_factory=Counter[str])
    abandoned: int = 0

    @property
    def story(self) -> Story:
        """The leg now."""
        return self.stories[-1]

    def history(self, after: int = 0) -> list[Record]:
        """Complete to the head."""
        return self.records[after:]

    def append(
        self,
        envelopes: Sequence[Envelope],
        moved: int | None,
        grip: Grip | None = None,
        fate: str = "",
    ) -> list[int]:
        """Store a batch, fenced unless `moved` is None.

        `fate`: `down` and `lost` write nothing, `unanswered` loses the reply, `late` is stored
        (or refused) some time after its writer gave up on the reply.
        """
        if fate == "down":
            raise Unavailable("the bus is down")
        if fate == "late" and grip is not None and moved is not None:
            self.late.append((grip, envelopes, moved))
        if fate in ("lost", "late"):
            raise Unresolved("no answer to an append")
        positions = self._stored(envelopes, moved, grip)
        if fate == "unanswered":
            raise Unresolved("no answer to an append")
        return positions

    def arrive(self, index: int = 0) -> None:
        """An append that was on its way all the time reaches the log."""
        grip, envelopes, moved = self.late.pop(index)
        try:
            self._stored(envelopes, moved, grip)
        except Fenced:
            return  # nobody listens any more

    def run(self, name: str, read: Story, undo: str = "") -> None:
        """A step's function is called by who has read so much."""
        if name in read.steps:
            raise Wrong(self.told(f"P2: recorded step `{name}` runs again"))
        if undo and undo not in self.story.registered:
            raise Wrong(self.told(f"P5: `{name}` runs, `{undo}` is not registered"))
        self.runs[f"{self.story.hops}/{name}"] += 1
        extra = sum(n - 1 for n in self.runs.values() if n > 1)
        # A run that lost its race was not to be recorded: that it is run again is nobody's fault.
        if extra > self.faults.total() + self.abandoned:
            raise Wrong(self.told(f"P6: {extra} extra runs, faults {dict(self.faults)}"))

    def ack(self, grip: Grip) -> None:
        """A late ack counts as well as any other."""
        if grip.position in self.openers and self.story.carrier == grip.position:
            raise Wrong(self.told(f"P1: acked {grip.position} before its turn was over"))
        grip.delivery.acked = True
        self.let_go(grip)

    def let_go(self, grip: Grip) -> None:
        """Neither acked nor held any more."""
        grip.lease = False
        if grip.delivery.held is grip:
            grip.delivery.held = None

    def nak(self, grip: Grip) -> None:
        """Whoever else holds it, it comes again."""
        grip.lease = False
        grip.delivery.held = None

    def told(self, what: str) -> str:
        """What is wrong, and the history that shows it."""
        lines = (
            f"  {r.position} {r.envelope.event} to {r.envelope.to} by {r.envelope.sender.instance}"
            for r in self.records
            if r.envelope
        )
        return "\n".join((what, *lines))

    def _stored(
        self, envelopes: Sequence[Envelope], moved: int | None, grip: Grip | None
    ) -> list[int]:
        known = [self.ids.get(v.event_id) for v in envelopes]
        mine = [
            r.position
            for r, v in zip(known, envelopes, strict=True)
            if r and r.envelope and r.envelope.sender == v.sender
        ]
        if len(mine) == len(envelopes):
            return mine
        if (moved is not None and moved != self.moved) or any(known):
            raise Fenced(envelopes[0].task_id, expected=moved or 0, actual=self.moved)
        if grip is not None:
            self._judge(envelopes, grip)
        return [self._keep(v, grip) for v in envelopes]

    def _keep(self, envelope: Envelope, grip: Grip | None) -> int:
        position = len(self.records) + 1
        record = Record(
            position=position,
            stored_at=START + timedelta(seconds=position),
            subject=str(envelope.subject("s0")),
            raw=b"",
            envelope=envelope,
        )
        self.records.append(record)
        if envelope.event.event_class == "m":
            self.moved = position
        self.ids[envelope.event_id] = record
        self.task = evolve(self.task, record)
        self.stories.append(tell([record], self.story))
        if grip is not None:
            self.writers[position] = grip
        if envelope.to != LOG:
            self.deliveries[position] = Delivery(record)
        if self.story.opened:
            self.openers.add(position)
        self._compare(position)
        return position

    def _compare(self, position: int) -> None:
        """The fold and the story tell the same."""
        seen, told = as_folded(self.task), as_told(self.story)
        if seen != told or opens_turn(self.task, position) != self.story.opened:
            raise Wrong(self.told(f"at {position} fold says {seen}, the story {told}"))

    def _judge(self, envelopes: Sequence[Envelope], grip: Grip) -> None:
        """What an agent may append: it carries the turn, and the handler would ask for it."""
        story = self.story
        events = [v.event for v in envelopes]
        if story.carrier != grip.position:
            raise Wrong(self.told(f"P3: {events} by {grip.position}, which carries nothing"))
        claimed = self.writers.get(story.claim or 0)
        takes_over = grip.redelivered and len(events) == 1 and isinstance(events[0], _TAKES_OVER)
        if claimed and claimed.instance != grip.instance and not takes_over:
            raise Wrong(self.told(f"P3: {events} by {grip.instance}, which lost its claim"))
        for event in events:
            self._judge_event(event, story)

    def _judge_event(self, event: e.TaskEvent, story: Story) -> None:
        undo = isinstance(event, e.StepRecorded) and event.undoes
        if story.canceled and not undo and not isinstance(event, _AFTER_CANCEL):
            raise Wrong(self.told(f"P5: {event} after a cancel"))
        if isinstance(event, e.StepRecorded) and not undo:
            if event.name in story.steps:
                raise Wrong(self.told(f"P2: `{event.name}` is recorded twice"))
            asked = self.program(story)
            if "-" in event.name and asked != Run(event.name):
                raise Wrong(self.told(f"P4: `{event.name}` was chosen, a re-run asks {asked}"))
        if _asks(event) in story.asked:
            raise Wrong(self.told(f"P2: {event} is recorded twice"))
        if undo and story.undos[-1][0] != undo:
            raise Wrong(self.told(f"undo {undo} out of order, open are {story.undos}"))
        if isinstance(event, e.Canceled | e.Failed) and story.undos:
            raise Wrong(self.told(f"P5: ended without {story.undos}"))
        if isinstance(event, e.Completed | e.HandedOff):
            asked = self.program(story)
            if not isinstance(asked, End):
                raise Wrong(self.told(f"P4: {event}, a re-run asks {asked}"))

    def check_quiet(self) -> None:
        """No worker can do anything now: the task ended or waits for the world outside."""
        story = self.story
        left = [d.record.position for d in self.deliveries.values() if not d.acked]
        if left:
            raise Wrong(self.told(f"P1: nobody takes {left}"))
        if story.ended or (story.idle and not story.met and not story.canceled):
            return
        raise Wrong(self.told("P1: open, nobody carries it, and it waits for nothing"))


def _asks(event: e.TaskEvent) -> Thing:
    match event:
        case e.Delegated(child_task_id=id):
            return ("child", id)
        case e.TimerSet(timer_id=id):
            return ("timer", id)
        case e.InputRequested(request_id=id):
            return ("input", id)
        case _:
            return ("", "")
