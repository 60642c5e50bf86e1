"""Time and ids that a test decides."""

from datetime import UTC, datetime, timedelta

__all__ = ["ManualClock", "ManualIds"]


class ManualClock:
    """A clock that stands still until it is advanced."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._start, self._elapsed_s = start, 0.0

    def now(self) -> datetime:
        """The start plus what was advanced."""
        return self._start + timedelta(seconds=self._elapsed_s)

    def monotonic(self) -> float:
        """Seconds advanced so far."""
        return self._elapsed_s

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._elapsed_s += seconds


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
