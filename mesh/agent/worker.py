"""What runs an agent: takes deliveries, runs them side by side, settles each, drains on stop.

Source: design, section 4.
"""

import logging
import os
import socket
from contextlib import AsyncExitStack
from dataclasses import replace

import anyio
from anyio.abc import TaskStatus

from mesh.agent.definition import Agent
from mesh.agent.ports import Limits, Ports
from mesh.agent.run import Ending, run_handler
from mesh.agent.turn import Turn
from mesh.agent.unreadable import dead_letter_unreadable
from mesh.bus.port import Delivery, Inbox
from mesh.core import decide
from mesh.core.leg import Next
from mesh.core.payload import Failure
from mesh.errors import Contested, Unavailable
from mesh.registry.port import Presence
from mesh.telemetry.names import CONSUMED, DELIVERY_WAIT_S, PROCESS_S, processing, settling

__all__ = ["CANCEL_TOPIC", "Worker"]

CANCEL_TOPIC = "cancel"
"""Hints on `cancel.<task id>` say that a cancel was requested."""
_log = logging.getLogger(__name__)


class _Carried:
    """A turn whose handler runs, and the means to stop it."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
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
        self._busy = 0
        self._idle = anyio.Event()

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
                tasks.start_soon(self._listen)
                tasks.start_soon(self._stop_inbox, inbox)
                task_status.started()
                async for delivery in inbox:
                    self._busy += 1
                    tasks.start_soon(self._carry, delivery)
                await self._drain()
                tasks.cancel_scope.cancel()

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
        if self._busy:
            with anyio.move_on_after(self._limits.drain_s):
                await self._idle.wait()
        for carried in list(self._carried.values()):
            carried.drain()
        if self._busy:
            # What is left appends its release; a bus that does not answer must not hold us.
            with anyio.move_on_after(1.5):
                await self._idle.wait()

    async def _listen(self) -> None:
        async with self._ports.bus.hints(f"{CANCEL_TOPIC}.*") as hints:
            async for topic in hints:
                carried = self._carried.get(topic.rpartition(".")[2])
                if carried and await carried.turn.refresh():
                    carried.stop(Next.WIND_UP)

    async def _carry(self, delivery: Delivery) -> None:
        try:
            await self._settle(delivery)
        except (Unavailable, Contested) as error:
            # Nothing is lost: without an ack it comes again when its lease runs out.
            _log.warning("delivery at position %d let go: %s", delivery.record.position, error)
            delivery.drop()
        finally:
            self._busy -= 1
            if self._busy == 0 and self._stop.is_set():
                self._idle.set()

    async def _settle(self, delivery: Delivery) -> None:
        self._ports.telemetry.count(CONSUMED)
        cause = delivery.record.envelope
        if cause is None:
            await dead_letter_unreadable(self._agent, self._ports, delivery)
            await delivery.ack()
            return
        turn = Turn(self._agent, self._ports, delivery, cause)
        verdict, retry_s = await self._take(turn)
        if verdict is Next.DROP:
            delivery.drop()
            return
        verb = "ack" if retry_s is None else "nak"
        span = settling(delivery.record, delivery.shard, attempt=turn.attempt, verb=verb)
        with self._ports.telemetry.span(span):
            await (delivery.ack() if retry_s is None else delivery.nak(retry_s))

    async def _take(self, turn: Turn) -> tuple[Next, float | None]:
        """Carry the turn as far as it goes: what the delivery is due, and when to retry it."""
        verdict = await turn.judge()
        if verdict in (Next.ACK, Next.DROP):
            return verdict, None
        if turn.delivery.redelivered and turn.attempt > self._limits.attempts:
            return await self._give_up(turn), None
        telemetry, record = self._ports.telemetry, turn.delivery.record
        waited = self._ports.clock.now() - record.stored_at
        telemetry.record(DELIVERY_WAIT_S, max(0.0, waited.total_seconds()))
        began = self._ports.clock.monotonic()
        try:
            span = processing(record, turn.delivery.shard, attempt=turn.attempt)
            with telemetry.span(span):
                return await self._take_up(turn, verdict)
        finally:
            telemetry.record(PROCESS_S, self._ports.clock.monotonic() - began)

    async def _take_up(self, turn: Turn, verdict: Next) -> tuple[Next, float | None]:
        if turn.delivery.redelivered:
            claimed = await turn.claim_first()
            if claimed is not Next.GO_ON:
                return claimed, None
        if verdict is Next.WIND_UP:
            return await self._wind_up(turn), None
        return await self._run(turn)

    async def _run(self, turn: Turn) -> tuple[Next, float | None]:
        carried = _Carried(turn)
        ending = await self._handle(carried)
        if carried.stopped_for is not None or ending is None:
            return await self._stopped(carried)
        verdict = await turn.commit(*ending.events, to=ending.to)
        if verdict is Next.WIND_UP:
            return await self._wind_up(turn), None
        return verdict, ending.retry_s if verdict is Next.GO_ON else None

    async def _handle(self, carried: _Carried) -> Ending | None:
        """Run the handler, claiming the turn when it takes long; None if it was ended."""
        task_id = carried.turn.cause.task_id
        endings: list[Ending] = []
        self._carried[task_id] = carried
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._claim_when_slow, carried)
                with carried.scope:
                    endings.append(
                        await run_handler(self._agent, self._ports, self._limits, carried.turn)
                    )
                tasks.cancel_scope.cancel()
        finally:
            if self._carried.get(task_id) is carried:
                del self._carried[task_id]
        return endings[0] if endings else None

    async def _claim_when_slow(self, carried: _Carried) -> None:
        await anyio.sleep(self._limits.claim_after_s)
        verdict = await carried.turn.claim_running()
        if verdict is not Next.GO_ON:
            carried.stop(verdict)

    async def _stopped(self, carried: _Carried) -> tuple[Next, float | None]:
        """A handler that was ended from outside: for a cancel, a lost claim, or a drain."""
        turn = carried.turn
        if carried.drained:
            return await self._give_back(turn)
        if carried.stopped_for is Next.WIND_UP:
            return await self._wind_up(turn), None
        return carried.stopped_for or Next.DROP, None

    async def _give_back(self, turn: Turn) -> tuple[Next, float | None]:
        """Let another process run it at once, and do not count this run."""
        if not turn.claimed:
            return Next.GO_ON, 0.0
        verdict = await turn.commit(decide.release(turn.task, reason="the process stops"))
        return (verdict, 0.0) if verdict is Next.GO_ON else (Next.DROP, None)

    async def _wind_up(self, turn: Turn) -> Next:
        return await turn.commit(decide.cancel(turn.task), winding_up=True)

    async def _give_up(self, turn: Turn) -> Next:
        """The attempts are used up, the last one without a word: its process died."""
        known = turn.task.turn.failure if turn.task.turn else None
        failure = known or Failure(
            code="agent.attempts_exhausted",
            message="every attempt ended without a word: the process died or lost its lease",
        )
        turn.attempt -= 1
        dead = replace(decide.dead_letter(turn.task, failure), attempts=turn.attempt)
        return await turn.commit(dead)
