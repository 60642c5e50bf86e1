"""Tasks that sleep, as their agent would have written them, and what fired for them."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from mesh.core import event as e
from tests.make import START, TEXT, envelope
from tests.runtime.ledger_rig import Rig, task_id

if TYPE_CHECKING:
    from mesh.core.envelope import Envelope, Record

DUE = START + timedelta(minutes=1)
NAP = "nap"


def told(event: e.TaskEvent, number: int = 1, *, by: str = "sleeper", to: str = "log") -> Envelope:
    return envelope(event, sender=by, to=to, task_id=task_id(number))


def submitted(number: int = 1, *, deadline: datetime | None = None) -> Envelope:
    made = told(e.TaskSubmitted(input=TEXT), number, by="gateway", to="sleeper")
    return replace(made, deadline=deadline)


def asleep(number: int = 1, *, due: datetime = DUE) -> list[Envelope]:
    """A task that sleeps until `due`."""
    return [
        submitted(number),
        told(e.TimerSet(ordinal=1, timer_id=NAP, fires_at=due), number),
        told(e.Suspended(waits=(e.Wait(what="timer", id=NAP),)), number),
    ]


async def fired(rig: Rig, number: int = 1) -> list[Record]:
    history = await rig.bus.history(task_id(number))
    return [r for r in history if r.envelope and isinstance(r.envelope.event, e.TimerFired)]
