"""Handlers of the machine: what each asks for next is a function of its record alone.

Source: design, section 4; the programs of its explicit-state model, and what that left out.
"""

from collections.abc import Callable
from dataclasses import dataclass

from mesh.core import event as e
from mesh.core.payload import Failure
from tests.unit.leg.story import Story, Thing

__all__ = ["PROGRAMS", "Ask", "End", "Program", "Put", "Run", "Wait"]


@dataclass(frozen=True, slots=True)
class Run:
    """Run a step and record it; `undo` names the compensation registered before."""

    name: str
    undo: str = ""


@dataclass(frozen=True, slots=True)
class Put:
    """Record something that is not waited for yet, as one append."""

    events: tuple[e.TaskEvent, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait for all of any one group."""

    groups: tuple[tuple[Thing, ...], ...]

    def event(self) -> e.Suspended:
        """As it is recorded."""
        waits = (
            e.Wait(what=what, id=id, group=n)
            for n, group in enumerate(self.groups)
            for what, id in group
        )
        return e.Suspended(waits=tuple(waits))


@dataclass(frozen=True, slots=True)
class End:
    """The outcome; `to` is the next agent of a hand-off."""

    event: e.TaskEvent
    to: str = "log"


Ask = Run | Put | Wait | End
Program = Callable[[Story], Ask]
DONE = End(e.Completed())


def child(id: str) -> Thing:
    return ("child", id)


def timer(id: str) -> Thing:
    return ("timer", id)


def delegated(*ids: str) -> Put:
    return Put(tuple(e.Delegated(ordinal=1, child_task_id=id, agent="reader") for id in ids))


def steps(s: Story, *names: str, then: Ask = DONE) -> Ask:
    """One step after the other."""
    left = (Run(name) for name in names if name not in s.steps)
    return next(left, then)


def gather(s: Story) -> Ask:
    """A step, two children, a step."""
    if "s1" not in s.steps:
        return Run("s1")
    if child("c1") not in s.asked:
        return delegated("c1", "c2")
    if not {child("c1"), child("c2")} <= set(s.came):
        return Wait(((child("c1"), child("c2")),))
    return steps(s, "s2")


def race(s: Story) -> Ask:
    """A child against a timer."""
    if child("c1") not in s.asked:
        return Put((*delegated("c1").events, e.TimerSet(ordinal=2, timer_id="t")))
    winner = s.first(child("c1"), timer("t"))
    if winner is None:
        return Wait(((child("c1"),), (timer("t"),)))
    return steps(s, f"s2-{winner[1]}")


def seq(s: Story) -> Ask:
    """Two children, one after the other."""
    for id in ("c1", "c2"):
        if child(id) not in s.asked:
            return delegated(id)
        if child(id) not in s.came:
            return Wait(((child(id),),))
    return steps(s, "s2")


def mix(s: Story) -> Ask:
    """A running step against a child."""
    if child("c1") not in s.asked:
        return delegated("c1")
    winner = s.first(child("c1"), ("step", "s1"))
    return steps(s, f"s2-{winner[1]}") if winner else Run("s1")


def long(s: Story) -> Ask:
    """Three steps."""
    return steps(s, "s1", "s2", "s3")


def groups(s: Story) -> Ask:
    """Two children, or a third, or a timer."""
    if child("c1") not in s.asked:
        return Put((*delegated("c1", "c2", "c3").events, e.TimerSet(ordinal=4, timer_id="t")))
    options = ((child("c1"), child("c2")), (child("c3"),), (timer("t"),))
    for upto in range(1, len(s.came) + 1):
        for n, option in enumerate(options):
            if set(option) <= set(s.came[:upto]):
                return steps(s, f"s2-{n}")
    return Wait(options)


def ask(s: Story) -> Ask:
    """A question, answered or expired."""
    thing = ("input", "q")
    if thing not in s.asked:
        return Put((e.InputRequested(ordinal=1, request_id="q"),))
    if thing not in s.came:
        return Wait(((thing,),))
    return steps(s, f"s2-{s.how[thing].rpartition('.')[2]}")


def signals(s: Story) -> Ask:
    """Two signals of one name, and a step between."""
    for n in (1, 2):
        thing = ("signal", f"go/{n}")
        if thing not in s.came:
            return Wait(((thing,),))
        if f"s{n}" not in s.steps:
            return Run(f"s{n}")
    return DONE


def relay(s: Story) -> Ask:
    """A step and a child; the next agent, one more step, and back; then the end."""
    if s.hops == 0:
        if "s1" not in s.steps:
            return Run("s1")
        if child("c0") not in s.asked:
            return delegated("c0")  # it reports to who has no use for it any more
        return End(e.HandedOff(), "writer")
    if s.hops == 1:
        if child("c1") not in s.asked:
            return delegated("c1")
        if child("c1") not in s.came:
            return Wait(((child("c1"),),))
        return steps(s, "s2", then=End(e.HandedOff(), "planner"))
    return steps(s, "s3")


def undo(s: Story) -> Ask:
    """Steps with compensations, a wait, and a failure."""
    for name in ("s1", "s2"):
        if name not in s.steps:
            return Run(name, undo=f"u{name[1]}")
    if child("c1") not in s.asked:
        return delegated("c1")
    if child("c1") not in s.came:
        return Wait(((child("c1"),),))
    return steps(
        s, "s3", then=End(e.Failed(failure=Failure(code="test.failed", message="it broke")))
    )


PROGRAMS: dict[str, Program] = {
    "gather": gather,
    "race": race,
    "seq": seq,
    "mix": mix,
    "long": long,
    "groups": groups,
    "ask": ask,
    "signals": signals,
    "relay": relay,
    "undo": undo,
}
