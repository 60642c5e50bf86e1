from dataclasses import replace

import pytest

from mesh.core import event as e
from mesh.core.carrier import Hold, Next, Rule, reclaimed, reread, taken, tried
from mesh.core.envelope import Envelope
from mesh.core.fold import fold
from tests.make import envelope, record, records, submitted

CLAIM = envelope(e.WorkStarted(), sender="planner", event_id="c" * 32, instance="me")
OTHERS = envelope(e.WorkStarted(), sender="planner", event_id="d" * 32, instance="other")
STEP = envelope(e.StepRecorded(name="s"), sender="planner", event_id="e" * 32, instance="me")
CANCEL = envelope(e.CancelRequested())


def hold(*before: Envelope, redelivered: bool = True) -> Hold:
    """Of the submit, after a read of this."""
    task = fold(records(submitted(), *before))
    return Hold(position=1, instance="me", redelivered=redelivered, base=task, task=task)


def test_an_append_whose_ids_are_taken_in_part_is_dropped_not_repeated_for_ever() -> None:
    released = envelope(e.WorkReleased(reason="drain"), sender="planner", instance="me")
    history = records(submitted(), CLAIM, released)
    # The count of deliveries was lost, so it came to the same process as if it were new.
    mine = tried(hold(redelivered=False), [CLAIM, STEP])
    assert reread(mine, history[1:], [CLAIM, STEP]) == (mine, Next.DROP)
    canceled = [*history[1:], record(4, CANCEL)]
    assert reread(mine, canceled, [CLAIM, STEP])[1] is Next.DROP


def test_events_of_the_same_id_by_another_instance_are_not_mine() -> None:
    stolen = replace(STEP, sender=replace(STEP.sender, instance="other"))
    mine = tried(hold(CLAIM), [CLAIM])
    assert reread(mine, [record(3, STEP)], [STEP])[1] is Next.GO_ON
    assert reread(mine, [record(3, stolen)], [STEP]) == (mine, Next.DROP)


@pytest.mark.parametrize("rule", [reread, reclaimed])
@pytest.mark.parametrize("end", [OTHERS, envelope(e.Completed(), instance="other")])
def test_who_has_lost_the_turn_learns_nothing_that_it_could_write_after(
    rule: Rule, end: Envelope
) -> None:
    mine = tried(hold(CLAIM), [CLAIM])
    after, verdict = rule(mine, [record(3, end)], [STEP])
    assert after == mine
    assert verdict is (Next.DROP if end is OTHERS else Next.ACK)


@pytest.mark.parametrize("redelivered", [False, True])
def test_without_a_lease_nobody_takes_a_turn(redelivered: bool) -> None:
    new = Hold(position=1, instance="me", redelivered=redelivered)
    history = records(submitted())
    assert taken(new, history, lease_valid=False)[1] is Next.DROP
    assert taken(new, history, lease_valid=True)[1] is Next.AGAIN
    over = records(submitted(), envelope(e.Completed()))
    assert taken(new, over, lease_valid=False)[1] is Next.ACK


@pytest.mark.parametrize(("redelivered", "verdict"), [(False, Next.DROP), (True, Next.AGAIN)])
def test_only_a_redelivery_takes_over_a_claimed_turn(redelivered: bool, verdict: Next) -> None:
    new = Hold(position=1, instance="me", redelivered=redelivered)
    history = records(submitted(), OTHERS)
    assert taken(new, history, lease_valid=True)[1] is verdict


def test_the_role_is_of_the_own_position_and_the_rest_of_the_head() -> None:
    new = Hold(position=1, instance="me", redelivered=True)
    history = records(submitted(), OTHERS, CANCEL)
    after, verdict = taken(new, history, lease_valid=True)
    assert verdict is Next.WIND_UP
    assert after.base == after.task == fold(history)
    assert taken(replace(new, position=3), history, lease_valid=True)[1] is Next.ACK
