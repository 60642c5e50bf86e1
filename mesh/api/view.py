"""What readers are shown: core values as the messages of `api.proto`."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct

from mesh.api.instant import instant
from mesh.api.leg import fill_leg
from mesh.api.plain import plain, readable
from mesh.bus.port import Backlog
from mesh.core.envelope import Record
from mesh.core.fold import packet_of
from mesh.core.payload import Failure, Payload
from mesh.core.subject import Subject
from mesh.core.task import Task
from mesh.errors import NameInvalid
from mesh.gateway.watch import UNREADABLE
from mesh.registry.port import Card, Presence
from mesh.wire import mirror
from mesh.wire.codec import state_sha256
from mesh.wire.v1 import api_pb2 as api
from mesh.wire.v1 import packet_pb2, payload_pb2

__all__ = [
    "UNREADABLE",
    "agent",
    "event",
    "failure",
    "instant",
    "payload",
    "payload_of",
    "readable",
    "state_at",
    "task",
    "time_of",
]


def task(
    value: Task, *, shard: str = "", with_result: bool = True, with_waits: bool = True
) -> api.Task:
    """A task as it is shown.

    Args:
        value: Its state.
        shard: The shard that it stands in, where that is known.
        with_result: Whether its result and its questions go with it, which may be large.
        with_waits: Whether what it waits for does, which may be much.
    """
    shown = api.Task(
        task_id=value.task_id,
        state=api.Task.State.Value(value.state),
        owner=value.owner,
        hops=value.hops,
        max_hops=value.max_hops,
        parent_task_id=value.parent_task_id,
        root_task_id=value.root_task_id,
        correlation_id=value.correlation_id,
        version=value.version,
        position=value.position,
        labels=dict(value.labels),
        cancel_requested=value.cancel_requested,
        cancel_reason=value.cancel_reason,
        dead_lettered=value.dead_letter is not None,
        attempts=value.turn.attempts if value.turn else 0,
        objective=value.objective,
        submitted_by=value.submitted_by,
        shard=shard,
        submitted_at=instant(value.submitted_at),
        updated_at=instant(value.updated_at),
        closed_at=instant(value.closed_at),
        deadline=instant(value.deadline),
        error=failure(value.failure),
        budget=value.budget,
        spent=value.spent,
        ancestors=value.ancestors,
    )
    if value.leg is not None:
        fill_leg(shown, value.leg, with_questions=with_result, with_waits=with_waits)
    for hop in value.handoffs:
        one = shown.handoffs.add(to=hop.target, position=hop.position, at=instant(hop.at))
        setattr(one, "from", hop.source)
    if with_result and value.result is not None:
        shown.result_payload.CopyFrom(payload(value.result))
        said = readable(value.result)
        if said is not None:
            shown.result.CopyFrom(said)
    return shown


def event(record: Record, *, with_payload: bool = False, with_raw: bool = False) -> api.Event:
    """One record, the unreadable ones too; what those say of themselves is their subject."""
    shown = api.Event(
        position=record.position, stored_at=instant(record.stored_at), fault=record.fault
    )
    if with_raw:
        shown.raw = record.raw
    envelope = record.envelope
    if envelope is None:
        shown.kind = UNREADABLE
        _stands_on(shown, record.subject)
        return shown
    shown.event_id = envelope.event_id
    shown.task_id = envelope.task_id
    shown.root_task_id = envelope.root_task_id
    shown.kind = envelope.kind
    setattr(shown, "from", envelope.sender.agent)
    shown.instance = envelope.sender.instance
    shown.to = envelope.to
    shown.shard = Subject.parse(record.subject).shard
    shown.occurred_at.FromDatetime(envelope.occurred_at)
    shown.causation_id = envelope.causation_id
    shown.attempt, shown.hop = envelope.attempt, envelope.hop
    shown.traceparent = envelope.trace.traceparent
    if envelope.started_at is not None:
        shown.started_at.FromDatetime(envelope.started_at)
    shown.body.CopyFrom(_struct(plain(envelope.event, with_payload)))
    return shown


def state_at(value: Task, *, shard: str = "") -> api.StateAt:
    """A task's state at a point of its history, with its hash and its packet."""
    packet = packet_pb2.RelayPacket()
    mirror.fill(packet, packet_of(value, synthesised=True))
    return api.StateAt(
        state=api.Task.State.Value(value.state),
        version=value.version,
        position=value.position,
        state_sha256=state_sha256(value),
        owner=value.owner,
        packet=packet,
        task=task(value, shard=shard),
    )


def agent(card: Card, presences: Iterable[Presence], backlog: Backlog) -> api.Agent:
    """An agent, its live instances, and what waits for it."""
    shown = api.Agent(
        pending=backlog.waiting,
        held=backlog.held,
        card=api.AgentCard(
            name=card.name,
            behaviour_version=card.behaviour_version,
            concurrency=card.concurrency,
            description=card.description,
        ),
    )
    for one in card.inputs:
        accepted = shown.card.inputs.add(schema=one.schema, content_type=one.content_type)
        if one.json_schema:
            accepted.json_schema.CopyFrom(_struct(json.loads(one.json_schema)))
    for live in presences:
        shown.instances.add(
            instance=live.instance,
            behaviour_version=live.behaviour_version,
            host=live.host,
            pid=live.pid,
            concurrency=live.concurrency,
            started_at=instant(live.started_at),
        )
    return shown


def payload(value: Payload) -> payload_pb2.Payload:
    """A payload as it is."""
    message = payload_pb2.Payload()
    mirror.fill(message, value)
    return message


def payload_of(message: payload_pb2.Payload) -> Payload:
    """The payload that a request carries."""
    return mirror.read(message, Payload)


def failure(value: Failure | None) -> payload_pb2.Failure | None:
    """A failure as it is."""
    if value is None:
        return None
    message = payload_pb2.Failure()
    mirror.fill(message, value)
    return message


def time_of(message: Any, name: str) -> datetime | None:
    """A request's instant, None when it is not set."""
    return getattr(message, name).ToDatetime(UTC) if message.HasField(name) else None


def _stands_on(shown: api.Event, text: str) -> None:
    try:
        subject = Subject.parse(text)
    except NameInvalid:
        return
    shown.task_id, shown.to, shown.shard = subject.task_id, subject.to, subject.shard
    setattr(shown, "from", subject.sender)


def _struct(value: Any) -> Struct:
    return ParseDict(value, Struct())
