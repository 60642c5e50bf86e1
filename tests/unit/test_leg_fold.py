from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings

from mesh.core import event as e
from mesh.core.carrier import Roles, follow, opens_turn
from mesh.core.envelope import Envelope, Record
from mesh.core.fold import fold
from mesh.core.guards import MAX_SWAPS, check_hop, check_spend
from mesh.core.leg import Leg
from mesh.core.task import State, Task, Turn
from mesh.errors import BudgetExceeded, SwapLimit
from tests.make import FAILURE, START, envelope, histories, records, submitted
from tests.unit.leg.compare import as_folded, as_told
from tests.unit.leg.story import tell

Step = e.TaskEvent | Envelope
C1, C2 = (e.Delegated(ordinal=n, child_task_id=f"c{n}", agent="reader") for n in (1, 2))
T = e.TimerSet(ordinal=3, timer_id="t")
Q = e.InputRequested(ordinal=4, request_id="q", expires_at=START)
DONE1, DONE2 = (e.ChildFinished(child_task_id=f"c{n}", state="COMPLETED") for n in (1, 2))
FIRED = e.TimerFired(timer_id="t")
DEADLINE = e.TimerFired(timer_id="deadline")
GO = e.Signaled(name="go")
CLAIM, FAILED = e.WorkStarted(), e.AttemptFailed(failure=FAILURE)
CANCEL = e.CancelRequested(reason="why")
PARKED = e.Parked(ordinal=1, recorded="a", asked="b")


def wait(*things: str) -> e.Suspended:
    """Groups, each as `child c1 timer t`."""
    waits: list[e.Wait] = []
    for group, thing in enumerate(things):
        words = thing.split()
        pairs = zip(words[::2], words[1::2], strict=True)
        waits += [e.Wait(what=what, id=id, group=group) for what, id in pairs]
    return e.Suspended(waits=tuple(waits))


def history(*steps: Step) -> list[Record]:
    """After a submit to the planner, with a deadline and a budget; informing events to it."""
    first = envelope(e.TaskSubmitted(budget={"tokens": 100}), to="planner")
    made = [replace(first, deadline=START)]
    for n, step in enumerate(steps):
        if isinstance(step, Envelope):
            made.append(step)
            continue
        to = "planner" if step.event_class == "i" else "log"
        made.append(envelope(step, to=to, sender="planner", event_id=f"{n:032x}"))
    return records(*made)


def after(*steps: Step) -> Task:
    """The state; folded in two parts at every cut it is the same, and the story agrees."""
    made = history(*steps)
    task = fold(made)
    for cut in range(len(made) + 1):
        assert fold(made[cut:], fold(made[:cut])) == task
        assert as_folded(fold(made[:cut])) == as_told(tell(made[:cut]))
    return task


def turn(task: Task) -> Turn:
    assert task.turn is not None
    return task.turn


def leg(task: Task) -> Leg:
    assert task.leg is not None
    return task.leg


def carrier(task: Task) -> int | None:
    return task.turn.delivery_position if task.turn else None


GROUPS = (CLAIM, C1, C2, T, wait("child c1 child c2", "timer t"))


@pytest.mark.parametrize(
    ("came", "opener"),
    [
        ([DONE1], None),
        ([DONE1, DONE1], None),
        ([DONE1, DONE2], 8),
        ([DONE2, DONE1], 8),
        ([DONE1, FIRED], 8),
        ([FIRED], 7),
        ([FIRED, DONE1, DONE2], 7),
        ([GO], None),
        ([CANCEL], 7),
        ([DEADLINE], 7),
        ([DONE1, DEADLINE, CANCEL], 8),
    ],
)
def test_any_one_group_of_waits_that_is_met_opens_one_turn(
    came: list[e.TaskEvent], opener: int | None
) -> None:
    task = after(*GROUPS, *came)
    assert carrier(task) == opener
    assert leg(task).suspended is (opener is None)
    roles = follow(Roles(), history(*GROUPS, *came))
    assert roles.openers == ({1} if opener is None else {1, opener})
    assert [roles.known(n) for n in (1, 2, opener or 1, 99)] == [True, False, True, None]


def test_a_wait_that_is_met_before_it_is_stored_does_not_end_the_turn() -> None:
    for waits in ("child c1", "child c1 child c2"):
        task = after(CLAIM, C1, C2, DONE1, DONE2, wait(waits))
        assert (carrier(task), turn(task).claim_open) == (1, True)
        assert not leg(task).suspended
    half = after(CLAIM, C1, C2, DONE1, wait("child c1 child c2"))
    assert (carrier(half), [w.id for w in leg(half).waits]) == (None, ["c2"])
    assert carrier(after(CLAIM, C1, C2, DONE1, wait("child c1 child c2"), DONE2)) == 7


def test_only_what_is_addressed_to_the_owner_counts() -> None:
    astray = envelope(DONE1, to="writer", sender="reader")
    task = after(CLAIM, C1, wait("child c1"), astray)
    assert (carrier(task), [c.id for c in leg(task).children]) == (None, ["c1"])
    late = replace(astray, to="planner", event_id="f" * 32)
    assert carrier(after(CLAIM, C1, wait("child c1"), astray, late)) == 6


def test_a_report_that_is_repeated_changes_nothing() -> None:
    once = after(CLAIM, C1, wait("child c1"), DONE1)
    twice = after(CLAIM, C1, wait("child c1"), DONE1, DONE1)
    assert twice == replace(once, version=once.version + 1, position=twice.position)
    again = after(CLAIM, C1, wait("child c1"), DONE1, e.Resumed(), C2, wait("child c2"), DONE1)
    assert carrier(again) is None


def test_a_person_makes_the_state_input_required_until_the_answer_or_the_expiry() -> None:
    asked = after(CLAIM, Q, wait("input q"))
    assert (asked.state, [q.id for q in leg(asked).questions]) == (State.INPUT_REQUIRED, ["q"])
    for first, second in [
        (e.InputReceived(request_id="q"), e.TimerFired(timer_id="q")),
        (e.TimerFired(timer_id="q"), e.InputReceived(request_id="q")),
    ]:
        task = after(CLAIM, Q, wait("input q"), first)
        assert (carrier(task), leg(task).questions) == (5, ())
        both = after(CLAIM, Q, wait("input q"), first, second)
        assert turn(both) == turn(task)


def test_signals_are_numbered_in_a_leg_and_wait_for_whoever_asks_later() -> None:
    assert carrier(after(GO, CLAIM, wait("signal go/1"))) == 1
    assert carrier(after(GO, CLAIM, wait("signal go/2"))) is None
    assert carrier(after(GO, CLAIM, wait("signal go/2"), e.Signaled(name="other"))) is None
    assert carrier(after(GO, CLAIM, wait("signal go/2"), GO)) == 5
    assert leg(after(GO, GO)).signals == {"go": 2}
    assert after(GO, CLAIM, envelope(e.HandedOff(), to="planner")).leg is None


@pytest.mark.parametrize("wanted", [DEADLINE, CANCEL])
def test_a_leg_whose_task_must_end_neither_waits_nor_is_held(wanted: e.TaskEvent) -> None:
    for rest in (wait("child c1"), PARKED):
        task = after(CLAIM, C1, wanted, rest)
        assert carrier(task) == 1
        assert not leg(task).idle


@pytest.mark.parametrize("wake", [e.Unparked(), CANCEL, DEADLINE])
def test_a_held_task_is_woken_by_its_release_its_cancel_or_its_deadline(wake: e.TaskEvent) -> None:
    held = after(CLAIM, C1, PARKED)
    assert (carrier(held), leg(held).parked) == (None, PARKED)
    task = after(CLAIM, C1, PARKED, DONE1, wake, e.Unparked())
    assert (carrier(task), leg(task).parked, leg(task).children) == (6, None, ())


def test_a_release_of_what_is_not_held_wakes_nobody() -> None:
    assert carrier(after(CLAIM, C1, wait("child c1"), e.Unparked())) is None
    assert turn(after(CLAIM, e.Unparked())) == turn(after(CLAIM))


def test_a_deadline_is_of_a_task_that_has_one_and_fires_once() -> None:
    first = records(submitted(), envelope(CLAIM), envelope(DEADLINE, to="planner"))
    assert not fold(first).overdue
    task = after(CLAIM, C1, wait("child c1"), DEADLINE, DEADLINE)
    assert (carrier(task), task.overdue) == (5, True)
    handed = after(CLAIM, DEADLINE, envelope(e.HandedOff(), to="writer"))
    assert handed.overdue


def pause(n: int) -> tuple[e.TaskEvent, ...]:
    return FAILED, e.TimerSet(timer_id=f"p{n}"), wait(f"timer p{n}")


def test_a_pause_before_a_retry_carries_the_attempts_and_the_failure() -> None:
    first = after(CLAIM, *pause(1))
    assert (carrier(first), leg(first).attempts, leg(first).failure) == (None, 1, FAILURE)
    woken = after(CLAIM, *pause(1), e.TimerFired(timer_id="p1"))
    assert (turn(woken).attempts, turn(woken).failure, leg(woken).attempts) == (1, FAILURE, 0)
    again = (CLAIM, *pause(1), e.TimerFired(timer_id="p1"), e.Resumed(), *pause(2))
    assert turn(after(*again, e.TimerFired(timer_id="p2"))).attempts == 2
    unclaimed = (*pause(1), e.TimerFired(timer_id="p1"), *pause(2), e.TimerFired(timer_id="p2"))
    assert turn(after(*unclaimed)).attempts == 2


def test_a_wait_of_the_handler_is_progress_and_forgets_the_attempts() -> None:
    task = after(CLAIM, FAILED, e.WorkStarted(), C1, wait("child c1"), DONE1)
    assert (turn(task).attempts, turn(task).failure) == (0, None)


def test_a_failed_attempt_of_a_step_is_no_attempt_of_the_run() -> None:
    task = after(CLAIM, e.AttemptFailed(failure=FAILURE, ordinal=1, name="s"))
    assert (turn(task).attempts, turn(task).claim_open) == (1, True)


@pytest.mark.parametrize(
    ("event", "attempts"),
    [
        (e.StepRecorded(ordinal=1, name="s"), 0),
        (C1, 0),
        (T, 0),
        (Q, 0),
        (e.TimerSet(timer_id="p"), 1),
        (e.Noted(constraints=("a",)), 1),
        (e.Spent(counter="tokens", amount=1), 1),
        (e.CompensationRegistered(ordinal=1, name="u"), 1),
    ],
)
def test_what_is_progress(event: e.TaskEvent, attempts: int) -> None:
    assert turn(after(CLAIM, event)).attempts == attempts


def test_undos_stand_in_the_order_they_were_registered_until_they_ran() -> None:
    undos = [e.CompensationRegistered(ordinal=n, name=f"u{n}") for n in (1, 2)]
    assert [u.name for u in leg(after(*undos)).undos] == ["u1", "u2"]
    ran = e.StepRecorded(ordinal=9, name="u2", undoes=2)
    assert [u.name for u in leg(after(*undos, ran)).undos] == ["u1"]


def test_what_is_reserved_for_a_child_is_given_back_but_for_what_it_spent() -> None:
    child = e.Delegated(ordinal=1, child_task_id="c1", agent="reader", budget={"tokens": 60})
    used = e.Spent(counter="tokens", amount=30)
    reserved = after(CLAIM, used, child)
    assert reserved.spent == {"tokens": 90}
    check_spend(reserved, "tokens", 10)
    with pytest.raises(BudgetExceeded, match="tokens"):
        check_spend(reserved, "tokens", 11)
    report = e.ChildFinished(child_task_id="c1", state="FAILED", spent={"tokens": 25, "cents": 3})
    told = after(CLAIM, used, child, report, report)
    assert told.spent == {"tokens": 55, "cents": 3}


def test_a_child_of_a_leg_that_has_ended_keeps_its_reserve() -> None:
    child = e.Delegated(ordinal=1, child_task_id="c1", agent="reader", budget={"tokens": 60})
    back = [envelope(e.HandedOff(), to=to) for to in ("writer", "planner")]
    task = after(CLAIM, child, *back, e.ChildFinished(child_task_id="c1", spent={"tokens": 1}))
    assert task.spent == {"tokens": 60}


def swapped(*steps: str) -> Task:
    """`>agent` hands off, `+` is progress, `~` a note."""
    kinds = {"+": e.StepRecorded(ordinal=1, name="s"), "~": e.Noted(constraints=("a",))}
    made = [
        envelope(e.HandedOff(), to=step[1:], event_id=f"{n:032x}")
        if step[0] == ">"
        else envelope(kinds[step], event_id=f"{n:032x}")
        for n, step in enumerate(steps)
    ]
    return after(*made)


def test_swaps_count_hand_backs_in_a_row_without_progress() -> None:
    assert swapped(">writer").swaps == 0
    assert swapped(">writer", ">planner").swaps == 1
    assert swapped(">writer", ">planner", "~", ">writer").swaps == 2
    assert swapped(">writer", "+", ">planner").swaps == 1
    assert swapped(">writer", ">planner", "+", ">writer").swaps == 1
    assert swapped(">writer", ">planner", ">reader").swaps == 0
    assert swapped(">writer", ">reader", ">planner").swaps == 0
    ping = [">writer", ">planner"] * (MAX_SWAPS // 2)
    check_hop(swapped(*ping), "writer")
    with pytest.raises(SwapLimit):
        check_hop(swapped(*ping, ">writer"), "planner")
    check_hop(swapped(*ping, ">writer"), "reader")


def dead(position: int) -> e.DeadLettered:
    return e.DeadLettered(delivery_id="d", delivery_position=position, failure=FAILURE)


REDRIVEN = envelope(e.Redriven(delivery_id="d"), to="planner")


def test_a_redrive_goes_on_with_the_leg_and_what_came_meanwhile() -> None:
    undo = e.CompensationRegistered(ordinal=1, name="u")
    task = after(CLAIM, undo, C1, C2, dead(1), DONE1, GO, REDRIVEN)
    assert (carrier(task), turn(task).attempts, turn(task).claim_id) == (9, 0, "")
    assert [c.id for c in leg(task).children] == ["c2"]
    assert ([u.name for u in leg(task).undos], leg(task).signals) == (["u"], {"go": 1})
    assert leg(task).opened_position == 1
    assert carrier(after(CLAIM, C1, dead(1), DONE1, REDRIVEN, wait("child c1"))) == 6


def test_a_dead_letter_of_another_delivery_leaves_the_leg_alone() -> None:
    task = after(CLAIM, C1, dead(7))
    assert (carrier(task), task.closed) == (1, False)
    woken = after(CLAIM, C1, wait("child c1"), DONE1, dead(1))
    assert (carrier(woken), woken.closed) == (5, False)


def test_a_hand_off_begins_a_leg_that_knows_nothing_of_the_one_before() -> None:
    task = after(CLAIM, C1, GO, envelope(e.HandedOff(), to="writer"), DONE1)
    assert (task.leg, task.owner, carrier(task)) == (None, "writer", 5)
    mine = envelope(DONE1, to="writer", sender="reader", event_id="f" * 32)
    assert after(CLAIM, C1, envelope(e.HandedOff(), to="writer"), mine).leg is None


@settings(deadline=None)
@given(histories(max_size=24))
def test_whatever_the_history_roles_and_law_and_story_hold(made: Sequence[Record]) -> None:
    task, roles = fold(made), Roles()
    for cut in range(len(made) + 1):
        assert fold(made[cut:], fold(made[:cut])) == task
    for n, one in enumerate(made, 1):
        roles = follow(roles, [one])
        assert roles.known(one.position) is opens_turn(fold(made[:n]), one.position)
        assert roles.known(one.position + 1) is None
    assert roles == follow(Roles(), made)
    assert (task.turn is None) or not task.closed
    assert not (task.turn and task.leg and task.leg.idle)
    assert all(count >= 0 for count in task.spent.values())
