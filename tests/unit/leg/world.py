"""The world around the log: worker processes, children, the ledger, the gateway.

Source: design, sections 3 and 4.
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from functools import partial

from mesh.core import event as e
from mesh.errors import Fenced
from tests.make import START, envelope
from tests.unit.leg.log import Delivery, Grip, Log
from tests.unit.leg.program import PROGRAMS
from tests.unit.leg.story import Thing
from tests.unit.leg.turn import APPEND, Line
from tests.unit.leg.worker import Bench, carry

__all__ = ["KINDS", "Option", "Place", "Setting", "World", "news"]

KINDS = frozenset({"crash", "expire", "fail", "drain", "diverge", "count", "again", *APPEND})
"""Every kind of fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One world: its program, how many workers an agent has, and what faults it may see."""

    program: str
    workers: int = 2
    retry: str = "nak"
    limit: int = 4
    faults: int = 3
    kinds: frozenset[str] = KINDS
    cancel: bool = False
    deadline: bool = False


@dataclass(slots=True)
class Place:
    """One process of an agent, which holds one delivery at a time."""

    bench: Bench
    lines: Generator[Line, str, None] | None = None
    line: Line | None = None
    grip: Grip | None = None
    lives: int = 0

    def __str__(self) -> str:
        at = f"@{self.grip.position}{'' if self.grip.lease else ' zombie'}" if self.grip else ""
        return f"{self.bench.instance}{at} {self.line.text if self.line else ''}"


@dataclass(slots=True)
class Teller:
    """Somebody outside who writes to the task, a line at a time."""

    lines: Iterator[str]


Option = tuple[str, Callable[[], object]]
"""What may happen, and how."""


class World:
    """A task, its agents, and what may happen to them."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.log = Log(PROGRAMS[setting.program])
        agents = ("planner", "writer") if setting.program == "relay" else ("planner",)
        self.places = [
            Place(Bench(agent, f"{agent}-{n}.0"))
            for agent in agents
            for n in range(setting.workers)
        ]
        self.tellers: list[Teller] = []
        self.sent: dict[tuple[str, Thing], int] = {}
        self.things: dict[Thing, str] = {}
        self.told = self.reports = 0
        first = envelope(e.TaskSubmitted(), to="planner")
        deadline = START if setting.deadline else None
        self.log.append([replace(first, deadline=deadline)], 0)

    # What workers do.

    def take(self, position: int, *, count_lost: bool = False, place: Place | None = None) -> Place:
        """A delivery goes to a free process."""
        delivery = self.log.deliveries[position]
        if count_lost:
            self.log.faults["count"] += 1
        place = place or next(p for p in self.free() if p.bench.agent == _to(delivery))
        redelivered = delivery.times > 0 and not count_lost
        delivery.times += 1
        grip = Grip(delivery, place.bench.instance, redelivered, delivery.times)
        delivery.held = grip
        place.grip = grip
        place.lines = carry(
            self.log, place.bench, grip, limit=self.setting.limit, retry=self.setting.retry
        )
        place.line = next(place.lines)
        return place

    def go(self, place: Place, fate: str = "") -> str:
        """The line a process stands before is done; gives the next one's text, "" at the end."""
        if place.lines is None:
            raise LookupError("this process holds nothing")
        if fate in KINDS:
            self.log.faults[fate] += 1
        try:
            place.line = place.lines.send(fate)
        except StopIteration:
            place.lines = place.line = place.grip = None
        return place.line.text if place.line else ""

    def to(self, place: Place, text: str) -> None:
        """Let a process go on until it stands before such a line."""
        while place.line is None or not place.line.text.startswith(text):
            if place.lines is None:
                raise LookupError(f"it ended before `{text}`")
            self.go(place)

    def crash(self, place: Place) -> None:
        """It is gone, with all it knew; another takes its place."""
        self.log.faults["crash"] += 1
        if place.grip is not None:
            self.log.let_go(place.grip)
        place.lives += 1
        name = place.bench.instance.rpartition(".")[0]
        place.bench = Bench(place.bench.agent, f"{name}.{place.lives}")
        place.lines = place.line = place.grip = None

    def expire(self, place: Place) -> None:
        """Its lease runs out; it goes on."""
        self.log.faults["expire"] += 1
        if place.grip is not None:
            self.log.let_go(place.grip)

    def free(self) -> list[Place]:
        """Processes that hold nothing."""
        return [place for place in self.places if place.lines is None]

    def waiting(self) -> list[Delivery]:
        """Deliveries that nobody holds, each with a free process of its agent."""
        agents = {place.bench.agent for place in self.free()}
        return [
            d
            for d in self.log.deliveries.values()
            if not d.acked and d.held is None and _to(d) in agents
        ]

    # What the world outside does.

    def inform(self, event: e.TaskEvent, to: str = "") -> Iterator[str]:
        """Tell the owner; if the task changed hands meanwhile, tell the new one as well."""
        self.reports += 1
        number = self.reports
        for again in range(9):
            hops, owner = self.log.story.hops, to or self.log.story.owner
            yield "tell the owner"
            id = f"{event.kind}-{number}-{again}"
            self.log.append([envelope(event, to=owner, sender="ledger", event_id=id)], None)
            yield "look whether it is still the owner"
            if to or hops == self.log.story.hops:
                return

    def move(self, event: e.TaskEvent, allowed: Callable[[], bool]) -> Iterator[str]:
        """The gateway moves the task: it reads, decides, and begins anew when refused."""
        number = len(self.log.records)
        while allowed():
            task = self.log.task
            made = envelope(event, to=task.owner, event_id=f"{event.kind}-{number}")
            yield "move the task"
            try:
                self.log.append([made], task.moved)
            except Fenced:
                continue
            return

    def start(self, lines: Iterator[str]) -> None:
        """Somebody outside begins to write."""
        teller = Teller(lines)
        self.tellers.append(teller)
        self.tell(teller)

    def tell(self, teller: Teller) -> None:
        """One line of somebody outside."""
        if next(teller.lines, None) is None:
            self.tellers.remove(teller)

    def say(self, event: e.TaskEvent, to: str = "") -> None:
        """Somebody outside informs the task, at once."""
        for _ in self.inform(event, to):
            pass

    def order(self, event: e.TaskEvent) -> None:
        """Somebody outside moves the task, at once."""
        for _ in self.move(event, lambda: True):
            pass

    def cancel(self) -> None:
        """Somebody wants it no more."""
        self.start(self.move(e.CancelRequested(), lambda: not self.log.story.ended))

    def unpark(self) -> None:
        """Somebody lets it go on."""
        self.start(self.move(e.Unparked(), lambda: self.log.story.parked))

    def redrive(self) -> None:
        """Somebody gives the dead letter to its agent again."""
        self.start(self.move(e.Redriven(), lambda: self.log.story.dead))

    def overdue(self) -> None:
        """The ledger fires the deadline."""
        self.start(self.inform(e.TimerFired(timer_id="deadline")))

    def outside(self) -> list[Option]:
        """What others will do sooner or later."""
        story, options = self.log.story, list[Option]()
        for thing, to in self._things().items():
            for event in news(thing):
                if (event.kind, thing) not in self.sent:
                    options.append((f"tell {thing}", partial(self.tell_of, thing, event, to)))
        if self.tellers:
            return options
        for thing in sorted(thing for group in story.groups or () for thing in group):
            if thing[0] == "signal":
                options.append((f"tell {thing}", partial(self.tell_of, thing, news(thing)[0])))
        if story.parked:
            options.append(("unpark", self.unpark))
        if story.dead:
            options.append(("redrive", self.redrive))
        return options

    def _things(self) -> dict[Thing, str]:
        """What was ever asked for, and to whom it is to be told: "" is the owner then."""
        for story in self.log.stories[self.told :]:
            for thing in sorted(story.asked):
                if thing[0] != "signal":
                    self.things.setdefault(thing, story.owner if thing[0] == "child" else "")
        self.told = len(self.log.stories)
        return self.things

    def tell_of(self, thing: Thing, event: e.TaskEvent, to: str = "") -> None:
        """Somebody outside begins to tell that a thing has come."""
        key = (event.kind, thing)
        self.sent[key] = self.sent.get(key, 0) + 1
        self.start(self.inform(event, to))


def _to(delivery: Delivery) -> str:
    envelope = delivery.record.envelope
    return envelope.to if envelope else ""


def news(thing: Thing) -> list[e.TaskEvent]:
    """How a thing may come."""
    match thing:
        case ("child", id):
            return [e.ChildFinished(child_task_id=id)]
        case ("timer", id):
            return [e.TimerFired(timer_id=id)]
        case ("input", id):
            return [e.InputReceived(request_id=id), e.TimerFired(timer_id=id)]
        case _:
            return [e.Signaled(name=thing[1].partition("/")[0])]
