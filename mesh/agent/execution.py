"""One run of a handler over its record: what is known comes back in order, the rest is asked.

A handler and its branches take turns: one goes on at a time, and nothing comes back before all of
them wait. So a run depends on the record alone, whatever the event loop does.

Source: design, section 4.
"""

import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import ExitStack
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Any

import anyio

from mesh.agent.asking import Asking, Diverged
from mesh.agent.emitter import Emitter
from mesh.agent.failure import caught, is_final
from mesh.agent.left import Left
from mesh.agent.operation import Branch, Operation
from mesh.agent.ports import Limits, Ports
from mesh.agent.record import LegRecord
from mesh.agent.step import Step, attempt
from mesh.agent.turn import Turn
from mesh.core import event as e
from mesh.core.carrier import Next
from mesh.core.envelope import Envelope
from mesh.core.ids import derived_id
from mesh.core.leg import TIMER
from mesh.errors import HandlerInvalid

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

__all__ = ["Execution", "Left"]

_BEAT_S = 3.0
"""How often the log is read while something runs and something else is waited for."""
_CHUNK = 200
"""Most events of one append."""


class Execution:
    """Runs one handler.

    Args:
        turn: The turn it is carried by.
        ports: The outside world.
        limits: How handlers are run.
        opened_id: Event id of the delivery that opened the leg; ids are derived from it.
        opened_position: Where that stands.
        replay_only: Stop where the record ends: for what it registered, not for its outcome.
    """

    def __init__(
        self,
        turn: Turn,
        ports: Ports,
        limits: Limits,
        *,
        opened_id: str,
        opened_position: int,
        replay_only: bool = False,
    ) -> None:
        self.turn, self._ports, self._limits = turn, ports, limits
        self._replay_only = replay_only
        self.record = LegRecord(turn.sender.agent, opened_position)
        self.record.add(turn.news())
        self.asking = Asking(self, turn, ports, self.record, opened_id)
        self.emitter = Emitter(ports, turn, self.record, self._start_publishing)
        self.left: Next | Left | Exception | None = None
        self._scope = anyio.CancelScope()
        self._tasks: TaskGroup | None = None
        self._branches: set[int] = set()
        self._coroutines = ExitStack()
        self._running = 0
        self._ready: deque[Operation[Any]] = deque()
        self._waiters: dict[Operation[Any], list[anyio.Event]] = {}
        self._quiet, self._tell = anyio.Event(), anyio.Event()
        self._driving = False
        self._active: dict[int, Step] = {}
        self._finished: list[tuple[Step, list[e.TaskEvent]]] = []

    async def run(self, handle: Callable[[], Awaitable[Any]]) -> Any:
        """Run the handler; what it returns or raises. None if `left` says that it did not end."""
        outcome: Any = None
        raised: Exception | None = None
        with self._coroutines, self._scope:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                self._branches.add(anyio.get_current_task().id)
                self._running = 1
                try:
                    outcome = await handle()
                except Diverged:
                    pass  # `parked` says so
                except BaseException as error:  # noqa: BLE001  # raised again, out of the group
                    raised = caught(error)
                if self.emitter.used:
                    await self.emitter.flush()
                tasks.cancel_scope.cancel()
        self._tasks = None
        self._branches.clear()
        self._conclude()
        goes_on = self.left is None and self.record.last_ordinal > self.asking.ordinal
        if goes_on and (raised is None or is_final(raised)):
            self.asking.park_unasked(f"raised {raised!r}" if raised else "the end of the handler")
            self.left = Left.PARKED
        elif raised is not None and self.left is None:
            raise raised
        return outcome

    def _conclude(self) -> None:
        """How the run ended; raises what ends the task whatever the handler returned."""
        if isinstance(self.left, Next):
            return  # what it asked for while it was ended does not count
        if self.asking.tripped is not None:
            raise self.asking.tripped  # a guard; the handler may have caught it
        if self.asking.parked is not None:
            self.left = Left.PARKED
        if isinstance(self.left, Exception):
            raise self.left

    def emit(self, text: str) -> None:
        """Show live output; an undo, and a run that only collects undos, show nothing."""
        if self._tasks is not None and not self._replay_only:
            self.emitter.emit(text, handler=self._branches)

    def _start_publishing(self) -> None:
        if self._tasks is not None:
            self._tasks.start_soon(self.emitter.publish)

    def poke(self) -> None:
        """Something of the task was read: look whether it brings anything back."""
        self._tell.set()

    def branch(self, coroutine: Coroutine[Any, Any, Any]) -> Branch[Any]:
        """Run a coroutine beside the handler, from where the handler waits next."""
        if not inspect.iscoroutine(coroutine):
            name = type(coroutine).__name__
            raise HandlerInvalid(
                f"a `{name}` cannot be gathered, only what `ctx` gives, and coroutines"
            )
        branch = Branch(self, coroutine)
        self._coroutines.callback(coroutine.close)
        self._ready.append(branch)
        return branch

    async def wait(self, operation: Operation[Any]) -> None:
        """Let the current branch wait until an operation is done."""
        self.check_inside()
        assert self._tasks is not None  # it runs: for the type checker
        if not self._driving:
            self._driving = True
            self._tasks.start_soon(self._drive)
        waiter = anyio.Event()
        self._waiters.setdefault(operation, []).append(waiter)
        self._rest()
        await waiter.wait()

    def check_inside(self) -> None:
        """Refuse (HandlerInvalid) what is asked elsewhere than in the handler and its branches."""
        try:
            inside = anyio.get_current_task().id in self._branches
        except anyio.NoEventLoopError:
            inside = False  # in a thread
        if not inside:
            raise HandlerInvalid(
                "use `ctx` in the handler itself, or in a coroutine passed to `ctx.gather` or"
                " `ctx.race`: what other tasks ask for has no order; a step may `ctx.emit`, only"
            )

    def ready(self, operation: Operation[Any]) -> None:
        """Let who waits for an operation go on, in its turn."""
        self._ready.append(operation)

    def _rest(self) -> None:
        self._running -= 1
        if not self._running:
            self._quiet.set()

    async def _drive(self) -> None:
        try:
            while self.left is None:
                while self._running:
                    self._quiet = anyio.Event()
                    await self._quiet.wait()
                left = await self._next()
                # A step that must stop the process may have said so meanwhile: that stands.
                self.left = left if self.left is None else self.left
        except Exception as error:  # noqa: BLE001  # raised again by `run`
            self.left = error
        self._scope.cancel()

    async def _next(self) -> Next | Left | Exception | None:
        """All branches wait: let one go on, or bring something back, or do what is due."""
        if self.asking.parked is not None:
            return Left.PARKED
        if self.asking.tripped is not None:
            return self.asking.tripped
        if self._ready:
            self._go_on(self._ready.popleft())
        elif not await self.asking.feed_early():
            completion = self.record.next()
            if completion is None:
                return await self._advance()
            await self.asking.feed(completion)
        return None

    def _go_on(self, operation: Operation[Any]) -> None:
        if isinstance(operation, Branch) and not operation.done:
            self._running += 1
            assert self._tasks is not None  # it runs: for the type checker
            self._tasks.start_soon(self._run_branch, operation)
            return
        for waiter in self._waiters.pop(operation, ()):
            self._running += 1
            waiter.set()

    async def _run_branch(self, branch: Branch[Any]) -> None:
        me = anyio.get_current_task().id
        self._branches.add(me)
        outcome: Any
        try:
            outcome = await branch.coroutine
        except Diverged:
            outcome = None  # `parked` says so
        except BaseException as error:  # noqa: BLE001  # it is the branch's outcome
            outcome = caught(error)
        self._branches.discard(me)
        branch.resolve(outcome)
        self._rest()

    async def _advance(self) -> Next | Left | None:
        """All branches wait, and all that is known came back: do the next thing that is due."""
        self.record.add(self.turn.news())
        if self.record.has_next:
            return None
        if self._replay_only:
            return Left.COLLECTED
        if self.record.last_ordinal > self.asking.ordinal and not self._active:
            self.asking.park_unasked("nothing more")
            return Left.PARKED
        if (ended := await self._ended()) is not None:
            return ended
        if self.asking.outbox:
            return await self._send()
        pause_s = self._start_steps()
        if self._finished:
            return await self._record_finished()
        if self._active or (pause_s is not None and pause_s <= self._limits.hold_s):
            return await self._wait_inside(pause_s)
        return await self._suspend()

    async def _ended(self) -> Next | Left | None:
        """Why nothing more may be asked for or run, if so."""
        if self.turn.task.cancel_requested:
            return Next.WIND_UP
        if self.turn.left_s() <= 0:
            return Left.OVERDUE
        turn, leased = self.turn, self.turn.delivery.lease_valid
        if (leased and turn.informed) or not self._due_steps():
            return None
        # Somebody else may have run them by now, and only an append would say so, afterwards.
        verdict = await turn.look() if leased or turn.claimed else Next.DROP
        return None if verdict is Next.GO_ON else verdict

    async def _send(self) -> Next | Left | None:
        """Append what was asked for since the last append; if no step is due, let go with it."""
        rests = not self._active and not self.asking.unrecorded_steps()
        drafts = self.asking.outbox
        self.asking.outbox = []
        while drafts:
            chunk, drafts = drafts[:_CHUNK], drafts[_CHUNK:]
            ready = [await draft() for draft in chunk]
            events = [event for event, _ in ready]
            beside = [child for _, child in ready if child is not None]
            waits = self._waits() if rests and not drafts else []
            if waits:
                events.append(e.Suspended(waits=tuple(waits)))
            verdict = await self._append(*events, beside=beside, catch_up=bool(waits))
            if verdict is not Next.GO_ON:
                return verdict
        self.asking.sent()
        return self._replayed()

    async def _record_finished(self) -> Next | Left | None:
        finished, self._finished = self._finished, []
        for step, _ in finished:
            del self._active[step.ordinal]
        events = [event for _, events in finished for event in events]
        verdict = await self._append(*events)
        return self._replayed() if verdict is Next.GO_ON else verdict

    async def _append(
        self, *events: e.TaskEvent, beside: Sequence[Envelope] = (), catch_up: bool = False
    ) -> Next:
        """Append, and what was emitted since the last append with it."""
        shown = self.emitter.last
        verdict = await self.turn.record(
            *self.emitter.recorded(),
            *events,
            beside=beside,
            catch_up=catch_up or self._expecting(),
        )
        if verdict is Next.GO_ON:
            self.emitter.forget(shown)
        return verdict

    def _replayed(self) -> Left | None:
        # A step that still runs would run twice.
        return Left.AGAIN if self._limits.always_replay and not self._active else None

    def _expecting(self) -> bool:
        """Whether anything from outside may come back, so that its order matters."""
        leg = self.turn.task.leg
        opens = leg is not None and (leg.children or leg.timers or leg.questions)
        return bool(opens) or self.asking.expecting()

    def _start_steps(self) -> float | None:
        """Start the steps that are due; seconds until the next retry of another is, if any."""
        for step in self._due_steps():
            self._active[step.ordinal] = step
            assert self._tasks is not None  # it runs: for the type checker
            self._tasks.start_soon(self._perform, step)
        waiting = [s for s in self.asking.unrecorded_steps() if s.ordinal not in self._active]
        return min((self._pause_s(step) for step in waiting), default=None)

    def _due_steps(self) -> list[Step]:
        """Steps that do not run, and whose pause after a failed attempt is over."""
        steps = self.asking.unrecorded_steps()
        return [s for s in steps if s.ordinal not in self._active and self._pause_s(s) <= 0]

    def _pause_s(self, step: Step) -> float:
        until = self.record.retry_at(step.ordinal)
        if until is None or self._retry_timer(step).timer_id in self.record.fired:
            return 0.0  # a clock that is behind the ledger's must not wait for it again
        return (until - self._ports.clock.now()).total_seconds()

    async def _perform(self, step: Step) -> None:
        failed = len(self.record.attempts.get(step.ordinal, ()))
        try:
            events = await attempt(step, failed, self._ports)
        except Exception as error:  # noqa: BLE001  # the process must stop: `run` raises it
            self.left = error
            self._scope.cancel()
            return
        self._finished.append((step, events))
        self._tell.set()

    async def _wait_inside(self, pause_s: float | None) -> Next | None:
        """Until a step ends, a retry is due, or something may have come in."""
        beat_s = _BEAT_S if self._expecting() else inf
        with anyio.move_on_after(min(beat_s, inf if pause_s is None else pause_s)) as timeout:
            await self._tell.wait()
        self._tell = anyio.Event()
        if not timeout.cancelled_caught or beat_s == inf:
            return None
        verdict = await self.turn.look()
        return None if verdict is Next.GO_ON else verdict

    async def _suspend(self) -> Next | Left | None:
        """Nothing runs: let go of everything until something that is waited for happens."""
        waits = self._waits()
        events: list[e.TaskEvent] = []
        for step in self.asking.unrecorded_steps():
            timer = self._retry_timer(step)
            waits.append(e.Wait(what=TIMER, id=timer.timer_id, group=len(waits)))
            if not self._is_set(timer.timer_id):
                events.append(timer)
        if not waits:
            raise HandlerInvalid("the handler waits for something that nothing can bring about")
        suspended = e.Suspended(waits=tuple(waits))
        verdict = await self._append(*events, suspended, catch_up=True)
        return self._replayed() if verdict is Next.GO_ON else verdict

    def _waits(self) -> list[e.Wait]:
        groups = [group for op in self._waiters for group in op.groups()]
        return [
            replace(wait, group=number) for number, group in enumerate(groups) for wait in group
        ]

    def _retry_timer(self, step: Step) -> e.TimerSet:
        failed = len(self.record.attempts[step.ordinal])
        timer_id = derived_id(self.asking.opened_id, f"retry/{step.ordinal}", failed)
        return e.TimerSet(timer_id=timer_id, fires_at=self.record.retry_at(step.ordinal))

    def _is_set(self, timer_id: str) -> bool:
        leg = self.turn.task.leg
        return leg is not None and any(timer.id == timer_id for timer in leg.timers)
