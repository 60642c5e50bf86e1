"""Bytes to envelopes and back: the only user of the envelope's protobuf.

Source: `envelope.proto`; design, section 2.
"""

import re
from datetime import datetime
from hashlib import sha256

from google.protobuf.message import DecodeError, Message

from mesh.core.envelope import SPEC_VERSION, Envelope, Record, TraceContext
from mesh.core.event import KINDS
from mesh.core.subject import Subject
from mesh.core.task import Task
from mesh.errors import EnvelopeInvalid, NameInvalid
from mesh.wire import mirror
from mesh.wire.v1.envelope_pb2 import RelayEnvelope
from mesh.wire.v1.state_pb2 import TaskState

__all__ = ["decode", "decode_task", "encode", "encode_task", "read_record", "state_sha256"]

_MAJOR = SPEC_VERSION.partition(".")[0]
_NOT_PLAIN = frozenset({"event", "source"})
"""Fields of an envelope that are no fields of its message."""
_KIND = "task."
"""What a kind's wire name has before the name of its body field."""
_ID = re.compile(r"[0-9a-f]{32}")


def encode(envelope: Envelope) -> bytes:
    """Bytes of an envelope.

    Fields that a newer version set are kept, at the top and in nested messages; those of the body
    only while the event is the one that was decoded.
    """
    message = RelayEnvelope()
    mirror.fill(message, envelope, leave=_NOT_PLAIN)
    body = getattr(message, envelope.kind.removeprefix(_KIND))
    body.SetInParent()
    mirror.fill(body, envelope.event)
    if envelope.source:
        _keep_unknown(message, envelope)
    return message.SerializeToString(deterministic=True)


def decode(raw: bytes) -> Envelope:
    """The envelope that bytes hold.

    Raises:
        EnvelopeInvalid: They are no envelope, of another major version, of an unknown kind, or
            lack what every envelope must have. The text names which.
    """
    message = RelayEnvelope()
    try:
        message.ParseFromString(raw)
    except DecodeError as error:
        raise EnvelopeInvalid(f"not a relay envelope: {error}") from error
    major = message.spec_version.partition(".")[0]
    if major != _MAJOR:
        found = message.spec_version or "none"
        raise EnvelopeInvalid(f"spec_version is {found}; this version reads {_MAJOR}.x")
    body = message.WhichOneof("body")
    if body is None:
        raise EnvelopeInvalid("the body is missing or of a kind that this version does not know")
    for name in ("event_id", "task_id", "root_task_id"):
        if not _ID.fullmatch(getattr(message, name)):
            raise EnvelopeInvalid(f"`{name}` is not 32 lower-case hex digits")
    if not message.HasField("sender") or not message.HasField("occurred_at"):
        raise EnvelopeInvalid("`from` and `occurred_at` must be set")
    try:
        return _envelope(message, body, raw)
    except (OverflowError, ValueError) as error:
        raise EnvelopeInvalid(f"a value is out of its range: {error}") from error


def read_record(position: int, stored_at: datetime, subject: str, raw: bytes) -> Record:
    """A stored message with its meaning, or with the reason why it has none; never raises."""
    try:
        envelope = decode(raw)
        stands = Subject.parse(subject)
        says = envelope.subject(stands.shard)
        if says != stands:
            raise EnvelopeInvalid(f"it says `{says}` and stands on `{stands}`")
    except (EnvelopeInvalid, NameInvalid) as error:
        return Record(
            position=position, stored_at=stored_at, subject=subject, raw=raw, fault=str(error)
        )
    return Record(
        position=position, stored_at=stored_at, subject=subject, raw=raw, envelope=envelope
    )


def encode_task(task: Task) -> bytes:
    """A folded state as bytes; equal states give equal bytes."""
    message = TaskState()
    mirror.fill(message, task)
    return message.SerializeToString(deterministic=True)


def decode_task(raw: bytes) -> Task:
    """The state that `encode_task` wrote."""
    message = TaskState()
    message.ParseFromString(raw)
    return mirror.read(message, Task)


def state_sha256(task: Task) -> str:
    """Lower-case hex of a state's hash."""
    return sha256(encode_task(task)).hexdigest()


def _envelope(message: RelayEnvelope, body: str, raw: bytes) -> Envelope:
    event = mirror.read(getattr(message, body), KINDS[_KIND + body])
    trace = mirror.read(message.trace, TraceContext)
    return mirror.read(message, Envelope, event=event, source=raw, trace=trace)


def _keep_unknown(message: RelayEnvelope, envelope: Envelope) -> None:
    base = RelayEnvelope()
    base.ParseFromString(envelope.source)
    base.DiscardUnknownFields()
    if base.ByteSize() == len(envelope.source):
        return  # nothing in it is unknown, as nearly always
    base.ParseFromString(envelope.source)
    body = base.WhichOneof("body")
    if body and decode(envelope.source).event == envelope.event:
        getattr(message, body).CopyFrom(getattr(base, body))
    base.ClearField("body")  # pyright: ignore[reportArgumentType]  # a oneof's name is allowed
    _clear_known(base)
    message.MergeFromString(base.SerializeToString())


def _clear_known(message: Message) -> None:
    """Leave nothing but unknown fields, in the message and in its single nested ones."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE and not field.is_repeated:
            _clear_known(value)
            if value.ByteSize():
                continue
        message.ClearField(field.name)
