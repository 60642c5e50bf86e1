"""Time, ids and randomness as ports, and the system's own."""

import random
import time
import uuid
from datetime import UTC, datetime
from typing import Protocol

__all__ = ["Clock", "IdSource", "SystemClock", "SystemIds"]


class Clock(Protocol):
    """What time it is."""

    def now(self) -> datetime:
        """This instant, aware, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back, for leases and durations."""
        ...


class IdSource(Protocol):
    """Fresh ids and randomness."""

    def fresh(self) -> str:
        """A new id: UUIDv7, 32 lower-case hex digits, ascending with time."""
        ...

    def random(self) -> float:
        """A number in [0, 1)."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """This instant, aware, UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds since some fixed moment."""
        return time.monotonic()


class SystemIds:
    """Ids from the machine's clock and its entropy.

    Source: RFC 9562 section 5.7 (UUIDv7), 48 bits of milliseconds and 74 random ones.
    """

    def fresh(self) -> str:
        """A new UUIDv7."""
        bits = (time.time_ns() // 1_000_000) << 80 | random.SystemRandom().getrandbits(80)
        bits = bits & ~(0xF << 76) | (0x7 << 76)
        bits = bits & ~(0x3 << 62) | (0x2 << 62)
        return uuid.UUID(int=bits).hex

    def random(self) -> float:
        """A number in [0, 1)."""
        return random.SystemRandom().random()
