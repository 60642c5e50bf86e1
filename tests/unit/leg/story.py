"""What a history says about a leg, told a second time and as simply as possible.

It shares no code with `mesh.core.fold`: sets of what was asked for and of what came, and the wait
compared with them each time. The machine's handlers read it, and the machine compares the fold
with it after every record.

Source: design, section 4.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from mesh.core import event as e
from mesh.core.envelope import Envelope, Record

__all__ = ["Story", "Thing", "tell"]

Thing = tuple[str, str]
"""What was waited for, and its id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A task's current leg.

    `carrier` is the position of the delivery that carries it, `claim` that of its last claim;
    `came` holds what was asked for and has come, recorded steps too, in that order; `how` says
    by which kind of event.
    `groups` are the waits of a suspended leg. `opened` is set only at a position that opened a
    turn. `limited` says that the task has a deadline.
    """

    owner: str = ""
    hops: int = 0
    limited: bool = False
    opened: bool = False
    carrier: int | None = None
    claim: int | None = None
    recorded: bool = False
    asked: frozenset[Thing] = frozenset()
    came: tuple[Thing, ...] = ()
    how: dict[Thing, str] = field(default_factory=dict[Thing, str])
    signals: tuple[str, ...] = ()
    undos: tuple[tuple[int, str], ...] = ()
    registered: frozenset[str] = frozenset()
    groups: tuple[frozenset[Thing], ...] | None = None
    parked: bool = False
    canceled: bool = False
    overdue: bool = False
    ended: str = ""
    dead: bool = False

    @property
    def idle(self) -> bool:
        """Whether it waits or is held."""
        return self.groups is not None or self.parked

    @property
    def met(self) -> bool:
        """Whether a group of its waits has come."""
        return any(group <= set(self.came) for group in self.groups or ())

    @property
    def steps(self) -> tuple[str, ...]:
        """Names of the handler's steps that are recorded."""
        return tuple(id for what, id in self.came if what == "step")

    @property
    def open(self) -> set[Thing]:
        """What was asked for and has not come, and the undos that have not run."""
        return {*(self.asked - set(self.came)), *(("undo", name) for _, name in self.undos)}

    def first(self, *things: Thing) -> Thing | None:
        """Which of these came first, if any."""
        return next((thing for thing in self.came if thing in things), None)


def tell(records: Iterable[Record], story: Story | None = None) -> Story:
    """Tell a history, or go on with one."""
    story = story or Story()
    for record in records:
        story = replace(story, opened=False)
        if record.envelope is not None:
            story = _next(story, record.envelope, record.position)
    return story


def _next(s: Story, v: Envelope, p: int) -> Story:
    if isinstance(v.event, e.Redriven) and s.dead:
        return replace(_carried(s, p), ended="", dead=False)
    if v.event.event_class == "i":
        live = v.to == s.owner and (not s.ended or s.dead)
        return _informed(s, v.event, p) if live else s
    if s.ended:
        return s
    if isinstance(v.event, e.TaskSubmitted | e.HandedOff):
        return _leg(s, v, p)
    if isinstance(v.event, e.DeadLettered) and v.event.delivery_position != s.carrier:
        return s  # the notice of an unreadable message
    if isinstance(v.event, e.CLOSING):
        dead = isinstance(v.event, e.DeadLettered)
        return replace(
            s, carrier=None, groups=None, parked=False, ended=v.event.kind, dead=dead, claim=None
        )
    return _moved(s, v.event, p)


def _leg(s: Story, v: Envelope, p: int) -> Story:
    if isinstance(v.event, e.TaskSubmitted) and s.owner:
        return s
    hops = s.hops + isinstance(v.event, e.HandedOff)
    limited = s.limited if s.owner else v.deadline is not None
    new = Story(owner=v.to, hops=hops, limited=limited, canceled=s.canceled, overdue=s.overdue)
    return _carried(new, p)


def _carried(s: Story, p: int) -> Story:
    return replace(s, carrier=p, claim=None, opened=True, groups=None, parked=False)


def _moved(s: Story, event: e.TaskEvent, p: int) -> Story:
    match event:
        case e.CancelRequested():
            s = replace(s, canceled=True)
            return _carried(s, p) if s.idle else s
        case e.Unparked():
            return _carried(s, p) if s.parked else s
        case e.WorkStarted() | e.Resumed():
            return replace(s, claim=p) if s.carrier else s
        case e.Parked():
            rests = s.carrier and not s.canceled and not s.overdue
            return replace(s, parked=True, carrier=None, claim=None, recorded=True) if rests else s
        case e.Suspended():
            return _suspended(replace(s, recorded=True), event) if s.carrier else s
        case e.WorkReleased() | e.AttemptFailed(ordinal=0) | e.Noted() | e.Spent():
            return s
        case _:
            return _recorded(replace(s, recorded=True), event)


def _suspended(s: Story, event: e.Suspended) -> Story:
    numbers = {wait.group for wait in event.waits}
    groups = tuple(
        frozenset((w.what, w.id) for w in event.waits if w.group == n) for n in sorted(numbers)
    )
    resting = replace(s, groups=groups, carrier=None, claim=None)
    return s if s.canceled or s.overdue or resting.met else resting


def _recorded(s: Story, event: e.TaskEvent) -> Story:
    match event:
        case e.StepRecorded(undoes=0):
            return replace(s, came=(*s.came, ("step", event.name)))
        case e.StepRecorded():
            return replace(s, undos=tuple(u for u in s.undos if u[0] != event.undoes))
        case e.Delegated():
            return replace(s, asked=s.asked | {("child", event.child_task_id)})
        case e.TimerSet():
            return replace(s, asked=s.asked | {("timer", event.timer_id)})
        case e.InputRequested():
            return replace(s, asked=s.asked | {("input", event.request_id)})
        case e.CompensationRegistered():
            undos = (*s.undos, (event.ordinal, event.name))
            return replace(s, undos=undos, registered=s.registered | {event.name})
        case _:
            return s


def _informed(s: Story, event: e.TaskEvent, p: int) -> Story:
    match event:
        case e.TimerFired(timer_id="deadline"):
            woken = _carried(s, p) if s.idle and s.limited and not s.overdue else s
            return replace(woken, overdue=s.limited)
        case e.ChildFinished():
            return _came(s, ("child", event.child_task_id), event.kind, p)
        case e.InputReceived():
            return _came(s, ("input", event.request_id), event.kind, p)
        case e.TimerFired():
            timer = ("timer", event.timer_id)
            thing = timer if timer in s.asked else ("input", event.timer_id)
            return _came(s, thing, event.kind, p)
        case e.Signaled():
            if s.ended and not s.recorded:
                return s  # its leg is empty: a redrive begins anew
            s = replace(s, signals=(*s.signals, event.name), recorded=True)
            thing = ("signal", f"{event.name}/{s.signals.count(event.name)}")
            return _came(replace(s, asked=s.asked | {thing}), thing, event.kind, p)
        case _:
            return s


def _came(s: Story, thing: Thing, kind: str, p: int) -> Story:
    if thing not in s.asked or thing in s.came:
        return s
    s = replace(s, came=(*s.came, thing), how={**s.how, thing: kind})
    return _carried(s, p) if s.met else s
