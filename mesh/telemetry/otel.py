"""Telemetry through the OpenTelemetry SDK.

Export runs in threads of the SDK's own and drops what it cannot send: a dead collector costs an
agent nothing, and a stop at most a second.
"""
# pyright: reportUnknownMemberType=false
# The exporters leave their keyword parameters without types.

import logging
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from hashlib import sha256

from opentelemetry import metrics as metric_api
from opentelemetry import trace as api
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.util.types import Attributes as OtelAttributes

from mesh.telemetry.environment import wanted
from mesh.telemetry.inproc import NoTelemetry, error_code
from mesh.telemetry.names import ERROR_TYPE, METRICS, SCOPE
from mesh.telemetry.port import (
    NO_ATTRIBUTES,
    Attributes,
    Metric,
    MetricKind,
    SpanHandle,
    SpanKind,
    SpanSpec,
    Value,
)

__all__ = ["OtelTelemetry", "open_otel"]

_log = logging.getLogger(__name__)
_CLOSE_S = 1.0
_BUCKETS_S = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0),
)
_KINDS = {kind: api.SpanKind[kind.name] for kind in SpanKind}
_given: ContextVar[SpanSpec | None] = ContextVar("given", default=None)


class _GivenIds(RandomIdGenerator):
    """Ids of the spec whose span is being started; random ones for anybody else's spans."""

    def generate_trace_id(self) -> int:
        spec = _given.get()
        return int(spec.trace_id, 16) if spec else super().generate_trace_id()

    def generate_span_id(self) -> int:
        spec = _given.get()
        return int(spec.span_id, 16) if spec else super().generate_span_id()


class _TraceRatio(Sampler):
    """A share of all traces, the same ones in every process.

    The SDK's own takes the trace id's low bits for random ones. A trace id that is a task's has a
    UUID's fixed bits there: at a ratio of 0.5 it would take none, at 0.75 all.
    """

    def __init__(self, ratio: float) -> None:
        self._ratio = ratio

    def should_sample(  # noqa: PLR0913  # the SDK's signature
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: api.SpanKind | None = None,
        attributes: OtelAttributes = None,
        links: Sequence[api.Link] | None = None,
        trace_state: api.TraceState | None = None,
    ) -> SamplingResult:
        drawn = int.from_bytes(sha256(trace_id.to_bytes(16)).digest()[:8]) / 2**64
        decision = Decision.RECORD_AND_SAMPLE if drawn < self._ratio else Decision.DROP
        return SamplingResult(decision, attributes, trace_state)

    def get_description(self) -> str:
        return f"TraceRatio{{{self._ratio}}}"


class _Handle:
    """A span of the SDK as a `SpanHandle`."""

    def __init__(self, span: api.Span) -> None:
        self._span = span

    def annotate(self, name: str, value: Value) -> None:
        self._span.set_attribute(name, value)

    def failed(self, code: str) -> None:
        self._span.set_attribute(ERROR_TYPE, code)
        self._span.set_status(api.StatusCode.ERROR, code)


class OtelTelemetry:
    """A `Telemetry` over a tracer and a meter provider of its own.

    Args:
        processors: What ended spans are given to.
        readers: What reads the metrics.
        resource: What describes this process.
        sample_ratio: Share of the traces to keep, None for the SDK's `OTEL_TRACES_SAMPLER`.
    """

    def __init__(
        self,
        processors: Sequence[SpanProcessor],
        readers: Sequence[MetricReader],
        *,
        resource: Resource,
        sample_ratio: float | None = None,
    ) -> None:
        self._traces = TracerProvider(
            sampler=None if sample_ratio is None else _TraceRatio(sample_ratio),
            resource=resource,
            shutdown_on_exit=False,
            id_generator=_GivenIds(),
        )
        for processor in processors:
            self._traces.add_span_processor(processor)
        self._meters = MeterProvider(
            metric_readers=readers, resource=resource, shutdown_on_exit=False
        )
        self._tracer = self._traces.get_tracer(SCOPE)
        self._counters: dict[str, metric_api.Counter] = {}
        self._histograms: dict[str, metric_api.Histogram] = {}
        self._make_instruments()

    @contextmanager
    def span(self, spec: SpanSpec) -> Generator[SpanHandle]:
        """Open a span with exactly the spec's ids; it is OpenTelemetry's current one inside."""
        span = self._start(spec)
        with api.use_span(
            span, end_on_exit=True, record_exception=False, set_status_on_exception=False
        ):
            handle = _Handle(span)
            try:
                yield handle
            except Exception as error:
                # By code: the SDK's own would send the text, which may quote a payload.
                handle.failed(error_code(error))
                raise

    def count(
        self, metric: Metric, amount: int = 1, attributes: Attributes = NO_ATTRIBUTES
    ) -> None:
        """Add to a counter."""
        self._counters[metric.name].add(amount, attributes)

    def record(self, metric: Metric, value: float, attributes: Attributes = NO_ATTRIBUTES) -> None:
        """Add a value to a histogram."""
        self._histograms[metric.name].record(value, attributes)

    @property
    def tracer_provider(self) -> api.TracerProvider:
        """For whoever composes the process: what a handler's own instrumentation should use."""
        return self._traces

    def shutdown(self) -> None:
        """Hand over the rest and stop; blocks as long as the exporter does."""
        self._traces.shutdown()
        self._meters.shutdown()

    def _start(self, spec: SpanSpec) -> api.Span:
        if not spec.sampled:
            return api.NonRecordingSpan(_context_of(spec.trace_id, spec.span_id, sampled=False))
        # A context of its own: what is current here is not the parent, the spec says what is.
        parent = Context()
        if spec.parent_span_id:
            remote = api.NonRecordingSpan(_context_of(spec.trace_id, spec.parent_span_id))
            parent = api.set_span_in_context(remote, parent)
        token = _given.set(spec)
        try:
            return self._tracer.start_span(
                spec.name,
                context=parent,
                kind=_KINDS[spec.kind],
                attributes=spec.attributes,
                links=[api.Link(_context_of(k.trace_id, k.span_id)) for k in spec.links],
            )
        finally:
            _given.reset(token)

    def _make_instruments(self) -> None:
        meter = self._meters.get_meter(SCOPE)
        for metric in METRICS:
            if metric.kind is MetricKind.COUNTER:
                counter = meter.create_counter(metric.name, metric.unit, metric.description)
                counter.add(0)  # one that was never touched is not exported at all
                self._counters[metric.name] = counter
            else:
                self._histograms[metric.name] = meter.create_histogram(
                    metric.name,
                    metric.unit,
                    metric.description,
                    explicit_bucket_boundaries_advisory=_BUCKETS_S,
                )


@contextmanager
def open_otel(
    environ: Mapping[str, str], *, service: str, instance: str, version: str = ""
) -> Generator["OtelTelemetry | NoTelemetry"]:
    """Telemetry of a process, exported over OTLP if the environment asks for it, else none.

    Args:
        environ: The process's environment.
        service: What it is, `OTEL_SERVICE_NAME` goes before it.
        instance: Which one of them.
        version: Of its behaviour.

    Raises:
        ConfigError: The environment asks for what is not there.
    """
    asked = wanted(environ)
    if not asked:
        yield NoTelemetry()
        return
    spans = OTLPSpanExporter() if asked.traces else None
    metrics = OTLPMetricExporter() if asked.metrics else None
    telemetry = OtelTelemetry(
        [BatchSpanProcessor(spans)] if spans else [],
        [PeriodicExportingMetricReader(metrics)] if metrics else [],
        resource=_resource(service, instance, version),
        sample_ratio=asked.sample_ratio,
    )
    try:
        yield telemetry
    finally:
        _close(telemetry, [e for e in (spans, metrics) if e])


def _close(
    telemetry: OtelTelemetry, exporters: Sequence[OTLPSpanExporter | OTLPMetricExporter]
) -> None:
    """Send the rest if that takes no longer than a moment; a dead endpoint must not hold a stop."""
    closing = threading.Thread(target=telemetry.shutdown, name="telemetry-close", daemon=True)
    closing.start()
    closing.join(_CLOSE_S * 0.7)
    if not closing.is_alive():
        return
    _log.warning("telemetry not sent in time is dropped: the OTLP endpoint does not answer")
    for exporter in exporters:
        exporter.shutdown(timeout_millis=0)
    closing.join(_CLOSE_S * 0.2)


def _resource(service: str, instance: str, version: str) -> Resource:
    known = {"service.name": service, "service.instance.id": instance}
    if version:
        known["service.version"] = version
    # In this order: what the environment says goes before what the process thinks of itself.
    return Resource.create().merge(Resource(known)).merge(OTELResourceDetector().detect())


def _context_of(trace_id: str, span_id: str, *, sampled: bool = True) -> api.SpanContext:
    flags = api.TraceFlags(api.TraceFlags.SAMPLED if sampled else api.TraceFlags.DEFAULT)
    return api.SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=flags)
