import re
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.envelope import Envelope, Record, Sender, TraceContext
from mesh.core.event import CancelRequested, HandedOff, TaskEvent, TaskSubmitted
from mesh.errors import Unavailable
from mesh.telemetry import names
from mesh.telemetry.context import PROCESS, SEND, TraceParent, context_of, span_id, stamped
from mesh.telemetry.inproc import InprocTelemetry, NoTelemetry
from mesh.telemetry.port import Link, MetricKind, SpanKind, SpanSpec, Telemetry

ROOT, CHILD = "a" * 32, "b" * 32
SUBMIT, HANDOFF = "1" * 32, "2" * 32
CALLER = TraceContext(
    traceparent=f"00-{'c' * 32}-{'d' * 16}-01", tracestate="vendor=x", baggage="user=7"
)
NOW = datetime(2026, 11, 22, tzinfo=UTC)
PLANNER = Sender(agent="planner", instance="7-x")
SUBJECT = f"mesh.t.s0.writer.{CHILD}.m.planner"


def submitted() -> Envelope:
    return envelope(SUBMIT, TaskSubmitted(), Sender(agent="gateway"), to="planner")


def handed_off(cause: Envelope, attempt: int = 1) -> Envelope:
    made = cause.next(HandedOff(), event_id=HANDOFF, sender=PLANNER, occurred_at=NOW)
    return replace(made, to="writer", attempt=attempt, hop=1)


def envelope(event_id: str, event: TaskEvent, sender: Sender, to: str) -> Envelope:
    return Envelope(
        event_id=event_id,
        tenant="t",
        task_id=CHILD,
        root_task_id=ROOT,
        correlation_id="conversation",
        sender=sender,
        occurred_at=NOW,
        event=event,
        to=to,
    )


def record(made: Envelope | None) -> Record:
    subject = str(made.subject("s0")) if made else SUBJECT
    return Record(position=7, stored_at=NOW, subject=subject, raw=b"abc", envelope=made)


def test_a_task_without_a_caller_is_a_trace_of_its_own() -> None:
    found = stamped(submitted()).trace
    assert found.traceparent == f"00-{ROOT}-{span_id(SUBMIT, SEND)}-01"
    assert found.tracestate == ""


def test_a_callers_trace_goes_on() -> None:
    made = stamped(submitted(), CALLER)
    assert made.trace.traceparent == f"00-{'c' * 32}-{span_id(SUBMIT, SEND)}-01"
    assert made.trace.tracestate == f"mesh={'d' * 16},vendor=x"
    assert made.trace.baggage == "user=7"
    assert context_of(made)[1] == "d" * 16


def test_a_callers_context_may_stand_in_the_envelope() -> None:
    asked = replace(submitted(), trace=CALLER)
    assert context_of(asked)[1] == "d" * 16
    assert stamped(asked) == stamped(submitted(), CALLER)


def test_what_the_gateway_adds_to_a_task_has_a_caller_or_no_parent() -> None:
    first = stamped(submitted(), CALLER)
    cancel = first.next(
        CancelRequested(), event_id=HANDOFF, sender=Sender(agent="gateway"), occurred_at=NOW
    )
    other = TraceContext(traceparent=f"00-{'e' * 32}-{'f' * 16}-01")
    for made, parent in ((cancel, ""), (replace(cancel, trace=other), "f" * 16)):
        assert context_of(made)[1] == parent
        assert context_of(stamped(made)) == context_of(made)
    assert stamped(cancel).trace.traceparent.startswith(f"00-{'c' * 32}-")


def test_the_next_event_stays_in_the_trace_and_is_another_span() -> None:
    made = stamped(handed_off(stamped(submitted(), CALLER), attempt=2))
    assert made.trace.traceparent == f"00-{'c' * 32}-{span_id(HANDOFF, SEND)}-01"
    assert made.trace.tracestate == "vendor=x"
    assert made.trace.baggage == "user=7"
    assert context_of(made)[1] == span_id(SUBMIT, PROCESS, 2)


@pytest.mark.parametrize("caller", [None, CALLER], ids=["none", "caller"])
def test_stamping_twice_changes_nothing(caller: TraceContext | None) -> None:
    once = stamped(submitted(), caller)
    assert stamped(once, caller) == once
    assert stamped(once) == once


def test_an_unsampled_caller_is_heard() -> None:
    unsampled = replace(CALLER, traceparent=CALLER.traceparent[:-2] + "00")
    made = stamped(handed_off(stamped(submitted(), unsampled)))
    assert made.trace.traceparent.endswith("-00")
    assert not names.sending(made, "s0").sampled


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        f"00-{'0' * 32}-{'d' * 16}-01",
        f"00-{'c' * 32}-{'0' * 16}-01",
        f"ff-{'c' * 32}-{'d' * 16}-01",
        f"00-{'C' * 32}-{'d' * 16}-01",
        f"00-{'c' * 32}-{'d' * 16}-01-more",
    ],
)
def test_an_invalid_traceparent_counts_as_none(text: str) -> None:
    assert TraceParent.parse(text) is None
    assert stamped(submitted(), TraceContext(traceparent=text)) == stamped(submitted())


def test_a_later_version_of_traceparent_is_read() -> None:
    found = TraceParent.parse(f"01-{'c' * 32}-{'d' * 16}-03-more")
    assert found == TraceParent("c" * 32, "d" * 16, True)


@given(st.just(CALLER.traceparent) | st.text(), st.text(max_size=2000), st.text())
def test_any_callers_context_gives_a_stamp_that_fits_in_headers(
    traceparent: str, tracestate: str, baggage: str
) -> None:
    caller = TraceContext(traceparent=traceparent, tracestate=tracestate, baggage=baggage)
    made = stamped(submitted(), caller)
    assert TraceParent.parse(made.trace.traceparent) is not None
    assert stamped(made, caller) == made
    assert len(made.trace.tracestate) <= 512
    assert re.fullmatch("[ -~]*", made.trace.tracestate + made.trace.baggage)


def test_tracestate_is_cut_to_what_w3c_allows() -> None:
    many = ",".join(f"k{n}=v" for n in range(40))
    assert stamped(submitted(), replace(CALLER, tracestate=many)).trace.tracestate.count(",") == 31
    long = f"a={'x' * 300},b={'y' * 300}"
    made = stamped(submitted(), replace(CALLER, tracestate=long))
    assert made.trace.tracestate == f"mesh={'d' * 16},a={'x' * 300}"


@given(st.text(), st.sampled_from(["send", "process", "invoke", "settle"]), st.integers(0, 99))
def test_a_span_id_is_valid_and_always_the_same(event: str, role: str, attempt: int) -> None:
    found = span_id(event, role, attempt)
    assert found == span_id(event, role, attempt)
    assert TraceParent.parse(f"00-{ROOT}-{found}-01") is not None
    assert found != span_id(event, role, attempt + 1)


def test_a_hop_is_a_chain_of_parents() -> None:
    first = stamped(submitted(), CALLER)
    send = names.sending(first, "s0")
    process = names.processing(record(first), "s0", attempt=1)
    invoke = names.invoking(record(first), "planner", attempt=1)
    settle = names.settling(record(first), "s0", attempt=1, verb="ack")
    onward = names.sending(stamped(handed_off(first)), "s0")
    assert send.parent_span_id == "d" * 16
    assert process.parent_span_id == send.span_id
    assert {s.parent_span_id for s in (invoke, settle, onward)} == {process.span_id}
    spans = (send, process, invoke, settle, onward)
    assert len({s.span_id for s in spans}) == 5
    assert {s.trace_id for s in spans} == {"c" * 32}
    assert {s.task_id for s in spans} == {CHILD}
    assert {s.attributes[names.TASK_ID] for s in spans} == {CHILD}


def test_names_and_kinds_follow_the_conventions() -> None:
    made = record(stamped(handed_off(stamped(submitted()))))
    assert made.envelope is not None
    spans = [
        names.sending(made.envelope, "s0"),
        names.processing(made, "s0", attempt=1),
        names.settling(made, "s0", attempt=1, verb="nak"),
        names.invoking(made, "writer", attempt=1, version="1.4.0"),
    ]
    assert [(s.name, s.kind) for s in spans] == [
        ("send mesh.t.s0.writer", SpanKind.PRODUCER),
        ("process mesh.t.s0.writer", SpanKind.CONSUMER),
        ("nak mesh.t.s0.writer", SpanKind.CLIENT),
        ("invoke_agent writer", SpanKind.INTERNAL),
    ]
    assert [s.attributes.get("messaging.operation.type") for s in spans] == [
        "send",
        "process",
        "settle",
        None,
    ]
    assert spans[0].attributes["messaging.destination.template"] == "mesh.t.s0.writer"
    assert spans[3].attributes["gen_ai.agent.version"] == "1.4.0"


def test_a_handoff_says_from_whom_to_whom() -> None:
    found = names.sending(handed_off(submitted()), "s0").attributes
    assert {k: v for k, v in found.items() if k.startswith("mesh.handoff.")} == {
        "mesh.handoff.source": "planner",
        "mesh.handoff.target": "writer",
        "mesh.handoff.mode": "continue",
    }


def test_no_name_holds_a_task_id() -> None:
    made = record(stamped(handed_off(stamped(submitted()))))
    assert made.envelope is not None
    for spec in (names.sending(made.envelope, "s0"), names.processing(made, "s0", attempt=1)):
        assert CHILD not in spec.name
        assert CHILD not in str(spec.attributes[names.DESTINATION])


def test_an_attempt_is_linked_to_the_one_before() -> None:
    made = record(stamped(submitted()))
    first = names.processing(made, "s0", attempt=1)
    second = names.processing(made, "s0", attempt=2)
    assert first.links == ()
    assert second.links == (Link(first.trace_id, first.span_id),)


def test_what_cannot_be_read_has_a_span_too() -> None:
    spec = names.processing(record(None), "s0", attempt=1)
    assert spec.name == "process mesh.t.s0.writer"
    assert (spec.task_id, spec.attributes[names.TASK_ID]) == (CHILD, CHILD)
    malformed = replace(record(None), subject="mesh")
    assert names.processing(malformed, "s0", attempt=1).name == "process mesh.unknown.s0.unknown"


def test_metrics_have_names_of_their_own() -> None:
    assert len({m.name for m in names.METRICS}) == len(names.METRICS)
    assert {m.unit for m in names.METRICS if m.kind is MetricKind.HISTOGRAM} == {"s"}


def spec() -> SpanSpec:
    return names.processing(record(stamped(submitted())), "s0", attempt=1)


def test_in_process_telemetry_keeps_everything() -> None:
    telemetry = InprocTelemetry()
    with telemetry.span(spec()) as span:
        span.annotate(names.OUTCOME, "task.completed")
    telemetry.count(names.HANDOFFS)
    telemetry.record(names.PROCESS_S, 0.5, {names.ERROR_TYPE: "x"})
    [kept] = telemetry.spans
    assert (kept.spec, kept.error, kept.ended) == (spec(), "", True)
    assert kept.attributes == {names.OUTCOME: "task.completed"}
    assert telemetry.values == [
        (names.HANDOFFS, 1, {}),
        (names.PROCESS_S, 0.5, {names.ERROR_TYPE: "x"}),
    ]


@pytest.mark.parametrize(
    ("error", "code"),
    [(Unavailable("secret"), "mesh.unavailable"), (KeyError("secret"), "python.KeyError")],
)
def test_an_error_is_named_by_code_and_goes_on(error: Exception, code: str) -> None:
    telemetry = InprocTelemetry()
    with pytest.raises(type(error)), telemetry.span(spec()):
        raise error
    assert [(s.error, s.ended) for s in telemetry.spans] == [(code, True)]


def test_no_telemetry_lets_errors_through() -> None:
    telemetry: Telemetry = NoTelemetry()
    telemetry.count(names.HANDOFFS)
    telemetry.record(names.PROCESS_S, 1.0)
    with pytest.raises(ValueError, match="mine"), telemetry.span(spec()):
        raise ValueError("mine")
