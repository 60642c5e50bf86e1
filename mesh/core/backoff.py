"""How long to wait before the next attempt."""

from dataclasses import dataclass

__all__ = ["Backoff"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Exponential with full-range jitter on its upper half.

    Attributes:
        first_s: Wait after the first failure, seconds, > 0.
        factor: How much longer each further one is, >= 1.
        limit_s: Longest wait, seconds.
    """

    first_s: float = 0.2
    factor: float = 2.0
    limit_s: float = 30.0

    def delay_s(self, attempt: int, jitter: float) -> float:
        """Seconds to wait after failed attempt `attempt` (1-based); `jitter` is in [0, 1)."""
        full = min(self.limit_s, self.first_s * self.factor ** min(attempt - 1, 64))
        return full * (0.5 + jitter / 2)
