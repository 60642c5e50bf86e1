"""What readers are shown: core values as the messages of `api.proto`."""

import json
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from mesh.core.envelope import Record
from mesh.core.payload import INLINE_LIMIT, Failure, Payload
from mesh.core.subject import Subject
from mesh.core.task import Task, packet_of
from mesh.errors import NameInvalid
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

UNREADABLE = "unreadable"
"""Shown as the kind of a record whose bytes are no envelope."""
_DEPTH = 32
"""Levels of JSON that are shown: a `Value` takes two messages a level, and readers allow 100."""


def task(value: Task, *, shard: str = "", with_result: bool = True) -> api.Task:
    """A task; lists leave the result out, which may be large."""
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
    )
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
    shown.body.CopyFrom(_struct(_plain(envelope.event, with_payload)))
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


def agent(card: Card, presences: Iterable[Presence]) -> api.Agent:
    """An agent and its live instances."""
    shown = api.Agent(
        card=api.AgentCard(
            name=card.name,
            behaviour_version=card.behaviour_version,
            concurrency=card.concurrency,
            description=card.description,
        )
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


def readable(value: Payload) -> Value | None:
    """A JSON value or text for people; None for other types, claim checks and large ones."""
    if value.blob is not None or len(value.data) > INLINE_LIMIT:
        return None
    try:
        return ParseDict(_parsed(value), Value())
    except (ValueError, ParseError):
        return None  # an agent may say JSON and write something else: then it is shown as bytes


def instant(at: datetime | None) -> Timestamp | None:
    """An instant, None for none."""
    if at is None:
        return None
    message = Timestamp()
    message.FromDatetime(at)
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


def _plain(value: Any, with_payload: bool) -> Any:
    """A core value as JSON has it: what is empty left out, bytes as base64."""
    if isinstance(value, Payload):
        return _plain_payload(value, with_payload)
    if is_dataclass(value):
        return _members(value, with_payload)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bytes):
        return b64encode(value).decode()
    if isinstance(value, tuple):
        parts: tuple[Any, ...] = value
        return [_plain(part, with_payload) for part in parts]
    if isinstance(value, Mapping):
        members: Mapping[str, Any] = value
        return {key: _plain(member, with_payload) for key, member in members.items()}
    return value


def _members(value: Any, with_payload: bool) -> dict[str, Any]:
    members = {_camel(f.name): getattr(value, f.name) for f in fields(value)}
    return {
        name: _plain(member, with_payload)
        for name, member in members.items()
        if member not in (None, "", b"", (), {})
    }


def _plain_payload(value: Payload, with_payload: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {"contentType": value.content_type, "sizeBytes": len(value.data)}
    if value.schema:
        shown["schema"] = value.schema
    if value.blob is not None:
        shown["sizeBytes"] = value.blob.size
        shown["blob"] = _members(value.blob, with_payload)
    elif with_payload:
        try:
            shown["value"] = _parsed(value)
        except ValueError:
            shown["data"] = b64encode(value.data).decode()
    return shown


def _parsed(value: Payload) -> Any:
    """JSON or text; ValueError for what is neither, or cannot be shown as a `Value`."""
    media = value.content_type.partition(";")[0].strip()
    if media.startswith("text/"):
        return value.data.decode()
    if media != "application/json":
        raise ValueError(media)
    try:
        parsed = json.loads(value.data or b"null", parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if _depth(parsed) > _DEPTH:
        raise ValueError("nested too deep")
    return parsed


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _depth(value: Any) -> int:
    parts: list[Any] = []
    if isinstance(value, dict):
        parts = list(value.values())  # pyright: ignore[reportUnknownArgumentType,reportUnknownMemberType]
    elif isinstance(value, list):
        parts = value
    return 1 + max(map(_depth, parts), default=0)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)
