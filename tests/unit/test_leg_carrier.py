from mesh.core import event as e
from mesh.core.carrier import Hold, Next, reread, tried
from mesh.core.fold import fold
from tests.make import envelope, record, records, submitted

CLAIM = envelope(e.WorkStarted(), sender="planner", event_id="c" * 32, instance="me")
STEP = envelope(e.StepRecorded(name="s"), sender="planner", event_id="e" * 32, instance="me")


def test_an_append_whose_ids_are_taken_in_part_is_dropped_not_repeated_for_ever() -> None:
    released = envelope(e.WorkReleased(reason="drain"), sender="planner", instance="me")
    history = records(submitted(), CLAIM, released)
    # The count of deliveries was lost, so it came to the same process as if it were new.
    start = fold(history[:1])
    hold = Hold(position=1, instance="me", redelivered=False, base=start, task=start)
    hold = tried(hold, [CLAIM, STEP])
    assert reread(hold, history[1:], [CLAIM, STEP]) == (hold, Next.DROP)
    cancelled = [*history[1:], record(4, envelope(e.CancelRequested()))]
    assert reread(hold, cancelled, [CLAIM, STEP])[1] is Next.DROP
