"""Cards and presences in memory, for tests and single-process meshes."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from mesh.registry.port import Card, Presence

__all__ = ["InprocRegistry"]


class InprocRegistry:
    """A `Registry` whose instances cannot die without leaving."""

    def __init__(self) -> None:
        self._cards: dict[str, Card] = {}
        self._presences: dict[tuple[str, str], Presence] = {}

    @asynccontextmanager
    async def announce(self, card: Card, presence: Presence) -> AsyncGenerator[None]:
        """Store the card and the presence, until the context ends."""
        key = (presence.agent, presence.instance)
        self._cards[card.name] = card
        self._presences[key] = presence
        try:
            yield
        finally:
            self._presences.pop(key, None)

    async def card(self, agent: str) -> Card | None:
        """The newest card of an agent, None if it was never registered."""
        return self._cards.get(agent)

    async def cards(self) -> list[Card]:
        """Every agent ever registered, by name."""
        return sorted(self._cards.values(), key=lambda card: card.name)

    async def presences(self, agent: str = "") -> list[Presence]:
        """Live instances, of one agent or of all, by agent and start."""
        found = [p for p in self._presences.values() if agent in ("", p.agent)]
        return sorted(found, key=lambda p: (p.agent, p.started_at, p.instance))
