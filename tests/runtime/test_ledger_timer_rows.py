"""The timer projection: at any point of any history its rows are what the fold says is due."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from mesh.core import event as e
from mesh.core.fold import evolve
from mesh.core.leg import DEADLINE
from mesh.core.projection import timers_of
from mesh.core.task import EMPTY
from mesh.ledger.projector import Projector
from mesh.ledger.row import TIMER, decode_timer
from mesh.store.inproc import InprocStore
from mesh.store.port import Checkpoint, Commit, Row
from tests.make import FAILURE, START, TASK, TENANT, TEXT, envelope, record, unreadable

if TYPE_CHECKING:
    from mesh.core.envelope import Envelope, Record

AGENTS = ("planner", "writer")
TIMERS, QUESTIONS = st.sampled_from(["a", "b"]), st.sampled_from(["q", "r"])
TIMES = st.none() | st.integers(-1, 2).map(lambda n: START + timedelta(days=n, microseconds=1))
EVENTS: st.SearchStrategy[e.TaskEvent] = st.one_of(
    st.builds(e.TimerSet, ordinal=st.integers(0, 1), timer_id=TIMERS, fires_at=TIMES),
    st.builds(e.InputRequested, request_id=QUESTIONS, expires_at=TIMES),
    st.builds(e.TimerFired, timer_id=TIMERS | QUESTIONS | st.just(DEADLINE)),
    st.builds(e.InputReceived, request_id=QUESTIONS),
    st.just(e.Suspended(waits=(e.Wait(what="timer", id="a"),))),
    st.just(e.HandedOff(input=TEXT)),
    st.just(e.Completed(result=TEXT)),
    st.builds(e.DeadLettered, delivery_position=st.just(1), failure=st.just(FAILURE)),
    st.just(e.Redriven(delivery_id="d", input=TEXT)),
    st.just(e.CancelRequested()),
)


@st.composite
def histories(draw: st.DrawFn) -> list[Record]:
    opened = envelope(e.TaskSubmitted(input=TEXT), to="planner")
    made = [record(1, replace(opened, deadline=draw(TIMES)))]
    for position in range(2, draw(st.integers(2, 14))):
        if draw(st.integers(0, 9)) == 0:
            made.append(unreadable(position))
            continue
        to, by = draw(st.sampled_from(AGENTS)), draw(st.sampled_from(AGENTS))
        each: Envelope = envelope(draw(EVENTS), to=to, sender=by, event_id=f"{position:032x}")
        made.append(record(position, each))
    return made


async def project(history: list[Record], cuts: list[int]) -> list[Row]:
    """The rows that a ledger ends with that records so many at a time, restarted in between."""
    store, before = InprocStore(), Checkpoint(shard="s0")
    for start, end in zip([0, *cuts], [*cuts, len(history)], strict=True):
        part = history[start:end]
        if not part:
            continue
        rows = await Projector(store, tenant=TENANT).fold("s0", part)
        after = replace(before, position=part[-1].position)
        await store.commit(Commit(events=[], rows=rows, checkpoint=after), expected=before)
        before = after
        again = await Projector(store, tenant=TENANT).fold("s0", part)
        assert [row for row in again if row.projection == TIMER] == []
    return await store.rows(TIMER, tags={"shard": ["s0"]})


@given(histories(), st.lists(st.integers(0, 14), max_size=4))
async def test_rows_are_what_is_due_however_the_history_was_cut(
    history: list[Record], cuts: list[int]
) -> None:
    task = EMPTY
    for each in history:
        task = evolve(task, each)
    rows = await project(history, sorted(min(cut, len(history)) for cut in cuts))
    due = {f"{TASK}/{timer_id}": at for timer_id, at in timers_of(task).items()}
    fires = {row.key: decode_timer(row.state) for row in rows if row.state}
    assert {key: made.occurred_at for key, made in fires.items()} == due
    assert {made.to for made in fires.values()} <= {task.owner}
    assert {f"{TASK}/{_timer_id(made)}" for made in fires.values()} == set(due)
    by_key = {row.key: row for row in rows}
    assert {row.key: row for row in await project(history, [])} == by_key


@given(histories())
async def test_the_event_that_a_row_holds_ends_its_timer_and_has_an_id_of_its_own(
    history: list[Record],
) -> None:
    ids = {each.envelope.event_id for each in history if each.envelope}
    task = EMPTY
    for each in history:
        task = evolve(task, each)
    for row in await project(history, []):
        assert row.state is not None
        fired = decode_timer(row.state)
        assert fired.event_id not in ids
        ids.add(fired.event_id)
        after = evolve(task, record(task.position + 1, fired))
        assert timers_of(after).get(_timer_id(fired)) is None


def _timer_id(made: Envelope) -> str:
    assert isinstance(made.event, e.TimerFired)
    return made.event.timer_id
