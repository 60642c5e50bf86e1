"""Cancelling the children that are open when a leg ends.

Source: design, section 4.
"""

import logging
from dataclasses import replace

import anyio

from mesh.agent.ports import Ports
from mesh.agent.turn import Turn
from mesh.core import event as e
from mesh.core.backoff import Backoff
from mesh.core.envelope import Envelope
from mesh.core.fold import fold
from mesh.core.ids import derived_id
from mesh.core.leg import Child
from mesh.core.subject import LOG, RESERVED, Subject
from mesh.errors import Contested, Unavailable
from mesh.telemetry.context import stamped
from mesh.telemetry.names import SENT, sending

__all__ = ["cancel_children"]

_AT_ONCE = 16
"""Children that are cancelled side by side."""
_ENDS = (e.Completed, e.Failed, e.Rejected, e.Canceled)
_PATIENCE = Backoff(first_s=0.05, limit_s=2.0)
_log = logging.getLogger(__name__)


async def cancel_children(turn: Turn, ports: Ports) -> None:
    """Ask for the cancel of all that are open; again after a crash changes nothing.

    The parent does not wait for them to end: their reports come too late, and are visible.
    """
    leg = turn.task.leg
    if leg is None or not leg.children:
        return
    places = anyio.CapacityLimiter(_AT_ONCE)

    async def cancel(child: Child) -> None:
        async with places:
            await _cancel(turn, ports, child)

    async with anyio.create_task_group() as tasks:
        for child in leg.children:
            tasks.start_soon(cancel, child)


async def _cancel(turn: Turn, ports: Ports, child: Child) -> None:
    """Until the child has the request, or has ended; a bus that is away is waited for."""
    tries = 0
    while True:
        try:
            if await _asked(turn, ports, child, after_refusal=tries > 0):
                return
        except Contested:
            pass  # it moved meanwhile, or the request may be stored: look again
        except Unavailable as error:
            _log.warning("cancel of child `%s` waits for the bus: %s", child.id, error)
        tries += 1
        await anyio.sleep(_PATIENCE.delay_s(tries, ports.ids.random()))


async def _asked(turn: Turn, ports: Ports, child: Child, *, after_refusal: bool) -> bool:
    """Whether nothing is left to ask."""
    root = turn.cause.root_task_id
    head = await ports.bus.head(child.id, root_task_id=root)
    if head is None or (head.envelope and isinstance(head.envelope.event, _ENDS)):
        return True
    subject = Subject.parse(head.subject)
    owner = subject.to if subject.to != LOG else subject.sender
    if after_refusal or owner in RESERVED:  # a notice of the ledger's says nothing of the owner
        task = fold(await ports.bus.history(child.id, root_task_id=root))
        if task.cancel_requested or task.closed:
            return True
        owner = task.owner
    envelope = _request(turn, ports, child, owner)
    ports.telemetry.count(SENT)
    with ports.telemetry.span(sending(envelope, turn.delivery.shard)):
        await ports.bus.append([envelope], {child.id: head.position})
    await ports.bus.hint(f"cancel.{child.id}")
    return True


def _request(turn: Turn, ports: Ports, child: Child, owner: str) -> Envelope:
    event = e.CancelRequested(reason="its parent has ended, or was cancelled")
    caused = turn.cause.next(
        event,
        event_id=derived_id(child.id, event.kind),
        sender=turn.sender,
        occurred_at=ports.clock.now(),
    )
    return stamped(
        replace(
            caused,
            task_id=child.id,
            parent_task_id=turn.cause.task_id,
            to=owner,
            attempt=turn.attempt,
            started_at=turn.started_at,
            source=b"",
        )
    )
