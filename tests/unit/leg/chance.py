"""Chance: what happens next, and the end when no fault happens any more.

Source: design, section 4.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

from mesh.core import event as e
from mesh.core.carrier import Roles, follow
from tests.unit.leg.log import Wrong
from tests.unit.leg.story import Thing
from tests.unit.leg.world import Option, Place, World, news

__all__ = ["Chance"]

_MOST = 3_000
_FAULT = 216
_SELDOM = ("fail", "drain", "diverge")


class Chance:
    """Drives a world; `trace` names what happened, for whoever reads a failure."""

    def __init__(self, world: World) -> None:
        self.world, self.log = world, world.log
        self.trace: list[str] = []
        self._due = {
            "cancel": world.setting.cancel,
            "deadline": world.setting.deadline,
        }

    def walk(self, choices: Iterable[int]) -> None:
        """Let each byte choose: one of six times a fault, of a kind that the next byte says."""
        bytes_left = iter(choices)
        for choice in bytes_left:
            options = self._normal()
            if choice >= _FAULT and (faults := self._faults()):
                options = _one_kind(faults, next(bytes_left, 0))
            if not options:
                return
            self._do(options[choice % len(options)])

    def finish(self) -> None:
        """No more faults: everybody goes on in turn; the end must be a good one."""
        self._rest()
        while outside := self.world.outside():
            self._do(outside[0])
            self._rest()
        story = self.log.story
        if not story.ended:
            raise Wrong(self.log.told("P1: it never ends"))
        if story.canceled and story.ended != e.Canceled.kind:
            raise Wrong(self.log.told("P5: not canceled"))
        roles = follow(Roles(), self.log.records)
        if set(roles.openers) != self.log.openers:
            raise Wrong(self.log.told(f"roles {roles.openers}, openers {self.log.openers}"))

    def _rest(self) -> None:
        """Let workers and writers go on until they have nothing to do."""
        world = self.world
        while True:
            busy = self._busy()
            if self.log.late:
                busy.append(("late append", self.log.arrive))
            if waiting := world.waiting():
                at = waiting[0].record.position
                busy.append((f"take {at}", partial(world.take, at)))
            if not busy:
                self.log.check_quiet()
                return
            for option in busy:
                self._do(option)

    def _busy(self) -> list[Option]:
        world = self.world
        busy: list[Option] = [(str(p), partial(world.go, p)) for p in world.places if p.line]
        return busy + [("outsider", partial(world.tell, t)) for t in world.tellers]

    def _normal(self) -> list[Option]:
        """What may happen without a fault."""
        world, options = self.world, self._busy()
        for delivery in world.waiting():
            at = delivery.record.position
            options.append((f"take {at}", partial(world.take, at)))
        options += world.outside()
        for n in range(len(self.log.late)):
            options.append(("late append", partial(self.log.arrive, n)))
        for place in world.places:
            for look in place.line.looks if place.line else ():
                options.append((f"{place} {look}", partial(world.go, place, look)))
        return options

    def _faults(self) -> dict[str, list[Option]]:
        """What may go wrong, by kind."""
        world, found = self.world, dict[str, list[Option]]()
        orders = {"cancel": world.cancel, "deadline": world.overdue}
        for name in [name for name, due in self._due.items() if due]:
            found[name] = [(name, partial(self._order, name, orders[name]))]
        if self.log.faults.total() >= world.setting.faults:
            return found

        def add(kind: str, text: str, happens: Callable[[], object]) -> None:
            if kind in world.setting.kinds:
                found.setdefault(kind, []).append((text, happens))

        for place in world.places:
            for kind, text, happens in _of_place(world, place):
                add(kind, text, happens)
        for delivery in world.waiting():
            if delivery.times:
                at = delivery.record.position
                add("count", f"take {at} AS NEW", partial(world.take, at, count_lost=True))
        for kind, thing in world.sent:
            event = next(event for event in news(thing) if event.kind == kind)
            add("again", f"tell {thing} AGAIN", partial(self._again, thing, event))
        return found

    def _again(self, thing: Thing, event: e.TaskEvent) -> None:
        self.log.faults["again"] += 1
        self.world.tell_of(thing, event)

    def _order(self, name: str, happens: Callable[[], object]) -> None:
        self._due[name] = False
        happens()

    def _do(self, option: Option) -> None:
        self.trace.append(option[0])
        if len(self.trace) > _MOST:
            raise Wrong(self.log.told("P1: livelock"))
        option[1]()


def _of_place(world: World, place: Place) -> Iterator[tuple[str, str, Callable[[], object]]]:
    if place.grip is None or place.line is None:
        return
    yield "crash", f"{place} CRASH", partial(world.crash, place)
    if place.grip.lease:
        yield "expire", f"{place} EXPIRES", partial(world.expire, place)
    for fate in place.line.fates:
        yield fate, f"{place} {fate.upper()}", partial(world.go, place, fate)


def _one_kind(faults: Mapping[str, list[Option]], choice: int) -> list[Option]:
    """Those of one kind; half of the times of those that are seldom possible, if they are."""
    seldom = [kind for kind in _SELDOM if kind in faults]
    kinds = seldom if seldom and choice % 2 else list(faults)
    return faults[kinds[choice // 2 % len(kinds)]]
