"""The traces that broke earlier wordings of the rule, each played against the rule that holds."""

import pytest

from mesh.core import event as e
from tests.unit.leg.log import Wrong
from tests.unit.leg.play import END, end, world, written

C1, C2 = e.ChildFinished(child_task_id="c1"), e.ChildFinished(child_task_id="c2")
DEADLINE = e.TimerFired(timer_id="deadline")


def test_a_wait_met_before_it_was_stored_goes_on_and_the_report_wakes_nobody_else() -> None:
    w = world("gather")
    a = w.take(1)
    w.to(a, "append suspended")
    w.say(C1)
    w.say(C2)
    b = w.take(w.log.task.position)
    w.to(a, "s2 returns")
    w.to(b, "ack")
    w.go(b)
    assert end(w) == {"s1": 1, "s2": 1}
    assert written(w, e.Resumed) == []


@pytest.mark.parametrize("program", ["gather", "race", "seq"])
def test_a_zombie_does_not_ack_what_the_carrier_holds(program: str) -> None:
    w = world(program)
    a = w.take(1)
    w.to(a, "append")
    w.expire(a)
    b = w.take(1)
    w.to(b, "append claim")
    w.go(b)
    w.go(a)
    w.to(a, "read again")
    assert w.go(a) == "", "it must stop without an ack"
    assert not w.log.deliveries[1].acked
    w.crash(b)
    end(w)


@pytest.mark.parametrize("program", ["gather", "race", "seq"])
def test_a_cancel_right_after_the_wait_was_stored_is_carried(program: str) -> None:
    w = world(program)
    a = w.take(1)
    w.to(a, "append suspended")
    w.go(a)
    w.order(e.CancelRequested())
    b = w.take(w.log.task.position)
    w.to(a, "ack")
    w.to(b, "append canceled")
    w.go(a)
    assert "s2" not in end(w, "task.canceled")


@pytest.mark.parametrize("program", ["gather", "race", "seq"])
def test_a_deadline_right_before_the_wait_was_stored_keeps_the_turn(program: str) -> None:
    w = world(program, deadline=True)
    a = w.take(1)
    w.to(a, "append suspended")
    w.say(DEADLINE)
    b = w.take(w.log.task.position)
    w.to(b, "ack")
    w.go(b)
    w.to(a, "append failed")
    assert "s2" not in end(w, "task.failed")


@pytest.mark.parametrize(("program", "before"), [("race", [C1]), ("gather", [C1, C2])])
def test_a_late_ack_of_who_suspended_cannot_lose_the_turn_that_goes_on(
    program: str, before: list[e.TaskEvent]
) -> None:
    w = world(program, workers=3)
    a = w.take(1)
    w.to(a, "append suspended")
    w.expire(a)
    b = w.take(1)
    for report in before:
        w.say(report)
    w.go(a)
    w.to(b, "append claim")
    w.go(b)
    w.to(a, "read up to it")
    while a.lines is not None:
        w.go(a)
    assert not w.log.deliveries[1].acked
    c = w.take(next(d.record.position for d in w.waiting() if d.record.position > 1))
    w.crash(b)
    w.to(c, "ack")
    end(w)


def test_a_decision_taken_before_the_wake_is_acked_after_it_without_harm() -> None:
    w = world("race", workers=3)
    a = w.take(1)
    w.to(a, "append suspended")
    w.expire(a)
    w.go(a)
    b = w.take(1)
    w.to(b, "judge")
    w.say(C1)
    c = w.take(w.log.task.position)
    w.to(c, "append resumed")
    w.go(c)
    w.to(b, "ack")
    w.crash(c)
    w.go(b)
    end(w)


def test_a_holder_whose_lease_ran_out_does_not_claim() -> None:
    w = world("gather", workers=3)
    a = w.take(1)
    w.to(a, "s1 returns")
    w.expire(a)
    assert w.go(a) == "", "its result cannot be stored without a claim"
    assert written(w, e.WorkStarted, e.StepRecorded) == []
    b = w.take(1)
    w.to(b, "append claim")
    w.expire(b)
    c = w.take(1)
    w.to(c, "judge")
    w.expire(c)
    assert w.go(c) == ""
    assert end(w)["s1"] <= 3


def test_own_events_in_the_log_do_not_make_a_former_carrier_the_carrier() -> None:
    w = world("gather")
    a = w.take(1)
    w.to(a, "append work_started+step_recorded")
    w.go(a, "unanswered")
    w.expire(a)
    b = w.take(1)
    w.to(b, "append claim")
    w.go(b)
    assert w.go(a) == "", "another has claimed the turn"
    assert end(w) == {"s1": 1, "s2": 1}


def test_a_refused_claim_is_neither_acked_nor_tried_again() -> None:
    w = world("race", workers=3)
    a = w.take(1)
    w.to(a, "append work_started")
    w.crash(a)
    b = w.take(1)
    w.to(b, "append claim")
    w.expire(b)
    c = w.take(1)
    w.to(c, "append claim")
    w.go(c)
    w.go(b)
    assert w.go(b) == ""
    assert not w.log.deliveries[1].acked
    end(w)


@pytest.mark.parametrize("fate", ["lost", "down", "late"])
def test_a_claim_without_an_answer_that_is_not_stored_runs_nothing(fate: str) -> None:
    w = world("gather")
    w.crash(w.take(1))
    b = w.take(1)
    w.to(b, "append claim")
    w.go(b, fate)
    while b.lines is not None:
        w.go(b)
    assert w.log.runs.total() == 0
    end(w)


def test_a_claim_whose_answer_was_lost_is_its_own() -> None:
    w = world("gather")
    w.crash(w.take(1))
    b = w.take(1)
    w.to(b, "append claim")
    w.go(b, "unanswered")
    assert w.go(b) == "run s1"
    assert end(w) == {"s1": 1, "s2": 1}
    assert len(written(w, e.WorkStarted)) == 1


def test_the_first_append_claims_so_that_a_lost_count_costs_one_run() -> None:
    w = world("long")
    a = w.take(1)
    w.to(a, "s1 returns")
    w.expire(a)
    b = w.take(1, count_lost=True)
    w.to(b, "s1 returns")
    w.to(b, "run s2")
    assert w.go(a) == "", "no lease, no claim, no append"
    c = w.take(1, count_lost=True) if w.waiting() else a
    assert c is a
    assert end(w) == {"s1": 2, "s2": 1, "s3": 1}


def test_who_came_as_new_beside_another_runs_one_step_and_no_more() -> None:
    w = world("long", workers=3)
    a = w.take(1)
    w.to(a, "append work_started+step_recorded")
    w.log.let_go(a.grip) if a.grip else None
    b = w.take(1, count_lost=True)
    w.to(b, "append work_started+step_recorded")
    if a.grip:
        a.grip.lease = True  # by its own clock: the server was faster
    w.go(a)
    w.go(b)
    assert w.go(b) == "", "it has nothing of its own in the turn"
    assert end(w) == {"s1": 2, "s2": 1, "s3": 1}


def test_who_came_as_new_to_a_turn_that_is_claimed_lets_go() -> None:
    w = world("relay")
    w.to(w.take(1), "ack")
    handed = w.log.task.position
    a = w.take(handed)
    w.to(a, "append suspended")
    w.expire(a)
    b = w.take(handed, count_lost=True)
    w.to(b, "judge")
    assert w.go(b) == "", "neither acked nor carried"
    assert not w.log.deliveries[handed].acked
    assert end(w) == {"s1": 1, "s2": 1, "s3": 1}


def test_a_delivery_that_comes_back_to_its_process_as_new_repeats_nothing_recorded() -> None:
    w = world("long", workers=1)
    a = w.take(1)
    w.to(a, "s3 returns")
    w.go(a, "drain")
    w.to(a, "nak")
    w.go(a)
    a = w.take(1, count_lost=True)
    w.to(a, "append work_started+step_recorded")
    w.go(a)
    assert w.go(a) == "", "its own claim was of another hold"
    assert end(w) == {"s1": 2, "s2": 1, "s3": 2}


def test_a_step_and_a_child_reach_a_live_handler_in_the_order_of_the_log() -> None:
    w = world("mix")
    a = w.take(1)
    w.to(a, "append step_recorded")
    w.say(C1)
    w.to(a, "run s2")
    assert a.line is not None
    assert a.line.text == "run s2-c1", "the child stands before the step"
    assert end(w) == {"s1": 1, "s2-c1": 1}


def test_a_deadline_right_before_the_park_keeps_the_turn() -> None:
    w = world("long", deadline=True)
    w.crash(w.take(1))
    a = w.take(1)
    w.to(a, "s1 returns")
    w.go(a, "diverge")
    assert a.line is not None
    w.say(DEADLINE)
    w.go(a)
    assert w.go(a) == "append failed"
    end(w, "task.failed")


def test_a_deadline_right_before_a_pause_keeps_the_turn() -> None:
    w = world("long", deadline=True, retry="pause")
    a = w.take(1)
    w.to(a, "s1 returns")
    w.go(a, "fail")
    w.say(DEADLINE)
    w.go(a)
    assert w.go(a) == "append failed"
    end(w, "task.failed")


@pytest.mark.parametrize(
    ("wake", "ended"),
    [(e.CancelRequested(), "task.canceled"), (e.Unparked(), END), (DEADLINE, "task.failed")],
)
def test_a_parked_task_is_woken_once(wake: e.TaskEvent, ended: str) -> None:
    w = world("long", deadline=True)
    w.crash(w.take(1))
    a = w.take(1)
    w.to(a, "s1 returns")
    w.go(a, "diverge")
    w.to(a, "ack")
    w.go(a)
    assert w.log.story.parked
    w.say(wake) if wake is DEADLINE else w.order(wake)
    assert w.log.task.turn is not None
    assert w.log.task.turn.delivery_position == w.log.task.position
    end(w, ended)


def test_what_a_cancel_meets_is_undone_even_if_its_step_was_not_recorded() -> None:
    w = world("undo")
    a = w.take(1)
    w.to(a, "append step_recorded")
    w.order(e.CancelRequested())
    runs = end(w, "task.canceled")
    assert runs == {"s1": 1, "u1": 1}


def test_a_report_to_the_former_owner_is_told_to_the_new_one() -> None:
    w = world("relay", deadline=True)
    a = w.take(1)
    w.to(a, "append handed_off")
    lines = w.inform(DEADLINE)
    next(lines)
    w.go(a)
    for _ in lines:
        pass
    fired = [r.envelope.to for r in w.log.records if r.envelope and r.envelope.event == DEADLINE]
    assert fired == ["planner", "writer"]
    end(w, "task.failed")


def test_the_oracle_can_tell() -> None:
    w = world("gather")
    a = w.take(1)
    w.to(a, "run s1")
    assert a.grip is not None
    with pytest.raises(Wrong, match="P1"):
        w.log.ack(a.grip)
    w.log.run("s1", w.log.story)
    with pytest.raises(Wrong, match="P6"):
        w.go(a)
