"""What a worker does with one delivery: judge it, run the handler, settle; a line at a time.

Source: design, section 4.
"""

from collections.abc import Generator
from dataclasses import replace

from mesh.core import event as e
from mesh.core.carrier import Next, Roles, follow
from mesh.core.decide import cancel, dead_letter, fail, fail_attempt, release
from mesh.core.payload import Failure
from tests.unit.leg.log import Grip, Log
from tests.unit.leg.program import Put, Run, Wait
from tests.unit.leg.turn import Line, Lines, Turn

__all__ = ["Bench", "carry"]

_FAILURE = Failure(code="test.failed", message="it broke")
_STEP = ("fail", "drain")
_LOOKS = ("look", "claim")


class Bench:
    """What one process keeps between deliveries: it dies with the process."""

    def __init__(self, agent: str, instance: str) -> None:
        self.agent, self.instance = agent, instance
        self.roles = Roles()


class _Nak(Exception):
    """Give the delivery back."""


def carry(
    log: Log, bench: Bench, grip: Grip, *, limit: int, retry: str
) -> Generator[Line, str, None]:
    """Carry a delivery as far as it goes.

    `limit` is the most attempts; `retry` says what a failed step leads to: `nak`, a long `pause`,
    or one more attempt of the `step`.
    """
    if bench.roles.known(grip.position) is not False:
        job = _Job(Turn(log, grip, bench.agent), log, limit, retry)
        try:
            verdict = yield from job.take()
            _remember(bench, job.turn)
        except _Nak:
            yield Line("nak")
            log.nak(grip)
            return
        if verdict is Next.DROP:
            log.let_go(grip)
            return
    yield Line("ack")
    log.ack(grip)


def _remember(bench: Bench, turn: Turn) -> None:
    """Roles of what was read without a gap; what was written here since may hide others."""
    seen = bench.roles.task.position
    new = [r for r in turn.records if seen < r.position <= turn.complete]
    bench.roles = follow(bench.roles, new)


class _Job:
    def __init__(self, turn: Turn, log: Log, limit: int, retry: str) -> None:
        self.turn, self.log, self.limit, self.retry = turn, log, limit, retry
        self.grip = turn.grip

    def take(self) -> Lines:
        turn = self.turn
        verdict = yield from turn.judge()
        if verdict in (Next.ACK, Next.DROP):
            return verdict
        if self.grip.redelivered and turn.attempt > self.limit and verdict is not Next.WIND_UP:
            turn.attempt -= 1
            return (yield from self._end(dead_letter(turn.task, _FAILURE)))
        if self.grip.redelivered:
            claimed = yield from turn.claim_first()
            if claimed in (Next.ACK, Next.DROP):
                return claimed
            verdict = claimed if claimed is Next.WIND_UP else verdict
        if verdict is Next.WIND_UP:
            return (yield from self._wind_up())
        return (yield from self._handle())

    def _handle(self) -> Lines:
        """Run the handler until it ends, waits, fails or loses the turn."""
        turn, verdict = self.turn, Next.GO_ON
        while verdict in (Next.GO_ON, Next.AGAIN):
            if turn.task.overdue:
                return (yield from self._fail(_FAILURE))
            ask = self.log.program(turn.story())
            match ask:
                case Run():
                    verdict = yield from self._run(ask)
                case Put():
                    verdict = yield from turn.record(*ask.events)
                case Wait():
                    verdict = yield from turn.record(ask.event(), catch_up=True)
                case _:
                    if isinstance(ask.event, e.Failed):
                        return (yield from self._fail(_FAILURE))
                    return (yield from self._end(ask.event, to=ask.to))
        return (yield from self._wind_up()) if verdict is Next.WIND_UP else verdict

    def _run(self, ask: Run) -> Lines:
        turn = self.turn
        if ask.undo and ask.undo not in turn.story().registered:
            ordinal = len(turn.story().registered) + 1
            undo = e.CompensationRegistered(ordinal=ordinal, name=ask.undo)
            verdict = yield from turn.record(undo)
            if verdict is not Next.GO_ON:
                return verdict
        yield Line(f"run {ask.name}")
        self.log.run(ask.name, turn.story(), ask.undo)
        looks = _LOOKS
        while True:
            fate = yield Line(f"{ask.name} returns", self._fates(), looks)
            looks = tuple(look for look in looks if look != fate)
            if fate not in _LOOKS:
                break
            verdict = yield from turn.look() if fate == "look" else turn.claim_running()
            if verdict is not Next.GO_ON:
                return verdict
        if fate == "drain":
            return (yield from self._give_back())
        if fate == "fail":
            return (yield from self._failed(ask.name))
        if fate == "diverge":
            return (yield from self._park(ask.name))
        if self.log.program(turn.story()) != ask:
            self.log.abandoned += 1  # a look showed that it lost its race
            return Next.GO_ON
        return (yield from turn.record(e.StepRecorded(ordinal=1, name=ask.name), catch_up=True))

    def _fates(self) -> tuple[str, ...]:
        """A first run has no history to differ from."""
        rerun = self.grip.redelivered or not isinstance(self.turn.cause.event, e.TaskSubmitted)
        return (*_STEP, "diverge") if rerun else _STEP

    def _park(self, asked: str) -> Lines:
        parked = e.Parked(ordinal=1, recorded="something else", asked=asked)
        return (yield from self.turn.record(parked, catch_up=True))

    def _failed(self, name: str) -> Lines:
        turn = self.turn
        if self.retry == "step":
            failed = e.AttemptFailed(failure=_FAILURE, ordinal=1, name=name)
            return (yield from turn.record(failed, catch_up=True))
        failed = fail_attempt(turn.task, _FAILURE)
        if turn.attempt >= self.limit:
            dead = replace(dead_letter(turn.task, _FAILURE), attempts=turn.attempt)
            return (yield from self._end(failed, dead))
        if self.retry == "pause":
            id = f"pause-{turn.task.version}"
            wait = Wait(((("timer", id),),))
            verdict = yield from turn.commit(failed, e.TimerSet(timer_id=id), wait.event())
            return (yield from turn.catch_up()) if verdict is Next.GO_ON else verdict
        verdict = yield from turn.commit(failed)
        if verdict is Next.GO_ON:
            raise _Nak
        return verdict

    def _give_back(self) -> Lines:
        turn = self.turn
        if turn.claimed:
            released = release(turn.task, reason="drain")
            verdict = yield from turn.commit(released, despite_cancel=True)
            if verdict is not Next.GO_ON:
                return Next.DROP
        raise _Nak

    def _end(self, *events: e.TaskEvent, to: str = "log") -> Lines:
        verdict = yield from self.turn.commit(*events, to=to)
        if verdict is Next.WIND_UP:
            return (yield from self._wind_up())
        return Next.ACK if verdict is Next.GO_ON else verdict

    def _fail(self, failure: Failure) -> Lines:
        verdict = yield from self._undo()
        if verdict is Next.WIND_UP:
            return (yield from self._wind_up())
        if verdict is not Next.GO_ON:
            return verdict
        return (yield from self._end(fail(self.turn.task, failure)))

    def _wind_up(self) -> Lines:
        verdict = yield from self._undo()
        if verdict not in (Next.GO_ON, Next.WIND_UP):
            return verdict
        canceled = cancel(self.turn.task)
        verdict = yield from self.turn.commit(canceled, despite_cancel=True)
        return Next.ACK if verdict is Next.GO_ON else verdict

    def _undo(self) -> Lines:
        """Run the registered undos that have not run, the last first."""
        turn = self.turn
        while undos := turn.task.leg.undos if turn.task.leg else ():
            undo = undos[-1]
            yield Line(f"run {undo.name}")
            self.log.run(undo.name, turn.story())
            step = e.StepRecorded(ordinal=9, name=undo.name, undoes=undo.ordinal)
            verdict = yield from turn.record(step, despite_cancel=True)
            if verdict is not Next.GO_ON:
                return verdict
        return Next.GO_ON
