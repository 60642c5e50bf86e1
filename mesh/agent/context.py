"""What a handler may ask of the world: time, ids, chance, and notes for the next agent."""

import hashlib
from datetime import datetime
from typing import Protocol
from uuid import UUID

from mesh.clock import Clock
from mesh.core import event as e
from mesh.core.envelope import Envelope
from mesh.core.ids import derived_id
from mesh.core.packet import Decision, RelayPacket

__all__ = ["Context", "TurnContext"]


class Context(Protocol):
    """Handed to every handler; everything from outside goes through it."""

    @property
    def task_id(self) -> str:
        """The task, 32 hex digits."""
        ...

    @property
    def attempt(self) -> int:
        """Which run of this handler for this delivery it is, 1-based."""
        ...

    @property
    def hop(self) -> int:
        """How often the task was handed off before, >= 0."""
        ...

    @property
    def packet(self) -> RelayPacket:
        """What the agents before left for this one."""
        ...

    def now(self) -> datetime:
        """This instant, aware, UTC."""
        ...

    def uuid(self) -> UUID:
        """An id; the same one, in order, when the handler runs again."""
        ...

    def random(self) -> float:
        """A number in [0, 1); the same one, in order, when the handler runs again."""
        ...

    def decide(self, id: str, summary: str, why: str = "") -> None:
        """Put a decision into the relay packet."""
        ...

    def constraint(self, rule: str) -> None:
        """Put a standing rule into the relay packet; it stays for the rest of the task."""
        ...


class TurnContext:
    """The context of one run of a handler, on one delivery."""

    def __init__(
        self, *, cause: Envelope, hop: int, attempt: int, packet: RelayPacket, clock: Clock
    ) -> None:
        self.task_id, self.hop, self.attempt, self.packet = cause.task_id, hop, attempt, packet
        self._delivery_id, self._clock = cause.event_id, clock
        self._asked = 0
        self._decisions: list[Decision] = []
        self._constraints: list[str] = []

    def now(self) -> datetime:
        """This instant."""
        return self._clock.now()

    def uuid(self) -> UUID:
        """The next derived id."""
        return UUID(hex=derived_id(self._delivery_id, "ctx.uuid", self._next()))

    def random(self) -> float:
        """The next derived number."""
        seed = derived_id(self._delivery_id, "ctx.random", self._next())
        return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:7], "big") / 2**56

    def decide(self, id: str, summary: str, why: str = "") -> None:
        """Note a decision, stored with the outcome."""
        self._decisions.append(Decision(id=id, summary=summary, why=why))

    def constraint(self, rule: str) -> None:
        """Note a standing rule, stored with the outcome."""
        self._constraints.append(rule)

    def notes(self) -> e.Noted | None:
        """What was noted so far, None if nothing."""
        if not self._decisions and not self._constraints:
            return None
        return e.Noted(decisions=tuple(self._decisions), constraints=tuple(self._constraints))

    def _next(self) -> int:
        self._asked += 1
        return self._asked
