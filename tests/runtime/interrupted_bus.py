"""The in-process bus with a place, around the append of a report, where others come first."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from mesh.bus.inproc import InprocBus
from mesh.core.envelope import Envelope
from mesh.core.subject import INFORMING

__all__ = ["InterruptedBus", "interrupted"]


class InterruptedBus(InprocBus):
    """`before` runs once, between the decision and the append; `after` before its answer."""

    before: Callable[[], Awaitable[None]] | None = None
    after: Callable[[], Awaitable[None]] | None = None

    async def append(
        self, envelopes: Sequence[Envelope], expected: Mapping[str, int]
    ) -> tuple[int, ...]:
        """As the port says, with something in between."""
        reports = envelopes[0].event.event_class == INFORMING
        if reports and self.before is not None:
            before, self.before = self.before, None
            await before()
        positions = await super().append(envelopes, expected)
        if reports and self.after is not None:
            after, self.after = self.after, None
            await after()
        return positions


def interrupted(bus: InprocBus) -> InterruptedBus:
    """The bus as what it is."""
    assert isinstance(bus, InterruptedBus)
    return bus
