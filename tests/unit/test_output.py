"""What is given of a task's output, whatever gets lost, comes twice, late or in another order."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from mesh.client.output import Output, OutputReader
from mesh.core import event as e
from mesh.core.envelope import Record
from mesh.gateway.live import Chunk, LiveOrder, read_chunks
from mesh.wire.v1.api_pb2 import Event, Live, Task
from mesh.wire.v1.gateway_pb2 import WatchTaskResponse
from tests.make import START, envelope

RUNS = st.lists(
    st.tuples(
        # Of a run: how many chunks before each append, and how many that none records.
        st.lists(st.integers(0, 3), max_size=3),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=4,
)


@dataclass
class Told:
    """What happened to one task: its events in order, its live output with the moment of each."""

    position: int = 1
    events: list[WatchTaskResponse] = field(default_factory=list[WatchTaskResponse])
    live: list[tuple[int, Live]] = field(default_factory=list[tuple[int, Live]])
    text: str = ""

    def event(self, kind: str, **body: Any) -> None:
        struct = Struct()
        struct.update(body)
        self.position += 1
        shown = Event(position=self.position, kind=kind, body=struct)
        self.events.append(WatchTaskResponse(task=Task(), event=shown))

    def run(self, name: str, appends: list[int], unrecorded: int) -> None:
        self.event("task.work_started")
        number = 0
        for count in appends:
            text = "".join(self.emit(name, number + n + 1) for n in range(count))
            if count:
                self.event(
                    "task.progress_reported",
                    run=name,
                    text=text,
                    firstNumber=number + 1,
                    lastNumber=number + count,
                )
            number += count
            self.text += text
            self.event("task.step_recorded")
        for n in range(unrecorded):
            self.emit(name, number + n + 1)

    def emit(self, name: str, number: int) -> str:
        text = f"{name}{number}" + "." * number
        live = Live(run=name, number=number, text=text, after_position=self.position)
        self.live.append((len(self.events), live))
        return text

    def close(self) -> None:
        self.event("task.completed")
        self.events[-1].task.closed_at.GetCurrentTime()


def told(runs: list[tuple[list[int], int]]) -> Told:
    story = Told()
    for index, (appends, unrecorded) in enumerate(runs):
        story.run("abcd"[index], appends, unrecorded)
    story.close()
    return story


def given_by(reader: OutputReader, updates: list[WatchTaskResponse]) -> str:
    text = ""
    for update in updates:
        for piece in reader.take(update):
            assert piece.takes_back <= len(text)
            text = piece.added_to(text)
    return text


def arrivals_of(story: Told, data: st.DataObject) -> list[WatchTaskResponse]:
    """What a watcher sees of a story: events in order, live output as it likes."""
    arrivals: list[tuple[int, WatchTaskResponse]] = []
    for _, live in story.live:
        # Lost, once or twice, at any time: before its events came, or long after.
        for at in data.draw(st.lists(st.integers(0, len(story.events)), max_size=2)):
            arrivals.append((at, WatchTaskResponse(live=live)))
    arrivals = data.draw(st.permutations(arrivals))
    updates: list[WatchTaskResponse] = []
    for index, event in enumerate(story.events):
        updates += [live for at, live in arrivals if at == index]
        updates.append(event)
    return updates


@given(RUNS, st.data())
def test_what_is_given_in_the_end_is_what_is_recorded(
    runs: list[tuple[list[int], int]], data: st.DataObject
) -> None:
    story = told(runs)
    assert given_by(OutputReader(), arrivals_of(story, data)) == story.text


@given(RUNS, st.data())
def test_what_is_recorded_of_every_run_is_never_taken_back(
    runs: list[tuple[list[int], int]], data: st.DataObject
) -> None:
    story = told([(appends, 0) for appends, _ in runs])
    reader = OutputReader()
    pieces = [piece for update in arrivals_of(story, data) for piece in reader.take(update)]
    assert all(piece.takes_back == 0 and piece.text for piece in pieces)
    assert "".join(piece.text for piece in pieces) == story.text


@given(RUNS)
def test_what_arrives_in_time_is_given_in_time(runs: list[tuple[list[int], int]]) -> None:
    story = told(runs)
    reader, text = OutputReader(), ""
    for index, event in enumerate(story.events):
        for at, live in story.live:
            if at == index:
                for piece in reader.take(WatchTaskResponse(live=live)):
                    text = piece.added_to(text)
                assert text.endswith(live.text)
        for piece in reader.take(event):
            # Nothing was missed, so that events add nothing; they take back what has ended.
            assert piece.text == ""
            text = piece.added_to(text)
    assert text == story.text


def test_a_run_that_was_cut_off_does_not_come_back() -> None:
    story = Told()
    story.run("a", [], 1)
    story.run("b", [], 1)
    late = Live(run="a", number=2, text="zombie", after_position=2)
    reader = OutputReader()
    seen = [*story.events, *(WatchTaskResponse(live=live) for _, live in story.live)]
    text = given_by(reader, [*seen, WatchTaskResponse(live=late)])
    assert text == story.live[1][1].text
    fresh = OutputReader()
    assert given_by(fresh, [*story.events, *reversed(seen), WatchTaskResponse(live=late)]) == text


def test_what_is_taken_back_is_said_in_characters() -> None:
    assert Output("x", takes_back=2).added_to("aéß") == "ax"
    assert Output("x").added_to("") == "x"


def chunk(number: int, run: str = "a") -> Chunk:
    return Chunk(run=run, number=number, text=str(number), after=1)


def numbers(chunks: list[Chunk]) -> list[int]:
    return [chunk.number for chunk in chunks]


@given(st.permutations(list(range(1, 9))), st.lists(st.integers(1, 8)))
def test_chunks_in_any_order_and_twice_pass_once_and_in_order(
    order: list[int], again: list[int]
) -> None:
    live, passed = LiveOrder(), list[int]()
    for number in [*order, *again]:
        live.put(chunk(number), 0)
        passed += numbers(live.ready(0))
    assert passed == list(range(1, 9))
    assert live.wait_s(0) == float("inf")


def test_a_gap_holds_back_what_follows_for_a_moment_and_is_asked_for() -> None:
    live = LiveOrder()
    live.put(chunk(1), 0)
    live.put(chunk(3), 0)
    assert numbers(live.ready(0)) == [1]
    assert live.asks(0)
    assert not live.asks(0)
    assert 0 < live.wait_s(0) < 1
    live.put(chunk(4), 0)
    assert numbers(live.ready(live.wait_s(0))) == [3, 4]
    live.put(chunk(2), 0)
    assert live.ready(9) == []
    live.put(chunk(6), 0.5)
    assert not live.asks(0.5)  # at most once a second
    assert live.asks(1.5)


def test_what_is_recorded_or_was_seen_is_not_waited_for() -> None:
    live = LiveOrder("a", 2)
    live.put(chunk(2), 0)
    live.put(chunk(3), 0)
    assert numbers(live.ready(0)) == [3]
    event = e.ProgressReported(text="…", run="b", first_number=1, last_number=5)
    record = Record(
        position=9, stored_at=START, subject="", raw=b"", envelope=envelope(event, to="log")
    )
    live.put(chunk(5, "b"), 0)
    live.put(chunk(6, "b"), 0)
    assert live.ready(0) == []
    live.note(record, 0)
    assert numbers(live.ready(0)) == [6]


def test_what_is_held_back_is_bounded() -> None:
    live = LiveOrder()
    for number in range(2, 10_000, 2):
        live.put(chunk(number), 0)
    passed = numbers(live.ready(0))
    assert passed == list(range(2, 2 * len(passed) + 1, 2))
    assert 4_000 < len(passed) < 4_999
    for run in range(1000):
        live.put(chunk(2, f"run {run}"), 0)
    assert len(live.ready(9)) <= 8


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"null",
        b"[]",
        b"{}",
        b'{"run": "a", "number": "1", "texts": ["x"], "after": 0}',
        b'{"run": "a", "number": 1, "texts": "x", "after": 0}',
    ],
)
def test_a_hint_that_is_no_chunk_is_passed_over(data: bytes) -> None:
    assert read_chunks(data) == []


def test_a_hint_carries_one_or_more_chunks() -> None:
    data = b'{"run": "a", "number": 4, "texts": ["x", "yz"], "after": 7}'
    assert read_chunks(data) == [
        Chunk(run="a", number=4, text="x", after=7),
        Chunk(run="a", number=5, text="yz", after=7),
    ]
