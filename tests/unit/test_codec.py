from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given

from mesh.core import event as e
from mesh.core.envelope import Envelope, Record, Sender, TraceContext
from mesh.core.event import KINDS
from mesh.core.leg import Child, Leg, Question, Timer, Undo
from mesh.core.packet import Decision, RelayPacket
from mesh.core.payload import Blob, Failure, Payload
from mesh.core.subject import INFORMING, Subject
from mesh.core.task import DeadLetter, Hop, Task, Turn
from mesh.errors import EnvelopeInvalid
from mesh.wire.codec import decode, encode, read_record
from mesh.wire.v1.envelope_pb2 import RelayEnvelope
from mesh.wire.v1.state_pb2 import TaskState
from tests.make import START, envelope, histories, submitted

POOL = TaskState.DESCRIPTOR.file.pool
BODIES = RelayEnvelope.DESCRIPTOR.oneofs_by_name["body"].fields
GOLDEN = Path(__file__).parent / "golden"
FULL = Envelope(
    event_id="e" * 32,
    tenant="acme",
    task_id="a" * 32,
    root_task_id="b" * 32,
    parent_task_id="c" * 32,
    correlation_id="order-7",
    causation_id="d" * 32,
    sender=Sender(agent="planner", instance="42-x", behaviour_version="1.4.0"),
    to="reader",
    attempt=2,
    hop=3,
    max_hops=9,
    priority=-1,
    started_at=START,
    occurred_at=datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=UTC),
    deadline=datetime(2027, 1, 1, tzinfo=UTC),
    trace=TraceContext(traceparent="00-" + "1" * 32 + "-" + "2" * 16 + "-01", mode="continue"),
    forked_from="f" * 32,
    labels={"team": "red", "a": "b"},
    event=e.HandedOff(
        input=Payload(content_type="application/json", schema="x.v1", data=b"{}"),
        packet=RelayPacket(
            objective="brief",
            constraints=("cite",),
            decisions=(Decision(id="d1", summary="s", why="w"),),
            artifacts=(Blob(uri="blob:1", sha256="1", size=5),),
            budget_left={"tokens": 7},
            as_of=12,
            sha256="00",
        ),
    ),
)


def unknown_field(number: int, value: bytes) -> bytes:
    tag = number << 3 | 2
    return bytes([tag & 0x7F | 0x80, tag >> 7]) + bytes([len(value)]) + value


def test_an_envelope_survives_its_bytes() -> None:
    assert decode(encode(FULL)) == FULL


@given(histories())
def test_any_event_survives_its_bytes(history: list[Record]) -> None:
    for record in history:
        if record.envelope is not None:
            assert decode(record.raw) == record.envelope
            assert encode(decode(record.raw)) == record.raw


def test_golden_bytes_are_written_and_read_by_every_later_version() -> None:
    golden = bytes.fromhex((GOLDEN / "handed_off.hex").read_text())
    assert decode(golden) == FULL
    assert encode(FULL) == golden


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_kind_has_golden_bytes(kind: type[e.TaskEvent]) -> None:
    golden = dict(line.split() for line in (GOLDEN / "kinds.txt").read_text().splitlines())
    made = envelope(kind(), event_id="1" * 32)
    assert encode(made).hex() == golden[kind.kind]
    assert decode(bytes.fromhex(golden[kind.kind])) == made


def test_every_kind_has_a_body_and_a_class_in_the_proto() -> None:
    assert {f"task.{field.name}" for field in BODIES} == set(KINDS)
    informing = {k for k, kind in KINDS.items() if kind.event_class == INFORMING}
    assert informing == {
        "task.child_finished",
        "task.input_received",
        "task.timer_fired",
        "task.signaled",
        "task.progress_reported",
    }


MIRRORED: list[tuple[type, str]] = [
    (Task, "TaskState"),
    *((kind, kind.__name__) for kind in KINDS.values()),
    *((k, k.__name__) for k in (Turn, Hop, DeadLetter, Payload, Blob, Failure, RelayPacket)),
    *((k, k.__name__) for k in (Decision, Sender, TraceContext, e.Wait)),
    *((k, k.__name__) for k in (Leg, Child, Timer, Question, Undo)),
]


@pytest.mark.parametrize(("kind", "name"), MIRRORED)
def test_dataclass_and_message_have_the_same_fields(kind: type, name: str) -> None:
    message = POOL.FindMessageTypeByName(f"mesh.wire.v1.{name}")
    assert [f.name for f in fields(kind)] == [f.name for f in message.fields]


def test_unknown_fields_survive_a_relay_hop_byte_for_byte() -> None:
    extra = unknown_field(900, b"from a newer version")
    received = decode(encode(submitted()) + extra)
    assert encode(received).endswith(extra)
    relayed = received.next(
        e.HandedOff(),
        event_id="9" * 32,
        sender=Sender(agent="planner"),
        occurred_at=START,
    )
    assert encode(relayed).endswith(extra)
    assert encode(decode(encode(relayed))) == encode(relayed)


def test_unknown_fields_inside_the_body_survive_while_the_event_is_the_same() -> None:
    message = RelayEnvelope()
    message.ParseFromString(encode(FULL))
    message.handed_off.packet.decisions[0].MergeFromString(unknown_field(800, b"deep"))
    message.sender.MergeFromString(unknown_field(801, b"sender"))
    raw = message.SerializeToString(deterministic=True)
    assert encode(decode(raw)) == raw
    assert unknown_field(801, b"sender") in encode(replace(decode(raw), to="writer"))


@pytest.mark.parametrize(
    ("raw", "cause"),
    [
        (b"\xff\xff\xff", "not a relay envelope"),
        (b"", "spec_version is none"),
        (encode(replace(FULL, spec_version="2.0")), "spec_version is 2.0"),
        (encode(FULL).replace(b"\x8a\x07", b"\xba\x3e"), "kind that this version does not know"),
        (encode(replace(FULL, task_id="x")), "`task_id` is not 32"),
    ],
)
def test_unreadable_bytes_give_an_error_that_names_the_cause(raw: bytes, cause: str) -> None:
    with pytest.raises(EnvelopeInvalid, match=cause):
        decode(raw)
    kept = read_record(7, START, str(FULL.subject("s0")), raw)
    assert (kept.envelope, kept.position, kept.raw) == (None, 7, raw)
    assert cause in kept.fault


def test_an_instant_that_is_out_of_range_is_unreadable() -> None:
    message = RelayEnvelope()
    message.ParseFromString(encode(FULL))
    message.deadline.seconds = 10**15
    raw = message.SerializeToString()
    with pytest.raises(EnvelopeInvalid, match="out of its range"):
        decode(raw)
    assert read_record(7, START, str(FULL.subject("s0")), raw).envelope is None


def test_a_newer_minor_version_is_read() -> None:
    assert decode(encode(replace(FULL, spec_version="1.9"))).spec_version == "1.9"


def test_an_envelope_on_the_wrong_subject_is_unreadable() -> None:
    subject = replace(FULL.subject("s0"), sender="writer")
    kept = read_record(7, START, str(subject), encode(FULL))
    assert kept.envelope is None
    assert "stands on" in kept.fault
    assert read_record(7, START, str(FULL.subject("s0")), encode(FULL)).envelope == FULL


def test_a_subject_survives_its_text() -> None:
    subject = FULL.subject("s3")
    assert Subject.parse(str(subject)) == subject
