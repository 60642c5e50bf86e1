"""What the mesh tells about itself while it runs: spans and a few metrics.

Everything a span is called and carries is decided by pure functions in `names`; an implementation
only adds the times. Nothing here fails, waits for a network, or slows its caller.

Source: design, section 7.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Protocol

__all__ = [
    "Link",
    "Metric",
    "MetricKind",
    "SpanHandle",
    "SpanKind",
    "SpanSpec",
    "Telemetry",
    "Value",
]

Value = str | int | float | bool
"""What an attribute can hold."""
Attributes = Mapping[str, Value]
"""Attributes by name; the names are in `names`, the values few where a metric has them."""
NO_ATTRIBUTES: Attributes = MappingProxyType({})


class SpanKind(Enum):
    """The part a span plays, as OpenTelemetry has it."""

    INTERNAL = "internal"
    PRODUCER = "producer"
    CONSUMER = "consumer"
    CLIENT = "client"


class MetricKind(Enum):
    """How a metric adds up."""

    COUNTER = "counter"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Link:
    """Another span that this one has to do with: 32 and 16 lower-case hex digits."""

    trace_id: str
    span_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanSpec:
    """A span but for its times.

    Ids are lower-case hex, 32 digits for a trace, 16 for a span; `parent_span_id` is "" at a root.
    `sampled` is what the trace's first sender decided.
    """

    name: str
    kind: SpanKind
    trace_id: str
    span_id: str
    task_id: str
    parent_span_id: str = ""
    attributes: Attributes = field(default_factory=dict[str, Value])
    links: tuple[Link, ...] = ()
    sampled: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A counter or a histogram; `unit` is UCUM (`s`, `{message}`)."""

    name: str
    kind: MetricKind
    unit: str
    description: str


class SpanHandle(Protocol):
    """A span that is open."""

    def annotate(self, name: str, value: Value) -> None:
        """Set an attribute; `name` is one of `names`."""
        ...

    def failed(self, code: str) -> None:
        """It ended badly: an error's stable code, never a message, which may quote a payload."""
        ...


class Telemetry(Protocol):
    """Where spans and metrics go."""

    def span(self, spec: SpanSpec) -> AbstractContextManager[SpanHandle]:
        """Open a span until the context ends; it must end before the event's next hop.

        An exception that leaves the context marks the span as failed and goes on.
        """
        ...

    def count(
        self, metric: Metric, amount: int = 1, attributes: Attributes = NO_ATTRIBUTES
    ) -> None:
        """Add to a counter."""
        ...

    def record(self, metric: Metric, value: float, attributes: Attributes = NO_ATTRIBUTES) -> None:
        """Add a value, in the metric's unit, to a histogram."""
        ...
