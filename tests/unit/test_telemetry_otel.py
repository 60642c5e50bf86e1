# pyright: reportUnknownMemberType=false
# The collector's generated stubs have no types.

import logging
import socket
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime

import grpc
import pytest
from opentelemetry import trace as api
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.metrics.export import (
    HistogramDataPoint,
    InMemoryMetricReader,
    NumberDataPoint,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mesh.core.envelope import Envelope, Record, Sender, TraceContext
from mesh.core.event import TaskSubmitted
from mesh.errors import ConfigError, Unavailable
from mesh.telemetry import names
from mesh.telemetry.context import stamped
from mesh.telemetry.environment import Wanted, wanted
from mesh.telemetry.inproc import NoTelemetry
from mesh.telemetry.otel import OtelTelemetry, open_otel
from mesh.telemetry.port import SpanSpec

TASK = "0190a1b2c3d47e8f9a0b1c2d3e4f5061"
NOW = datetime(2026, 11, 22, tzinfo=UTC)
Resources = Mapping[str, str]


def delivered(task_id: str = TASK, caller: TraceContext | None = None) -> Record:
    envelope = stamped(
        Envelope(
            event_id="1" * 32,
            tenant="t",
            task_id=task_id,
            root_task_id=task_id,
            sender=Sender(agent="gateway"),
            occurred_at=NOW,
            event=TaskSubmitted(),
            to="planner",
        ),
        caller,
    )
    subject = str(envelope.subject("s0"))
    return Record(position=1, stored_at=NOW, subject=subject, raw=b"x", envelope=envelope)


def send_of(record: Record) -> SpanSpec:
    assert record.envelope is not None
    return names.sending(record.envelope, "s0")


class Kept:
    def __init__(self, sample_ratio: float | None = None) -> None:
        self._exporter, self._reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.telemetry = OtelTelemetry(
            [SimpleSpanProcessor(self._exporter)],
            [self._reader],
            resource=Resource.create(),
            sample_ratio=sample_ratio,
        )

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()

    def metrics(self) -> dict[str, list[object]]:
        data = self._reader.get_metrics_data()
        assert data is not None
        return {
            metric.name: list(metric.data.data_points)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@pytest.fixture
def kept() -> Iterator[Kept]:
    made = Kept()
    yield made
    made.telemetry.shutdown()


def test_a_span_has_the_specs_ids_and_names(kept: Kept) -> None:
    record = delivered()
    specs = [send_of(record), names.processing(record, "s0", attempt=2)]
    for spec in specs:
        with kept.telemetry.span(spec):
            pass
    for span, spec in zip(kept.spans, specs, strict=True):
        context = span.get_span_context()
        assert context is not None
        assert f"{context.trace_id:032x}" == spec.trace_id
        assert f"{context.span_id:016x}" == spec.span_id
        assert f"{span.parent.span_id if span.parent else 0:016x}" == (
            spec.parent_span_id or "0" * 16
        )
        assert (span.name, span.kind.name) == (spec.name, spec.kind.name)
        assert dict(span.attributes or {}) == dict(spec.attributes)
        assert [f"{k.context.span_id:016x}" for k in span.links] == [k.span_id for k in spec.links]
        assert (span.end_time or 0) >= (span.start_time or 0) > 0


def test_the_spec_names_the_parent_and_a_handlers_own_spans_find_theirs(kept: Kept) -> None:
    record = delivered()
    process, invoke = (
        names.processing(record, "s0", attempt=1),
        names.invoking(record, "planner", attempt=1),
    )
    with kept.telemetry.span(send_of(record)), kept.telemetry.span(process):
        with kept.telemetry.span(invoke):
            current = api.get_current_span().get_span_context()
            assert f"{current.span_id:016x}" == invoke.span_id
        assert f"{api.get_current_span().get_span_context().span_id:016x}" == process.span_id
    assert not api.get_current_span().get_span_context().is_valid
    by_name = {span.name.split()[0]: span for span in kept.spans}
    assert by_name["send"].parent is None
    parent, send = by_name["process"].parent, by_name["send"].get_span_context()
    assert parent is not None
    assert send is not None
    assert parent.span_id == send.span_id


def test_a_failure_says_its_code_and_nothing_of_its_text(kept: Kept) -> None:
    with (
        pytest.raises(Unavailable),
        kept.telemetry.span(names.invoking(delivered(), "planner", attempt=1)),
    ):
        raise Unavailable("the payload said SECRET")
    [span] = kept.spans
    assert span.status.status_code is api.StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "mesh.unavailable"
    assert "SECRET" not in span.to_json()


def test_an_unsampled_callers_trace_is_not_exported(kept: Kept) -> None:
    caller = TraceContext(traceparent=f"00-{'c' * 32}-{'d' * 16}-00")
    with kept.telemetry.span(send_of(delivered(caller=caller))):
        assert not api.get_current_span().is_recording()
    assert kept.spans == ()


def test_a_ratio_takes_its_share_of_tasks_whole_and_everywhere() -> None:
    one, other = Kept(0.25), Kept(0.25)
    for n in range(400):
        record = delivered(f"0190a1b2c3d47e8f9a0b{n:012x}")
        with one.telemetry.span(send_of(record)):
            pass
        with other.telemetry.span(names.processing(record, "s0", attempt=1)):
            pass
    for kept in (one, other):
        kept.telemetry.shutdown()
    traces = [{s.context.trace_id for s in kept.spans if s.context} for kept in (one, other)]
    assert traces[0] == traces[1]
    assert 60 < len(traces[0]) < 140


def test_metrics_are_there_from_the_start_and_fit_minutes(kept: Kept) -> None:
    [zero] = kept.metrics()["mesh.handoffs"]
    assert isinstance(zero, NumberDataPoint)
    assert zero.value == 0
    kept.telemetry.count(names.HANDOFFS, 2, {names.DESTINATION: "mesh.t.s0.writer"})
    kept.telemetry.record(names.PROCESS_S, 400.0)
    counted = kept.metrics()["mesh.handoffs"]
    assert [p.value for p in counted if isinstance(p, NumberDataPoint)] == [0, 2]
    [histogram] = kept.metrics()["messaging.process.duration"]
    assert isinstance(histogram, HistogramDataPoint)
    assert histogram.explicit_bounds[-1] == 600.0
    assert histogram.bucket_counts[-2] == 1


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, Wanted()),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:1"}, Wanted(traces=True, metrics=True)),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x:1"}, Wanted(traces=True)),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, Wanted(traces=True)),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:1", "OTEL_METRICS_EXPORTER": "none"},
            Wanted(traces=True),
        ),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:1", "OTEL_SDK_DISABLED": "TRUE"}, Wanted()),
        (
            {
                "OTEL_TRACES_EXPORTER": "otlp",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc",
                "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
                "OTEL_TRACES_SAMPLER_ARG": "0.1",
            },
            Wanted(traces=True, sample_ratio=0.1),
        ),
    ],
)
def test_export_happens_when_the_standard_variables_ask(
    environ: Resources, expected: Wanted
) -> None:
    assert wanted(environ) == expected


@pytest.mark.parametrize(
    ("environ", "key"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER"),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
            "OTEL_EXPORTER_OTLP_PROTOCOL",
        ),
        (
            {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "half"},
            "OTEL_TRACES_SAMPLER_ARG",
        ),
    ],
)
def test_what_is_not_there_is_named(environ: Resources, key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        wanted(environ)


def test_nobody_asking_means_none() -> None:
    with open_otel({}, service="planner", instance="1-a") as telemetry:
        assert isinstance(telemetry, NoTelemetry)


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self) -> None:
        self.requests: list[trace_service_pb2.ExportTraceServiceRequest] = []

    def Export(
        self,
        request: trace_service_pb2.ExportTraceServiceRequest,
        context: grpc.ServicerContext,
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        self.requests.append(request)
        return trace_service_pb2.ExportTraceServiceResponse()


@contextmanager
def collecting() -> Generator[tuple[Collector, str]]:
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield collector, f"http://127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def asked_for(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> Resources:
    environ = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": endpoint, "OTEL_SERVICE_NAME": "named"}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return environ


def test_a_collector_is_sent_spans_and_who_sent_them(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = send_of(delivered())
    with collecting() as (collector, endpoint):
        environ = asked_for(monkeypatch, endpoint)
        with (
            open_otel(environ, service="planner", instance="1-a", version="2.0.0") as telemetry,
            telemetry.span(spec),
        ):
            pass
        [request] = collector.requests
    [resource_spans] = request.resource_spans
    who = {a.key: a.value.string_value for a in resource_spans.resource.attributes}
    assert (who["service.name"], who["service.instance.id"]) == ("named", "1-a")
    assert who["service.version"] == "2.0.0"
    [span] = resource_spans.scope_spans[0].spans
    assert (span.trace_id.hex(), span.span_id.hex()) == (spec.trace_id, spec.span_id)


@contextmanager
def dead_endpoint(*, listens: bool) -> Generator[str]:
    """A port nobody listens on, or one that takes connections and never says a word."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        if listens:
            taken.listen(8)
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.parametrize("listens", [False, True], ids=["refuses", "is silent"])
def test_a_dead_endpoint_costs_next_to_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, listens: bool
) -> None:
    caplog.set_level(logging.CRITICAL, "opentelemetry")
    threads = set(threading.enumerate())
    with dead_endpoint(listens=listens) as endpoint:
        environ = asked_for(monkeypatch, endpoint)
        with open_otel(environ, service="planner", instance="1-a") as telemetry:
            started = time.perf_counter()
            for _ in range(5000):  # more than the SDK's queue holds: the oldest are dropped
                with telemetry.span(send_of(delivered())):
                    pass
            per_span_s = (time.perf_counter() - started) / 5000
            closing = time.perf_counter()
        closed_s = time.perf_counter() - closing
    assert per_span_s < 0.002
    assert closed_s < 1.5  # it stops waiting after 0.9; the rest is for a busy machine
    left = [t for t in threading.enumerate() if t not in threads]
    for thread in left:
        thread.join(5)
    assert [t.name for t in left if t.is_alive()] == []
