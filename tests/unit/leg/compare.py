"""What the fold and the story must agree on, as both can say it."""

from typing import NamedTuple

from mesh.core.leg import Leg
from mesh.core.task import Task
from tests.unit.leg.story import Story, Thing

__all__ = ["Seen", "as_folded", "as_told"]


class Seen(NamedTuple):
    """A task at one position; `open` is what its leg has asked for and has not got."""

    carrier: int | None
    claimed: bool
    owner: str
    ended: bool
    canceled: bool
    overdue: bool
    suspended: bool
    parked: bool
    open: set[Thing]


def as_folded(task: Task) -> Seen:
    """As `mesh.core.fold` sees it."""
    leg = task.leg or Leg(opened_id="", opened_position=0)
    return Seen(
        carrier=task.turn.delivery_position if task.turn else None,
        claimed=bool(task.turn and task.turn.claim_id),
        owner=task.owner,
        ended=task.closed,
        canceled=task.cancel_requested,
        overdue=task.overdue,
        suspended=leg.suspended,
        parked=leg.parked is not None,
        open={
            *(("child", child.id) for child in leg.children),
            *(("timer", timer.id) for timer in leg.timers),
            *(("input", question.id) for question in leg.questions),
            *(("undo", undo.name) for undo in leg.undos),
        },
    )


def as_told(story: Story) -> Seen:
    """As the story tells it."""
    return Seen(
        carrier=story.carrier,
        claimed=story.claim is not None,
        owner=story.owner,
        ended=bool(story.ended),
        canceled=story.canceled,
        overdue=story.overdue,
        suspended=story.groups is not None,
        parked=story.parked,
        open=set() if story.ended and not story.dead else story.open,
    )
