"""Who carries a turn: the rule of one carrier, as a state machine without IO.

A delivery's role follows from the log alone: fold up to the delivery's own position, never to the
head. What its holder may do after that follows from the head. Every function takes what a holder
knew and what it has read, and gives what it knows then and what it does next.

Source: design, section 4; its explicit-state model.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from mesh.core import event as e
from mesh.core.envelope import Envelope, Record
from mesh.core.fold import evolve, fold
from mesh.core.task import EMPTY, Task

__all__ = [
    "Hold",
    "Next",
    "Roles",
    "Rule",
    "caught_up",
    "follow",
    "opens_turn",
    "reclaimed",
    "reread",
    "taken",
    "tried",
    "turn_over",
    "wrote",
]


class Next(Enum):
    """What the holder of a delivery does next."""

    ACK = "ack"
    """It opened no turn, or its turn is over in the log: nothing can change that."""
    DROP = "drop"
    """Somebody else claimed the turn, or may: stop, neither ack nor nak."""
    WIND_UP = "wind up"
    """A cancel was requested: end the task as canceled."""
    GO_ON = "go on"
    """The append is stored, its answer was lost."""
    AGAIN = "again"
    """It carries the turn; what it wanted to append is not stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """What the holder of one delivery knows.

    Attributes:
        position: The delivery's own place in the log.
        instance: This holder.
        redelivered: Whether somebody may have held the delivery before.
        base: The task, folded from everything up to `base.position`.
        task: `base` and what this holder has appended since: what the next append is fenced on.
        claims: Event ids of the claims it tried to store. One whose answer was lost is its own too.
    """

    position: int
    instance: str
    redelivered: bool
    base: Task = EMPTY
    task: Task = EMPTY
    claims: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """Which deliveries of a task open turns, as far as its history was read.

    A role never changes, so what stands here needs no second look.
    """

    task: Task = EMPTY
    openers: frozenset[int] = frozenset()

    def known(self, position: int) -> bool | None:
        """Whether the delivery at a position opened a turn; None if that was not read."""
        return position in self.openers if position <= self.task.position else None


Rule = Callable[[Hold, Sequence[Record], Sequence[Envelope]], tuple[Hold, Next]]
"""What follows from a read of the head: `reread` or `reclaimed`."""


def follow(roles: Roles, records: Iterable[Record]) -> Roles:
    """The roles after more of the history, without a gap."""
    task, openers = roles.task, set(roles.openers)
    for record in records:
        task = evolve(task, record)
        if opens_turn(task, record.position):
            openers.add(record.position)
    return Roles(task=task, openers=frozenset(openers))


def opens_turn(at_delivery: Task, position: int) -> bool:
    """Whether the delivery at `position` opens a turn; `at_delivery` is folded up to it."""
    turn = at_delivery.turn
    return turn is not None and turn.delivery_position == position


def turn_over(head: Task, position: int) -> bool:
    """Whether the turn that the delivery at `position` opened has ended in the log."""
    return not opens_turn(head, position)


def taken(hold: Hold, records: Sequence[Record], *, lease_valid: bool) -> tuple[Hold, Next]:
    """Find the delivery's role, and whether this holder may carry the turn.

    Args:
        hold: Nothing read so far.
        records: The task's history, complete from its beginning to some head.
        lease_valid: By the holder's own clock; without it, it must not claim.

    Returns:
        ACK, DROP, WIND_UP, or AGAIN if it carries the turn. A redelivery must claim before it does
        anything else.
    """
    own = [record for record in records if record.position <= hold.position]
    at_delivery = fold(own)
    if not opens_turn(at_delivery, hold.position):
        return hold, Next.ACK
    head = fold(records[len(own) :], at_delivery)
    turn = head.turn
    if turn is None or turn_over(head, hold.position):
        return hold, Next.ACK
    hold = replace(hold, base=head, task=head)
    if not lease_valid or (turn.claim_id and not hold.redelivered):
        return hold, Next.DROP
    return hold, Next.WIND_UP if head.cancel_requested else Next.AGAIN


def tried(hold: Hold, envelopes: Iterable[Envelope]) -> Hold:
    """Remember which claims an append tries to store, before it is sent."""
    claims = {v.event_id for v in envelopes if isinstance(v.event, e.WorkStarted | e.Resumed)}
    return replace(hold, claims=hold.claims | claims)


def wrote(hold: Hold, records: Iterable[Record]) -> Hold:
    """After an append was stored: its own events, at their positions."""
    return replace(hold, task=fold(records, hold.task))


def caught_up(hold: Hold, records: Sequence[Record]) -> tuple[Hold, Next]:
    """After a read up to the last own append, no further: what informed the task meanwhile.

    Args:
        hold: After `wrote`.
        records: Everything above `hold.base.position` up to that append.

    Returns:
        GO_ON, or ACK if that append ended the turn.
    """
    head = fold(records, hold.base)
    hold = replace(hold, base=head, task=head)
    return hold, Next.ACK if turn_over(head, hold.position) else Next.GO_ON


def reread(
    hold: Hold, records: Sequence[Record], attempted: Sequence[Envelope]
) -> tuple[Hold, Next]:
    """After a refused or unanswered append, or a look: decide in the only order that holds.

    The head becomes what later appends are fenced on only while this holder carries the turn:
    knowing what another one wrote must never let a former carrier write after it.

    Ids of events say what their writer had read. If some of them are taken and not by this append,
    as after a delivery that comes to the same process as if it were new, it can never be stored:
    it is dropped, and comes again with a read before it.

    Args:
        hold: What it knew.
        records: Everything above `hold.base.position` to the head.
        attempted: The events of the append, as they were sent; empty after a mere look.

    Returns:
        ACK, DROP, WIND_UP, GO_ON if the very events (id and instance) are in the history, or AGAIN.
    """
    head = fold(records, hold.base)
    turn = head.turn
    if turn is None or turn_over(head, hold.position):
        return hold, Next.ACK
    if turn.claim_id and (turn.claim_id not in hold.claims or turn.claim_instance != hold.instance):
        return hold, Next.DROP
    stored = _stand(attempted, records)
    if not stored and _taken_ids(attempted, records):
        return hold, Next.DROP
    hold = replace(hold, base=head, task=head)
    if head.cancel_requested:
        return hold, Next.WIND_UP
    return hold, Next.GO_ON if stored else Next.AGAIN


def reclaimed(
    hold: Hold, records: Sequence[Record], attempted: Sequence[Envelope]
) -> tuple[Hold, Next]:
    """After a refused or unanswered claim of a redelivery: as `reread`, but it is not tried again.

    Whoever moved the task may have claimed the turn for itself.

    Returns:
        ACK; GO_ON or WIND_UP if the claim is stored after all; otherwise DROP.
    """
    after, verdict = reread(hold, records, attempted)
    if verdict is Next.ACK or _stand(attempted, records):
        return after, verdict
    return hold, Next.DROP


def _stand(attempted: Iterable[Envelope], records: Iterable[Record]) -> bool:
    there = {
        (r.envelope.event_id, r.envelope.sender.instance) for r in records if r.envelope is not None
    }
    return all((v.event_id, v.sender.instance) in there for v in attempted)


def _taken_ids(attempted: Iterable[Envelope], records: Iterable[Record]) -> bool:
    there = {r.envelope.event_id for r in records if r.envelope is not None}
    return any(v.event_id in there for v in attempted)
