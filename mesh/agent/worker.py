"""What runs an agent: takes deliveries, runs them side by side, settles each, drains on stop.

Source: design, section 4.
"""

import logging
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, nullcontext
from dataclasses import dataclass
from functools import partial

import anyio
from anyio.abc import TaskGroup, TaskStatus

from mesh.agent.definition import Agent
from mesh.agent.emitter import RESEND_TOPIC
from mesh.agent.finish import finish, give_up, skip_undo, wind_up
from mesh.agent.ports import Limits, Ports
from mesh.agent.run import Ending, HandlerRun
from mesh.agent.turn import Turn
from mesh.agent.unreadable import dead_letter_unreadable
from mesh.agent.wakes import Wakes
from mesh.bus.port import Delivery, Inbox
from mesh.core import decide
from mesh.core import event as e
from mesh.core.carrier import Next
from mesh.core.envelope import Record
from mesh.errors import MeshError, Unavailable, Verdict
from mesh.registry.port import Presence
from mesh.telemetry.names import CONSUMED, DELIVERY_WAIT_S, PROCESS_S, processing, settling

__all__ = ["CANCEL_TOPIC", "LOOK_TOPIC", "Worker"]

CANCEL_TOPIC = "cancel"
"""Hints on `cancel.<task id>` say that a cancel was requested."""
LOOK_TOPIC = "look"
"""Hints on `look.<task id>` say that something happened that a running handler may wait for."""
_LOOK_S = 0.01
"""How often, at most, it is looked whether a handler takes long."""
_APART_S = 0.25
"""Least time between two reads of one task for hints."""
_BLOCKED_S = 1.0
"""How late a look must be to be a handler's fault, and worth a warning."""
_SUSPECT = 2
"""Claims without progress, the last one without a word, that make a delivery a suspect."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Due:
    """How to settle a delivery: ack, nak when `retry_s` is set, or drop."""

    verdict: Next
    retry_s: float | None = None
    attempt: int = 1


class _Carried:
    """A turn whose handler runs, and the means to stop it."""

    def __init__(self, run: HandlerRun) -> None:
        self.run, self.turn = run, run.turn
        self.began_s = anyio.current_time()
        self.claiming = False
        self.told, self.looked_s = False, float("-inf")
        self.scope = anyio.CancelScope()
        self.stopped_for: Next | None = None
        self.drained = False

    def stop(self, verdict: Next) -> None:
        """End the handler; what follows is the verdict's."""
        if self.stopped_for is None:
            self.stopped_for = verdict
            self.scope.cancel()

    def drain(self) -> None:
        """End the handler, to give the delivery back."""
        self.drained = self.stopped_for is None
        self.stop(Next.DROP)


class Worker:
    """One process's share of an agent.

    Args:
        agent: The declaration.
        ports: What it is connected to.
        limits: How deliveries are run.
    """

    def __init__(self, agent: Agent, ports: Ports, limits: Limits) -> None:
        self._agent, self._ports, self._limits = agent, ports, limits
        self._carried: dict[str, _Carried] = {}
        self._stop = anyio.Event()
        self._places: set[tuple[str, int]] = set()
        self._wakes = Wakes(ports.bus, apart_s=limits.wakes_apart_s)
        self._alone = anyio.Lock()
        self._busy = 0
        self._idle, self._working = anyio.Event(), anyio.Event()
        self._leaving = False
        self._halted: MeshError | None = None

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Announce the agent and carry its deliveries until `stop`; returns when drained.

        Raises:
            MeshError: With verdict HALT: going on could lose or corrupt something.
        """
        ports, limits = self._ports, self._limits
        async with AsyncExitStack() as stack:
            card = self._agent.card(concurrency=limits.concurrency)
            inbox = await stack.enter_async_context(
                ports.bus.inbox(self._agent.name, max_held=limits.concurrency)
            )
            await stack.enter_async_context(ports.registry.announce(card, self._presence()))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._listen, CANCEL_TOPIC, partial(self._hear, tasks))
                tasks.start_soon(self._listen, LOOK_TOPIC, partial(self._hear, tasks))
                tasks.start_soon(self._listen, RESEND_TOPIC, self._resend)
                tasks.start_soon(self._stop_inbox, inbox)
                tasks.start_soon(self._claim_slow, tasks)
                task_status.started()
                async for delivery in inbox:
                    self._busy += 1
                    tasks.start_soon(self._carry, delivery)
                await self._drain()
                tasks.cancel_scope.cancel()
        if self._halted is not None:
            raise self._halted

    def stop(self) -> None:
        """Take no more; let running handlers finish or give their deliveries back."""
        self._stop.set()

    def _presence(self) -> Presence:
        return Presence(
            agent=self._agent.name,
            instance=self._ports.instance,
            behaviour_version=self._agent.behaviour,
            host=socket.gethostname(),
            pid=os.getpid(),
            concurrency=self._limits.concurrency,
            started_at=self._ports.clock.now(),
        )

    async def _stop_inbox(self, inbox: Inbox) -> None:
        await self._stop.wait()
        inbox.stop()

    async def _drain(self) -> None:
        with anyio.move_on_after(self._limits.drain_s):
            await self._quiet()
        self._leaving = True
        for carried in list(self._carried.values()):
            carried.drain()
        # What is left appends its release; a bus that does not answer must not hold us.
        with anyio.move_on_after(1.5):
            await self._quiet()

    async def _quiet(self) -> None:
        """Until nothing is carried."""
        while self._busy:
            self._idle = anyio.Event()
            await self._idle.wait()

    async def _listen(self, topic: str, heed: Callable[[_Carried], Awaitable[None]]) -> None:
        async with self._ports.bus.hints(f"{topic}.*") as hints:
            async for hint in hints:
                if carried := self._carried.get(hint.topic.rpartition(".")[2]):
                    await heed(carried)

    @staticmethod
    async def _resend(carried: _Carried) -> None:
        carried.run.execution.emitter.resend()

    async def _hear(self, tasks: TaskGroup, carried: _Carried) -> None:
        if not carried.told:
            carried.told = True
            tasks.start_soon(self._look, carried)

    async def _look(self, carried: _Carried) -> None:
        """Read what is new; of many hints that come together, once."""
        await anyio.sleep(max(0.0, carried.looked_s + _APART_S - anyio.current_time()))
        carried.told, carried.looked_s = False, anyio.current_time()
        verdict = await carried.turn.look()
        if verdict is Next.GO_ON:
            carried.run.execution.poke()
        else:
            carried.stop(verdict)

    async def _carry(self, delivery: Delivery) -> None:
        try:
            await self._settle(delivery, await self._due(delivery))
        finally:
            self._busy -= 1
            if self._busy == 0:
                self._idle.set()

    async def _due(self, delivery: Delivery) -> _Due:
        """Carry a delivery as far as it goes; an error of ours lets it go.

        Nothing is lost then: without an ack it comes again when its lease runs out.
        """
        position = delivery.record.position
        try:
            return await self._take(delivery)
        except MeshError as error:
            if error.verdict is Verdict.HALT:
                _log.error("position %d: %s; the agent stops", position, error)
                self._halted = self._halted or error
                self.stop()
            else:
                _log.warning("delivery at position %d let go: %s", position, error)
        except Exception:  # noqa: BLE001  # a bug must not take the other deliveries with it
            _log.exception("delivery at position %d let go: a bug", position)
        return _Due(Next.DROP)

    async def _settle(self, delivery: Delivery, due: _Due) -> None:
        if due.verdict is Next.DROP:
            delivery.drop()
            return
        verb = "ack" if due.retry_s is None else "nak"
        span = settling(delivery.record, delivery.shard, attempt=due.attempt, verb=verb)
        try:
            with self._ports.telemetry.span(span):
                await (delivery.ack() if due.retry_s is None else delivery.nak(due.retry_s))
        except Unavailable as error:
            _log.warning("%s of position %d: %s", verb, delivery.record.position, error)

    async def _take(self, delivery: Delivery) -> _Due:
        self._ports.telemetry.count(CONSUMED)
        cause = delivery.record.envelope
        if cause is None:
            await dead_letter_unreadable(self._agent, self._ports, delivery)
            return _Due(Next.ACK)
        place = (delivery.shard, delivery.record.position)
        history: list[Record] | None = None
        if not isinstance(cause.event, e.OPENING):
            opens_turn, history = await self._wakes.open_turn(
                cause.task_id, cause.root_task_id, delivery.record.position
            )
            if not opens_turn:
                # The carrier finds it in the log; if it runs now, it is told.
                await self._ports.bus.hint(f"{LOOK_TOPIC}.{cause.task_id}")
                return _Due(Next.ACK)
        if place in self._places:
            # Its lease ran out under a handler that still runs in this very process. To run it
            # beside itself would help nobody; if that run is lost, it comes again.
            return _Due(Next.DROP)
        turn = Turn(self._agent, self._ports, delivery, cause)
        self._places.add(place)
        try:
            verdict, retry_s = await self._judge(turn, history)
        finally:
            self._places.discard(place)
        return _Due(verdict, retry_s, turn.attempt)

    async def _judge(self, turn: Turn, history: list[Record] | None) -> tuple[Next, float | None]:
        """Carry the turn as far as it goes: what the delivery is due, and when to retry it."""
        verdict = await turn.judge(history)
        if verdict in (Next.ACK, Next.DROP):
            return verdict, None
        run = HandlerRun(self._agent, self._ports, self._limits, turn)
        exhausted = turn.delivery.redelivered and turn.attempt > self._limits.attempts
        if exhausted and verdict is not Next.WIND_UP:
            return await give_up(run), None
        telemetry, record = self._ports.telemetry, turn.delivery.record
        waited = self._ports.clock.now() - record.stored_at
        telemetry.record(DELIVERY_WAIT_S, max(0.0, waited.total_seconds()))
        began = self._ports.clock.monotonic()
        try:
            span = processing(record, turn.delivery.shard, attempt=turn.attempt)
            async with self._alone if _suspect(turn) else nullcontext():
                with telemetry.span(span):
                    return await self._take_up(run, verdict, exhausted=exhausted)
        finally:
            telemetry.record(PROCESS_S, self._ports.clock.monotonic() - began)

    async def _take_up(
        self, run: HandlerRun, verdict: Next, *, exhausted: bool
    ) -> tuple[Next, float | None]:
        turn = run.turn
        if turn.delivery.redelivered:
            claimed = await turn.claim_first()
            if claimed in (Next.ACK, Next.DROP):
                return claimed, None
            verdict = claimed if claimed is Next.WIND_UP else verdict
        if verdict is Next.WIND_UP:
            skipped = await skip_undo(run) if exhausted else Next.GO_ON
            return await wind_up(run) if skipped is Next.GO_ON else skipped, None
        if turn.left_s() <= 0:
            return await finish(run, Ending(events=(turn.overdue(),)))
        return await self._run(run)

    async def _run(self, run: HandlerRun) -> tuple[Next, float | None]:
        carried = _Carried(run)
        ending = await self._handle(carried)
        if carried.stopped_for is not None:
            return await self._stopped(carried)
        return await finish(run, ending or Ending(events=(run.turn.overdue(),)))

    async def _handle(self, carried: _Carried) -> Ending | None:
        """Run the handler; None if it was ended, from outside or by the task's deadline."""
        if self._leaving:
            carried.drain()
            return None
        task_id = carried.turn.cause.task_id
        endings: list[Ending] = []
        self._carried[task_id] = carried
        self._working.set()
        carried.scope.deadline = anyio.current_time() + carried.turn.left_s()
        try:
            with carried.scope:
                endings.append(await carried.run.run())
        finally:
            if self._carried.get(task_id) is carried:
                del self._carried[task_id]
        return endings[0] if endings else None

    async def _claim_slow(self, tasks: TaskGroup) -> None:
        """Claim the turns whose handlers take long.

        A claim that has begun is finished though its handler ends: the outcome waits for it, and is
        not refused by its own holder's claim.
        """
        while True:
            if not self._carried:
                self._working = anyio.Event()
                await self._working.wait()
            pause_s = max(_LOOK_S, self._limits.claim_after_s / 4)
            looked_s = anyio.current_time()
            await anyio.sleep(pause_s)
            self._complain(anyio.current_time() - looked_s - pause_s)
            due_s = anyio.current_time() - self._limits.claim_after_s
            for carried in self._carried.values():
                if carried.began_s <= due_s and not carried.claiming:
                    carried.claiming = True
                    tasks.start_soon(self._claim, carried)

    def _complain(self, late_s: float) -> None:
        """Say so when a handler kept everything else from running: leases run out meanwhile."""
        if late_s > _BLOCKED_S:
            _log.warning(
                "the event loop stood still for %.1f s: a handler of `%s` blocks it;"
                " run what blocks in a thread, with `await anyio.to_thread.run_sync(...)`",
                late_s,
                self._agent.name,
            )

    async def _claim(self, carried: _Carried) -> None:
        try:
            verdict = await carried.turn.claim_running()
        except MeshError as error:
            _log.warning("claim of task `%s`: %s", carried.turn.cause.task_id, error)
            verdict = Next.DROP  # whatever it is, the redelivery meets it too
        if verdict is not Next.GO_ON:
            carried.stop(verdict)

    async def _stopped(self, carried: _Carried) -> tuple[Next, float | None]:
        """A handler that was ended from outside: for a cancel, a lost claim, or a drain."""
        if carried.drained:
            return await self._give_back(carried.turn)
        if carried.stopped_for is Next.WIND_UP:
            return await wind_up(carried.run), None
        return carried.stopped_for or Next.DROP, None

    async def _give_back(self, turn: Turn) -> tuple[Next, float | None]:
        """Let another process run it at once, and do not count this run."""
        if not turn.claimed:
            return Next.GO_ON, 0.0
        release = decide.release(turn.task, reason="the process stops")
        verdict = await turn.commit(release, despite_cancel=True)
        return (verdict, 0.0) if verdict is Next.GO_ON else (Next.DROP, None)


def _suspect(turn: Turn) -> bool:
    """Whether a delivery may be what killed the processes that had it.

    Those beside it lost their claims with it. They come again together, and would reach the limit
    together; so of the suspects one runs at a time, and only the guilty one dies again.
    """
    known = turn.task.turn
    return known is not None and known.claim_open and known.attempts >= _SUSPECT
