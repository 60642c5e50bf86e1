"""How often something is tried, and how long one try may take."""

from dataclasses import dataclass, field

from mesh.core.backoff import Backoff

__all__ = ["Retry"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """A policy for a handler or a step.

    Attributes:
        attempts: Most tries, >= 1.
        backoff: Wait between them; `Retryable(after=…)` overrides it once.
        timeout_s: Longest time of one try, seconds; None for no limit. Of a handler: of one run
            between two waits. A plain function in a
            thread cannot be stopped: it goes on, and what it returns is dropped.
    """

    attempts: int = 5
    backoff: Backoff = field(default_factory=Backoff)
    timeout_s: float | None = None

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"`attempts` is at least 1, not {self.attempts}")
