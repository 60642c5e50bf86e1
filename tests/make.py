"""Records and histories for tests: short to write, and at random."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from mesh.core import event as e
from mesh.core.envelope import Envelope, Record, Sender
from mesh.core.ids import derived_id
from mesh.core.packet import Decision
from mesh.core.payload import Failure, Payload
from mesh.wire.codec import encode

TENANT = "test"
TASK = "0" * 31 + "1"
START = datetime(2026, 1, 1, tzinfo=UTC)
FAILURE = Failure(code="test.failed", message="it broke", details={"by": "the test"})
TEXT = Payload(content_type="text/plain; charset=utf-8", data=b"hello")


def envelope(
    event: e.TaskEvent,
    *,
    to: str = "log",
    sender: str = "gateway",
    task_id: str = TASK,
    event_id: str = "",
    instance: str = "i1",
) -> Envelope:
    """An envelope around an event; its id follows from the event unless given."""
    return Envelope(
        event_id=event_id or derived_id(task_id, repr(event) + to + sender),
        tenant=TENANT,
        task_id=task_id,
        root_task_id=task_id,
        sender=Sender(agent=sender, instance=instance),
        occurred_at=START,
        to=to,
        event=event,
    )


def record(position: int, made: Envelope, shard: str = "s0") -> Record:
    """The envelope as the log would hold it."""
    at = START + timedelta(seconds=position)
    made = replace(made, occurred_at=at)
    raw = encode(made)
    return Record(
        position=position,
        stored_at=at,
        subject=str(made.subject(shard)),
        raw=raw,
        envelope=replace(made, source=raw),
    )


def unreadable(position: int, *, event_class: str = "m", task_id: str = TASK) -> Record:
    """A message of a task that is no envelope."""
    return Record(
        position=position,
        stored_at=START,
        subject=f"mesh.{TENANT}.s0.planner.{task_id}.{event_class}.gateway",
        raw=b"\xff",
        fault="not a relay envelope",
    )


def records(*envelopes: Envelope) -> list[Record]:
    """A history from position 1 on."""
    return [record(n, made) for n, made in enumerate(envelopes, 1)]


def submitted(to: str = "planner", **options: str) -> Envelope:
    """A task's first event."""
    return envelope(e.TaskSubmitted(input=TEXT), to=to, **options)


_AGENTS = st.sampled_from(["planner", "reader", "writer"])
_IDS = st.sampled_from("cdt")
"""Of children, timers and questions alike, so that what is asked and what comes often meet."""
_ORDINALS = st.integers(0, 3)
_COUNTS = st.dictionaries(st.sampled_from(["tokens", "cents"]), st.integers(0, 9), max_size=2)
_AT = st.sampled_from([None, START + timedelta(days=1)])
_WAITS: st.SearchStrategy[e.Wait] = st.one_of(
    st.builds(e.Wait, what=st.sampled_from(["child", "timer", "input"]), id=_IDS, group=_ORDINALS),
    st.builds(
        e.Wait, what=st.just("signal"), id=st.sampled_from(["go/1", "go/2"]), group=_ORDINALS
    ),
)
_EVENTS: list[st.SearchStrategy[e.TaskEvent]] = [
    st.builds(e.TaskSubmitted, input=st.just(TEXT), budget=_COUNTS),
    st.just(e.WorkStarted()),
    st.just(e.WorkReleased(reason="drain")),
    st.builds(e.StepRecorded, ordinal=_ORDINALS, name=st.just("s"), undoes=_ORDINALS),
    st.builds(
        e.Noted,
        constraints=st.tuples(st.sampled_from(["a", "b"])),
        decisions=st.tuples(st.builds(Decision, id=st.sampled_from("xyz"), summary=st.just("s"))),
    ),
    st.builds(e.Spent, counter=st.just("tokens"), amount=st.integers(0, 9), ordinal=_ORDINALS),
    st.builds(e.TimerSet, ordinal=_ORDINALS, timer_id=_IDS, fires_at=_AT),
    st.builds(e.InputRequested, ordinal=_ORDINALS, request_id=_IDS, expires_at=_AT),
    st.builds(
        e.Delegated, ordinal=_ORDINALS, child_task_id=_IDS, agent=st.just("reader"), budget=_COUNTS
    ),
    st.builds(e.CompensationRegistered, ordinal=_ORDINALS, name=st.just("u")),
    st.builds(e.AttemptFailed, failure=st.just(FAILURE), ordinal=_ORDINALS, retry_at=_AT),
    st.just(e.HandedOff(input=TEXT)),
    st.just(e.CancelRequested(reason="why")),
    # One among the others, or few histories would get far.
    st.sampled_from(
        [
            e.Completed(result=TEXT),
            e.Failed(failure=FAILURE),
            e.Rejected(failure=FAILURE),
            e.Canceled(),
        ]
    ),
    st.builds(e.DeadLettered, delivery_position=st.integers(0, 12), failure=st.just(FAILURE)),
    st.just(e.Redriven(delivery_id="d", input=TEXT)),
    st.builds(e.Suspended, waits=st.lists(_WAITS, min_size=1, max_size=4).map(tuple)),
    st.just(e.Resumed(wake_id="w", wake_position=2)),
    st.just(e.Parked(ordinal=1, recorded="a", asked="b")),
    st.just(e.Unparked()),
    st.builds(e.ChildFinished, child_task_id=_IDS, state=st.just("COMPLETED"), spent=_COUNTS),
    st.builds(e.InputReceived, request_id=_IDS, answer=st.just(TEXT)),
    st.builds(e.TimerFired, timer_id=st.one_of(_IDS, st.just("deadline"))),
    st.just(e.Signaled(name="go", value=TEXT)),
    st.just(e.ProgressReported(text="half", fraction=0.5)),
]


@st.composite
def histories(draw: st.DrawFn, max_size: int = 16) -> Sequence[Record]:
    """Any history at all: possible ones, impossible ones, unreadable messages in between."""
    made: list[Record] = []
    if draw(st.booleans()):
        made.append(record(1, replace(submitted(), deadline=draw(_AT))))
    for _ in range(draw(st.integers(0, max_size))):
        position = (made[-1].position if made else 0) + draw(st.integers(1, 3))
        if draw(st.integers(0, 9)) == 0:
            made.append(unreadable(position, event_class=draw(st.sampled_from("mi"))))
            continue
        to = draw(_AGENTS)
        event = draw(st.one_of(_EVENTS))
        made.append(record(position, envelope(event, to=to, sender=draw(_AGENTS))))
    return made
