"""Time and ids that a test decides."""

from datetime import UTC, datetime, timedelta

__all__ = ["ManualClock", "ManualIds"]


class ManualClock:
    """A clock that stands still until it is advanced."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        # Whole microseconds, as instants have them: floats that are summed up would miss a timer.
        self._start, self._elapsed = start, timedelta()

    def now(self) -> datetime:
        """The start plus what was advanced."""
        return self._start + self._elapsed

    def monotonic(self) -> float:
        """Seconds advanced so far."""
        return self._elapsed.total_seconds()

    def advance(self, duration: float | timedelta) -> None:
        """Let time pass; a number is seconds."""
        span = duration if isinstance(duration, timedelta) else timedelta(seconds=duration)
        self._elapsed += span


class ManualIds:
    """Ids that count, and chance that is always the same."""

    def __init__(self, prefix: int = 0) -> None:
        self._count, self._prefix = 0, prefix

    def fresh(self) -> str:
        """The next id: 32 hex digits, ascending."""
        self._count += 1
        return f"{self._prefix:016x}{self._count:016x}"

    def random(self) -> float:
        """Always one half."""
        return 0.5
