"""Telemetry for tests and for those who want none."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mesh.errors import MeshError
from mesh.telemetry.port import NO_ATTRIBUTES, Attributes, Metric, SpanHandle, SpanSpec, Value

__all__ = ["InprocTelemetry", "NoTelemetry", "RecordedSpan", "error_code"]


def error_code(error: Exception) -> str:
    """What an error is called in a span: a mesh error's code, else its type; never its text."""
    return error.code if isinstance(error, MeshError) else f"python.{type(error).__name__}"


@dataclass(slots=True)
class RecordedSpan:
    """A span that was opened: what it was to be, and what became of it."""

    spec: SpanSpec
    attributes: dict[str, Value] = field(default_factory=dict[str, Value])
    error: str = ""
    ended: bool = False

    def annotate(self, name: str, value: Value) -> None:
        """Set an attribute."""
        self.attributes[name] = value

    def failed(self, code: str) -> None:
        """It ended badly."""
        self.error = code


class InprocTelemetry:
    """A `Telemetry` that keeps everything.

    Attributes:
        spans: In the order they were opened.
        values: Every counted amount and recorded value, with its metric and attributes.
    """

    def __init__(self) -> None:
        self.spans: list[RecordedSpan] = []
        self.values: list[tuple[Metric, float, Attributes]] = []

    @contextmanager
    def span(self, spec: SpanSpec) -> Generator[SpanHandle]:
        """Open a span until the context ends."""
        span = RecordedSpan(spec)
        self.spans.append(span)
        try:
            yield span
        except Exception as error:
            span.failed(error_code(error))
            raise
        finally:
            span.ended = True

    def count(
        self, metric: Metric, amount: int = 1, attributes: Attributes = NO_ATTRIBUTES
    ) -> None:
        """Add to a counter."""
        self.values.append((metric, amount, attributes))

    def record(self, metric: Metric, value: float, attributes: Attributes = NO_ATTRIBUTES) -> None:
        """Add a value to a histogram."""
        self.values.append((metric, value, attributes))


class NoTelemetry:
    """A `Telemetry` that nobody listens to."""

    @contextmanager
    def span(self, spec: SpanSpec) -> Generator[SpanHandle]:
        """Open nothing."""
        yield RecordedSpan(spec)

    def count(
        self, metric: Metric, amount: int = 1, attributes: Attributes = NO_ATTRIBUTES
    ) -> None:
        """Count nothing."""

    def record(self, metric: Metric, value: float, attributes: Attributes = NO_ATTRIBUTES) -> None:
        """Record nothing."""
