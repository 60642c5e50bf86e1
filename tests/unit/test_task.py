from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core import decide
from mesh.core import event as e
from mesh.core.envelope import Record
from mesh.core.event import KINDS
from mesh.core.fold import evolve, fold, noted, packet_of
from mesh.core.packet import Decision, RelayPacket, bounded
from mesh.core.payload import Payload
from mesh.core.task import EMPTY, State, Task
from mesh.errors import HopLimit, NotDeadLettered, TaskClosed, TaskUnknown
from mesh.wire.codec import decode_task, encode_task, state_sha256
from tests.make import FAILURE, TASK, TEXT, envelope, histories, record, records, submitted

DEAD = e.DeadLettered(delivery_id="d", delivery_position=1, attempts=5, failure=FAILURE)


@given(histories())
def test_fold_is_total_and_counts_every_record(history: list[Record]) -> None:
    task = fold(history)
    assert task.version == len(history)
    assert task.position == (history[-1].position if history else 0)


@given(histories(), st.data())
def test_a_history_folds_the_same_in_two_parts(history: list[Record], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(history)))
    assert fold(history[cut:], fold(history[:cut])) == fold(history)


@given(histories())
def test_a_state_survives_its_bytes(history: list[Record]) -> None:
    task = fold(history)
    assert decode_task(encode_task(task)) == task
    assert state_sha256(decode_task(encode_task(task))) == state_sha256(task)


@given(histories())
def test_a_closed_task_changes_only_by_redrive_after_a_dead_letter(history: list[Record]) -> None:
    task = fold(history)
    if not task.closed:
        return
    for kind in KINDS.values():
        after = evolve(task, record(99, envelope(kind(), to="reader")))
        if kind is e.Redriven and task.dead_letter:
            assert after.state is State.SUBMITTED
        else:
            moved = after.moved
            assert after == replace(task, version=task.version + 1, position=99, moved=moved)


@given(histories())
def test_a_closed_task_refuses_every_decision_but_a_redrive(history: list[Record]) -> None:
    task = fold(history)
    if not task.closed:
        return
    decisions = [
        lambda: decide.submit(task, input=TEXT),
        lambda: decide.claim(task, submitted()),
        lambda: decide.release(task, reason=""),
        lambda: decide.hand_off(task, to="x", input=TEXT, packet=RelayPacket()),
        lambda: decide.fail_attempt(task, FAILURE),
        lambda: decide.complete(task, TEXT),
        lambda: decide.fail(task, FAILURE),
        lambda: decide.reject(task, FAILURE),
        lambda: decide.request_cancel(task, reason=""),
        lambda: decide.cancel(task),
        lambda: decide.dead_letter(task, FAILURE),
    ]
    for decision in decisions:
        with pytest.raises(TaskClosed):
            decision()
    if task.dead_letter:
        assert decide.redrive(task, input=TEXT) == e.Redriven(
            delivery_id=task.dead_letter.delivery_id, input=TEXT
        )
    else:
        with pytest.raises(NotDeadLettered):
            decide.redrive(task, input=TEXT)


def test_nothing_can_happen_to_a_task_that_does_not_exist() -> None:
    with pytest.raises(TaskUnknown):
        decide.complete(EMPTY, TEXT)
    with pytest.raises(TaskUnknown):
        decide.redrive(EMPTY, input=None)


def relay(*steps: tuple[e.TaskEvent, str]) -> Task:
    return fold(records(submitted(), *(envelope(event, to=to) for event, to in steps)))


def test_a_relay_moves_the_task_from_owner_to_owner() -> None:
    task = relay((e.HandedOff(input=TEXT), "reader"), (e.HandedOff(input=TEXT), "writer"))
    assert (task.state, task.owner, task.hops, task.moved) == (State.SUBMITTED, "writer", 2, 3)
    assert [(h.source, h.target) for h in task.handoffs] == [
        ("planner", "reader"),
        ("reader", "writer"),
    ]
    done = evolve(task, record(4, envelope(e.Completed(result=TEXT), sender="writer")))
    assert (done.state, done.result, done.closed) == (State.COMPLETED, TEXT, True)


def test_hop_limit_names_its_figures() -> None:
    task = replace(relay(), hops=2, max_hops=2)
    with pytest.raises(HopLimit, match="2 hops of at most 2") as refused:
        decide.hand_off(task, to="x", input=Payload(), packet=RelayPacket())
    assert refused.value.details()["max_hops"] == "2"


def test_attempts_count_claims_and_unclaimed_failures() -> None:
    claim, failed, released = e.WorkStarted(), e.AttemptFailed(failure=FAILURE), e.WorkReleased()
    for steps, attempts in [
        ([failed], 1),
        ([claim], 1),
        ([claim, failed], 1),
        ([failed, claim, failed], 2),
        ([claim, claim], 2),
        ([claim, released], 0),
        ([claim, e.StepRecorded(name="s"), claim], 1),
        ([claim, e.StepRecorded(name="s"), released], 0),
        ([claim, e.Noted(constraints=("a",))], 1),
        ([claim, e.Spent(counter="c", amount=1)], 1),
    ]:
        turn = relay(*((step, "log") for step in steps)).turn
        assert turn is not None
        assert turn.attempts == attempts, steps


def test_a_dead_letter_is_redriven_once() -> None:
    dead = relay((DEAD, "log"))
    assert (dead.state, dead.failure) == (State.FAILED, FAILURE)
    again = evolve(dead, record(3, envelope(e.Redriven(delivery_id="d"), to="planner")))
    assert (again.state, again.failure, again.dead_letter) == (State.SUBMITTED, None, None)
    assert again.turn is not None
    assert (again.turn.delivery_position, again.turn.attempts) == (3, 0)
    with pytest.raises(NotDeadLettered):
        decide.redrive(again, input=None)


def test_the_notice_of_an_unreadable_message_changes_no_state() -> None:
    task = relay()
    notice = e.DeadLettered(delivery_position=77, failure=FAILURE)
    after = evolve(task, record(2, envelope(notice)))
    assert after == replace(task, version=2, position=2, moved=2)


def test_the_packet_is_a_fold_of_what_was_noted() -> None:
    first = e.Noted(decisions=(Decision(id="a", summary="one"),), constraints=("rule",))
    second = e.Noted(decisions=(Decision(id="b", summary="two"),), constraints=("rule",))
    task = relay((first, "log"), (second, "log"))
    packet = packet_of(task, next_task="go on")
    assert [d.id for d in packet.decisions] == ["a", "b"]
    assert packet.constraints == ("rule",)
    assert (packet.next_task, packet.as_of, packet.omitted_count) == ("go on", 3, 0)
    assert packet_of(task, next_task="go on") == packet
    assert packet_of(noted(task, first)).sha256 != packet.sha256


def test_a_packet_that_grows_too_large_loses_its_oldest_decisions_only() -> None:
    decisions = tuple(Decision(id=str(n), summary="x" * 100) for n in range(20))
    packet = RelayPacket(constraints=("y" * 300,), decisions=decisions)
    trimmed = bounded(packet, limit_bytes=1000)
    assert trimmed.constraints == packet.constraints
    assert trimmed.decisions == decisions[-len(trimmed.decisions) :]
    assert 0 < len(trimmed.decisions) == 20 - trimmed.omitted_count
    assert bounded(trimmed, limit_bytes=1000) == trimmed


def test_ids_of_a_task_come_from_its_submit() -> None:
    task = relay()
    assert (task.task_id, task.root_task_id, task.submitted_by) == (TASK, TASK, "gateway")
