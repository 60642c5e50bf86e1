"""What the mesh needs to know its agents.

A card says what an agent offers and never expires; a presence says that one instance is alive and
expires when it stops saying so.

Source: design, section 4.
"""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

__all__ = ["PRESENCE_S", "Card", "InputType", "Presence", "Registry"]

PRESENCE_S = 10.0
"""Seconds after which a silent instance counts as gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputType:
    """One type an agent accepts; `json_schema` is JSON text, "" where there is none."""

    schema: str
    content_type: str
    json_schema: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What an agent offers."""

    name: str
    behaviour_version: str
    inputs: tuple[InputType, ...] = ()
    concurrency: int = 1
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """One live process of an agent."""

    agent: str
    instance: str
    behaviour_version: str
    host: str
    pid: int
    concurrency: int
    started_at: datetime


class Registry(Protocol):
    """Cards and presences of one tenant."""

    def announce(self, card: Card, presence: Presence) -> AbstractAsyncContextManager[None]:
        """Store the card, and renew the presence until the context ends, which removes it.

        Survives a broker that goes away and comes back.
        """
        ...

    async def card(self, agent: str) -> Card | None:
        """The newest card of an agent, None if it was never registered."""
        ...

    async def cards(self) -> list[Card]:
        """Every agent ever registered, by name."""
        ...

    async def presences(self, agent: str = "") -> list[Presence]:
        """Live instances, of one agent or of all, by agent and start."""
        ...
