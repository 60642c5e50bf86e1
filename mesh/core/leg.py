"""Who carries a task: the rule of one carrier, without suspension.

A delivery's role follows from the log alone: fold up to the delivery's own position, never to the
head. What a worker does after a refused or unanswered append follows from the head.

Source: design, section 4; its explicit-state model.
"""

from collections.abc import Collection
from enum import Enum

from mesh.core.task import Task

__all__ = ["Next", "after_refusal", "opens_turn", "turn_over"]


class Next(Enum):
    """What the holder of a delivery does next."""

    ACK = "ack"
    """The turn is over in the log: nothing can change that."""
    DROP = "drop"
    """Somebody else claimed the turn: stop, neither ack nor nak."""
    WIND_UP = "wind up"
    """A cancel was requested: end the task as canceled."""
    GO_ON = "go on"
    """The append is stored, its answer was lost."""
    AGAIN = "again"
    """Nobody moved the turn: append the same result again."""


def opens_turn(at_delivery: Task, position: int) -> bool:
    """Whether the delivery at `position` opens a turn; `at_delivery` is folded up to it."""
    turn = at_delivery.turn
    return turn is not None and turn.delivery_position == position


def turn_over(head: Task, position: int) -> bool:
    """Whether the turn that the delivery at `position` opened has ended in the log."""
    return not opens_turn(head, position)


def after_refusal(
    head: Task, *, position: int, claims: Collection[str], instance: str, stored: bool
) -> Next:
    """Decide after a refused or unanswered append, in the only order that holds.

    Args:
        head: The task, read completely after the refusal.
        position: The delivery's own position.
        claims: Event ids of the claims this holder tried to store; empty if none.
        instance: This holder.
        stored: Whether the very events of the append (id and instance) are in the history.
    """
    turn = head.turn
    if turn is None or turn.delivery_position != position:
        return Next.ACK
    if turn.claim_id and (turn.claim_id not in claims or turn.claim_instance != instance):
        return Next.DROP
    if head.cancel_requested:
        return Next.WIND_UP
    return Next.GO_ON if stored else Next.AGAIN
