"""What every span, attribute and metric of the mesh is called: the only place that says so.

A destination is `mesh.<tenant>.<shard>.<to>`, the part of a subject that names no task: few
values, so it stands in span names and as both name and template of the destination.

Source: design, section 7; OpenTelemetry semantic conventions 1.44, messaging (operation first,
send is PRODUCER, process is CONSUMER, settle is CLIENT); GenAI conventions, agent spans
(`invoke_agent`, INTERNAL within the process).
"""

from mesh.core.envelope import Envelope, Record
from mesh.core.event import HandedOff
from mesh.core.ids import derived_id
from mesh.core.subject import Subject
from mesh.errors import NameInvalid
from mesh.telemetry.context import (
    INVOKE,
    PROCESS,
    SEND,
    SETTLE,
    TraceParent,
    context_of,
    span_id,
)
from mesh.telemetry.port import Link, Metric, MetricKind, SpanKind, SpanSpec, Value

__all__ = [
    "APPENDS_REFUSED",
    "ATTEMPT",
    "ATTEMPTS_FAILED",
    "CONSUMED",
    "DEAD_LETTERED",
    "DELIVERY_WAIT_S",
    "DESTINATION",
    "ERROR_TYPE",
    "HANDOFFS",
    "METRICS",
    "OUTCOME",
    "PROCESS_S",
    "SCOPE",
    "SENT",
    "TASK_ID",
    "destination",
    "invoking",
    "processing",
    "sending",
    "settling",
]

SCOPE = "mesh"
"""Name of the instrumentation scope."""

SYSTEM = "messaging.system"
OPERATION_NAME = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
DESTINATION = "messaging.destination.name"
TEMPLATE = "messaging.destination.template"
MESSAGE_ID = "messaging.message.id"
CONVERSATION_ID = "messaging.message.conversation_id"
ENVELOPE_SIZE = "messaging.message.envelope.size"
CONSUMER_GROUP = "messaging.consumer.group.name"
ERROR_TYPE = "error.type"
AGENT_OPERATION = "gen_ai.operation.name"
AGENT_NAME = "gen_ai.agent.name"
AGENT_VERSION = "gen_ai.agent.version"
TASK_ID = "mesh.task.id"
ROOT_TASK_ID = "mesh.task.root_id"
EVENT_KIND = "mesh.event.kind"
POSITION = "mesh.position"
ATTEMPT = "mesh.attempt"
HOP = "mesh.hop"
HANDOFF_SOURCE = "mesh.handoff.source"
HANDOFF_TARGET = "mesh.handoff.target"
HANDOFF_MODE = "mesh.handoff.mode"
OUTCOME = "mesh.outcome"
"""How a handler's run ended: the kind of the event it wrote."""

_NATS = "nats"

SENT = Metric(
    name="messaging.client.sent.messages",
    kind=MetricKind.COUNTER,
    unit="{message}",
    description="Events this process tried to append.",
)
CONSUMED = Metric(
    name="messaging.client.consumed.messages",
    kind=MetricKind.COUNTER,
    unit="{message}",
    description="Deliveries this process was given.",
)
PROCESS_S = Metric(
    name="messaging.process.duration",
    kind=MetricKind.HISTOGRAM,
    unit="s",
    description="How long a delivery was worked on.",
)
DELIVERY_WAIT_S = Metric(
    name="mesh.delivery.wait",
    kind=MetricKind.HISTOGRAM,
    unit="s",
    description="How long an event stood on the log before its agent took it up.",
)
HANDOFFS = Metric(
    name="mesh.handoffs",
    kind=MetricKind.COUNTER,
    unit="{handoff}",
    description="Tasks this process handed to another agent.",
)
ATTEMPTS_FAILED = Metric(
    name="mesh.attempts.failed",
    kind=MetricKind.COUNTER,
    unit="{attempt}",
    description="Runs of a handler that raised.",
)
APPENDS_REFUSED = Metric(
    name="mesh.appends.refused",
    kind=MetricKind.COUNTER,
    unit="{append}",
    description="Appends that another writer was faster than.",
)
DEAD_LETTERED = Metric(
    name="mesh.tasks.dead_lettered",
    kind=MetricKind.COUNTER,
    unit="{task}",
    description="Tasks given up on.",
)
METRICS = (
    SENT,
    CONSUMED,
    PROCESS_S,
    DELIVERY_WAIT_S,
    HANDOFFS,
    ATTEMPTS_FAILED,
    APPENDS_REFUSED,
    DEAD_LETTERED,
)
"""Every metric; those that count are reported from the start, as 0."""


def destination(tenant: str, shard: str, to: str) -> str:
    """What stands for an addressee in names and attributes; never holds a task id."""
    return f"mesh.{tenant}.{shard}.{to}"


def sending(envelope: Envelope, shard: str) -> SpanSpec:
    """The span of appending one event, stamped or not."""
    context, parent = context_of(envelope)
    where = destination(envelope.tenant, shard, envelope.to)
    return SpanSpec(
        name=f"send {where}",
        kind=SpanKind.PRODUCER,
        trace_id=context.trace_id,
        span_id=context.span_id,
        parent_span_id=parent,
        task_id=envelope.task_id,
        attributes=_operation("send", SEND, where) | _event(envelope),
        sampled=context.sampled,
    )


def processing(record: Record, shard: str, *, attempt: int) -> SpanSpec:
    """The span of one attempt at a delivery; also of one that cannot be read.

    Args:
        record: What was delivered.
        shard: The shard it stands in.
        attempt: Which run of the turn's it is, 1-based; it is linked to the one before.
    """
    event_id, task_id, to, context = _delivered(record)
    where = destination(_tenant(record), shard, to)
    attributes = _operation("process", PROCESS, where) | _stored(record, attempt)
    attributes[CONSUMER_GROUP] = to
    before = (Link(context.trace_id, span_id(event_id, PROCESS, attempt - 1)),)
    return SpanSpec(
        name=f"process {where}",
        kind=SpanKind.CONSUMER,
        trace_id=context.trace_id,
        span_id=span_id(event_id, PROCESS, attempt),
        parent_span_id=context.span_id,
        task_id=task_id,
        attributes=attributes,
        links=before if attempt > 1 else (),
        sampled=context.sampled,
    )


def invoking(record: Record, agent: str, *, attempt: int, version: str = "") -> SpanSpec:
    """The span of one run of an agent's handler, within its `processing`."""
    event_id, task_id, _, context = _delivered(record)
    attributes = _stored(record, attempt)
    attributes |= {AGENT_OPERATION: "invoke_agent", AGENT_NAME: agent}
    if version:
        attributes[AGENT_VERSION] = version
    return SpanSpec(
        name=f"invoke_agent {agent}",
        kind=SpanKind.INTERNAL,
        trace_id=context.trace_id,
        span_id=span_id(event_id, INVOKE, attempt),
        parent_span_id=span_id(event_id, PROCESS, attempt),
        task_id=task_id,
        attributes=attributes,
        sampled=context.sampled,
    )


def settling(record: Record, shard: str, *, attempt: int, verb: str) -> SpanSpec:
    """The span of telling the broker what became of a delivery.

    Args:
        record: What was delivered.
        shard: The shard it stands in.
        attempt: Which run of the turn's it is, 1-based.
        verb: `ack`, `nak` or `term`.
    """
    event_id, task_id, to, context = _delivered(record)
    where = destination(_tenant(record), shard, to)
    attributes = _operation(verb, SETTLE, where) | _stored(record, attempt)
    attributes[CONSUMER_GROUP] = to
    return SpanSpec(
        name=f"{verb} {where}",
        kind=SpanKind.CLIENT,
        trace_id=context.trace_id,
        span_id=span_id(event_id, SETTLE, attempt),
        parent_span_id=span_id(event_id, PROCESS, attempt),
        task_id=task_id,
        attributes=attributes,
        sampled=context.sampled,
    )


def _operation(name: str, operation_type: str, where: str) -> dict[str, Value]:
    return {
        SYSTEM: _NATS,
        OPERATION_NAME: name,
        OPERATION_TYPE: operation_type,
        DESTINATION: where,
        TEMPLATE: where,
    }


def _event(envelope: Envelope) -> dict[str, Value]:
    found: dict[str, Value] = {
        MESSAGE_ID: envelope.event_id,
        TASK_ID: envelope.task_id,
        ROOT_TASK_ID: envelope.root_task_id,
        EVENT_KIND: envelope.kind,
        HOP: envelope.hop,
    }
    if envelope.correlation_id:
        found[CONVERSATION_ID] = envelope.correlation_id
    if isinstance(envelope.event, HandedOff):
        found[HANDOFF_SOURCE] = envelope.sender.agent
        found[HANDOFF_TARGET] = envelope.to
        found[HANDOFF_MODE] = envelope.trace.mode or "continue"
    return found


def _stored(record: Record, attempt: int) -> dict[str, Value]:
    found: dict[str, Value] = {POSITION: record.position, ATTEMPT: attempt}
    if record.raw:
        found[ENVELOPE_SIZE] = len(record.raw)
    if record.envelope:
        return found | _event(record.envelope)
    event_id, task_id, _, _ = _delivered(record)
    return found | {MESSAGE_ID: event_id, TASK_ID: task_id}


def _delivered(record: Record) -> tuple[str, str, str, TraceParent]:
    """Event id, task id, addressee and context of a delivery, readable or not."""
    if record.envelope:
        envelope = record.envelope
        return envelope.event_id, envelope.task_id, envelope.to, context_of(envelope)[0]
    try:
        subject = Subject.parse(record.subject)
        task_id, to = subject.task_id, subject.to
    except NameInvalid:
        task_id, to = derived_id(record.subject, "subject", record.position), "unknown"
    event_id = derived_id(task_id, "unreadable", record.position)
    return event_id, task_id, to, TraceParent(task_id, span_id(event_id, SEND))


def _tenant(record: Record) -> str:
    return record.subject.split(".")[1] if record.subject.count(".") else "unknown"
