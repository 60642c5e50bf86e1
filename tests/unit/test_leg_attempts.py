import pytest

from mesh.core import event as e
from tests.unit.leg.play import end, world, written

C1 = e.ChildFinished(child_task_id="c1")


@pytest.mark.parametrize("retry", ["nak", "pause"])
def test_a_step_that_always_fails_is_a_dead_letter_at_the_limit(retry: str) -> None:
    w = world("long", retry=retry, limit=3)
    for attempt in (1, 2, 3):
        if not w.waiting():
            w.say(
                e.TimerFired(
                    timer_id=next(iter(w.log.task.leg.timers)).id if w.log.task.leg else ""
                )
            )
        a = w.take(w.waiting()[-1].record.position)
        w.to(a, "s1 returns")
        w.go(a, "fail")
        while a.lines is not None:
            w.go(a)
        assert w.log.runs["0/s1"] == attempt
    (dead,) = written(w, e.DeadLettered)
    assert isinstance(dead, e.DeadLettered)
    assert dead.attempts == 3
    assert end(w) == {"s1": 4, "s2": 1, "s3": 1}


@pytest.mark.parametrize("claims", ["", "claim"])
def test_a_process_that_dies_with_each_attempt_ends_as_a_dead_letter(claims: str) -> None:
    w = world("long", limit=3)
    runs = 3 if claims else 4  # an unclaimed run leaves no trace
    for run in range(runs):
        a = w.take(1)
        w.to(a, "s1 returns")
        if claims and run == 0:
            w.go(a, claims)
            w.to(a, "s1 returns")
        w.crash(a)
    w.to(w.take(1), "append dead_lettered")
    assert end(w)["s1"] == runs + 1


def test_a_redrive_uses_what_was_recorded_and_what_came_meanwhile() -> None:
    w = world("undo", limit=2)
    a = w.take(1)
    w.to(a, "append suspended")
    w.crash(a)
    for _ in range(2):
        a = w.take(1)
        w.to(a, "append")
        w.go(a)
        w.to(a, "append suspended")
        w.crash(a)
    a = w.take(1)
    w.to(a, "append dead_lettered")
    while a.lines is not None:
        w.go(a)
    w.say(C1)
    assert w.log.story.dead
    runs = end(w, "task.failed")
    assert runs == {"s1": 1, "s2": 1, "s3": 1, "u2": 1, "u1": 1}
    assert len(written(w, e.Suspended)) == 0


def test_a_drained_claim_is_no_attempt() -> None:
    w = world("long", limit=2)
    for _ in range(4):
        a = w.take(1)
        w.to(a, "s1 returns")
        w.go(a, "claim")
        w.to(a, "s1 returns")
        w.go(a, "drain")
        while a.lines is not None:
            w.go(a)
        w.crash(a)
    assert written(w, e.DeadLettered) == []
    assert end(w)["s1"] == 5
    assert written(w, e.DeadLettered) == []
