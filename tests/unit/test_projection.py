"""Laws of the projections beyond one task."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from mesh.core import event as e
from mesh.core.envelope import Record
from mesh.core.fold import evolve
from mesh.core.projection import (
    Activity,
    DeadLetterEntry,
    agents_of,
    count,
    dead_letter_key,
    dead_lettered,
    needs_notice,
    task_of,
)
from mesh.core.task import EMPTY
from tests.make import (
    FAILURE,
    TASK,
    TEXT,
    envelope,
    histories,
    record,
    records,
    submitted,
    unreadable,
)


def letters(history: list[Record]) -> dict[str, DeadLetterEntry]:
    task, standing = EMPTY, dict[str, DeadLetterEntry]()
    for one in history:
        before, task = task, evolve(task, one)
        for key, entry in dead_lettered(before, one, task).items():
            if entry is None:
                del standing[key]
            else:
                standing[key] = entry
    return standing


def counted(agent: str, history: list[Record]) -> Activity:
    activity = Activity(agent=agent)
    for one in history:
        activity = count(activity, one)
    return activity


RELAY = records(
    submitted("planner"),
    envelope(e.WorkStarted(), sender="planner"),
    envelope(e.AttemptFailed(failure=FAILURE), sender="planner"),
    envelope(e.HandedOff(input=TEXT), sender="planner", to="writer"),
    envelope(e.HandedOff(input=TEXT), sender="writer", to="writer"),
    envelope(e.Completed(result=TEXT), sender="writer"),
)


def test_an_agent_counts_what_it_was_given_and_what_it_made_of_it() -> None:
    assert counted("planner", RELAY) == Activity(
        agent="planner", received=1, handed_off=1, failed_attempts=1, last_position=4
    )
    assert counted("writer", RELAY) == Activity(
        agent="writer", received=2, handed_off=1, completed=1, last_position=6
    )


def test_the_mesh_itself_is_no_agent() -> None:
    assert agents_of(RELAY[0]) == ["planner"]
    notice = record(1, envelope(e.DeadLettered(failure=FAILURE), sender="ledger"))
    assert agents_of(notice) == []
    assert count(Activity(agent="ledger"), notice) == Activity(agent="ledger")


@given(histories())
def test_counts_add_up_to_the_events(history: list[Record]) -> None:
    agents = ["planner", "reader", "writer"]
    total = [counted(agent, history) for agent in agents]
    readable = [one.envelope for one in history if one.envelope]
    assert sum(a.received for a in total) == sum(
        isinstance(env.event, e.TaskSubmitted | e.HandedOff | e.Redriven) for env in readable
    )
    assert sum(a.completed for a in total) == sum(
        isinstance(env.event, e.Completed) and env.sender.agent in agents for env in readable
    )


@given(histories())
def test_counting_a_record_again_changes_nothing(history: list[Record]) -> None:
    once = counted("planner", history)
    for one in history:
        assert count(once, one) == once


DELIVERY = record(1, submitted("planner"))
GIVEN_UP = record(
    2,
    envelope(
        e.DeadLettered(delivery_id="d1", delivery_position=1, attempts=5, failure=FAILURE),
        sender="planner",
    ),
)


def test_a_dead_letter_stands_until_it_is_redriven() -> None:
    standing = letters([DELIVERY, GIVEN_UP])
    assert standing == {
        dead_letter_key(TASK, 1): DeadLetterEntry(
            task_id=TASK,
            delivery_id="d1",
            agent="planner",
            attempts=5,
            error=FAILURE,
            position=2,
            occurred_at=GIVEN_UP.envelope.occurred_at if GIVEN_UP.envelope else None,
            redrivable=True,
        )
    }
    redriven = record(3, envelope(e.Redriven(delivery_id="d1", input=TEXT), to="planner"))
    assert letters([DELIVERY, GIVEN_UP, redriven]) == {}


def test_a_notice_of_an_unreadable_message_stands_and_cannot_be_redriven() -> None:
    notice = record(
        3, envelope(e.DeadLettered(delivery_position=2, failure=FAILURE), sender="ledger")
    )
    standing = letters([DELIVERY, unreadable(2), notice])
    entry = standing[dead_letter_key(TASK, 2)]
    assert (entry.redrivable, entry.agent, entry.error) == (False, "ledger", FAILURE)


def test_a_dead_letter_that_comes_too_late_is_none() -> None:
    done = record(2, envelope(e.Completed(result=TEXT), sender="planner"))
    late = replace(GIVEN_UP, position=3)
    assert letters([DELIVERY, done, late]) == {}


@given(histories())
def test_dead_letters_that_can_be_redriven_are_those_that_tasks_have(
    history: list[Record],
) -> None:
    task = EMPTY
    for one in history:
        task = evolve(task, one)
    redrivable = [key for key, entry in letters(history).items() if entry.redrivable]
    expected = (
        [dead_letter_key(task.task_id, task.dead_letter.delivery_position)]
        if task.dead_letter
        else []
    )
    assert redrivable == expected


@given(st.sampled_from(["log", "gateway", "ledger", "planner"]))
def test_the_ledger_answers_for_what_is_unreadable_and_nobodys(to: str) -> None:
    broken = replace(unreadable(1), subject=f"mesh.test.s0.{to}.{TASK}.m.gateway")
    assert needs_notice(broken) == (to != "planner")
    assert needs_notice(replace(broken, subject="mesh.test.s0.what"))
    assert not needs_notice(DELIVERY)


def test_a_record_belongs_to_the_task_of_its_subject() -> None:
    assert task_of(unreadable(1)) == TASK
    assert task_of(replace(unreadable(1), subject="mesh.test.s0.what")) == ""
