from dataclasses import replace

import pytest

from mesh.core import event as e
from mesh.core.carrier import Hold, Next, opens_turn, reread, turn_over
from mesh.core.envelope import Envelope, Record
from mesh.core.fold import fold
from tests.make import FAILURE, TEXT, envelope, record, records, submitted

CLAIM = envelope(e.WorkStarted(), sender="planner", event_id="c" * 32, instance="me")
OTHERS = envelope(e.WorkStarted(), sender="planner", event_id="d" * 32, instance="other")
CANCEL = envelope(e.CancelRequested())
HANDOFF = envelope(e.HandedOff(input=TEXT), to="reader", sender="planner")
FAILED = envelope(e.AttemptFailed(failure=FAILURE), sender="planner", instance="me")


def head(*after: Envelope) -> list[Record]:
    return records(submitted(), *after)


def answer(history: list[Record], *, claims: tuple[str, ...] = (), stored: bool = False) -> Next:
    hold = Hold(position=1, instance="me", redelivered=True, claims=frozenset(claims))
    attempted = envelope(e.Noted(), sender="planner", event_id="e" * 32, instance="me")
    last = [record(len(history) + 1, attempted)] if stored else []
    return reread(hold, [*history, *last], [attempted])[1]


def test_a_delivery_opens_a_turn_by_its_own_position_never_by_the_head() -> None:
    history = records(submitted(), CLAIM, HANDOFF)
    assert opens_turn(fold(history[:1]), 1)
    assert not opens_turn(fold(history[:2]), 2)
    assert opens_turn(fold(history), 3)
    assert turn_over(fold(history), 1)


@pytest.mark.parametrize(
    ("task", "claims", "stored", "expected"),
    [
        (head(HANDOFF), (), False, Next.ACK),
        (head(envelope(e.Completed())), (), True, Next.ACK),
        (head(CANCEL, envelope(e.Canceled())), (), False, Next.ACK),
        (head(OTHERS), (), False, Next.DROP),
        (head(OTHERS, CANCEL), (), False, Next.DROP),
        (head(CLAIM, OTHERS), ("c" * 32,), True, Next.DROP),
        (head(CANCEL), (), False, Next.WIND_UP),
        (head(CLAIM, CANCEL), ("c" * 32,), True, Next.WIND_UP),
        (head(CLAIM), ("c" * 32,), True, Next.GO_ON),
        (head(CLAIM), ("c" * 32,), False, Next.AGAIN),
        (head(), (), False, Next.AGAIN),
    ],
)
def test_the_order_after_a_refusal(
    task: list[Record], claims: tuple[str, ...], stored: bool, expected: Next
) -> None:
    assert answer(task, claims=claims, stored=stored) is expected


def test_a_claim_of_the_same_id_by_another_instance_is_not_mine() -> None:
    stolen = replace(CLAIM, sender=replace(CLAIM.sender, instance="other"))
    assert answer(head(stolen), claims=("c" * 32,)) is Next.DROP


def test_a_redriven_delivery_opens_a_new_turn() -> None:
    dead = envelope(e.DeadLettered(delivery_position=1, failure=FAILURE), sender="planner")
    history = records(submitted(), dead, envelope(e.Redriven(input=TEXT), to="planner"))
    assert opens_turn(fold(history), 3)
    assert turn_over(fold(history), 1)
