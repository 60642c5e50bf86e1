"""A task: the state that its history folds to.

Source: design, sections 2 and 4; state names from A2A.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from mesh.core.envelope import DEFAULT_MAX_HOPS
from mesh.core.leg import Leg
from mesh.core.packet import Decision
from mesh.core.payload import Blob, Failure, Payload

__all__ = ["EMPTY", "DeadLetter", "Hop", "State", "Task", "Turn"]


class State(StrEnum):
    """Where a task stands; UNKNOWN before its submit was seen."""

    UNKNOWN = "UNKNOWN"
    SUBMITTED = "SUBMITTED"
    WORKING = "WORKING"
    INPUT_REQUIRED = "INPUT_REQUIRED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    REJECTED = "REJECTED"
    CANCELED = "CANCELED"


CLOSED = frozenset({State.COMPLETED, State.FAILED, State.REJECTED, State.CANCELED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """The stretch of work that one delivery carries.

    A claim is identified by its event id and the instance that wrote it; `attempts` counts claims
    and unclaimed failures since the last recorded progress.
    """

    delivery_id: str
    delivery_position: int
    claim_id: str = ""
    claim_instance: str = ""
    claim_open: bool = False
    attempts: int = 0
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One hand-off that happened."""

    source: str
    target: str
    position: int
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """The delivery that nobody could run, for the redrive."""

    delivery_id: str
    delivery_position: int
    agent: str
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Folded state of one task.

    `version` counts its records of both classes; `position` is the last one's place in the log,
    `moved` the last moving one's: what the next append is fenced on. `leg` is None while nothing
    was recorded in it, `turn` while nobody is to carry it. `spent` is what was used or is reserved
    for children, `swaps` how often in a row two agents handed it back without progress, `overdue`
    whether its deadline's timer fired.
    """

    tenant: str = ""
    task_id: str = ""
    root_task_id: str = ""
    parent_task_id: str = ""
    correlation_id: str = ""
    forked_from: str = ""
    state: State = State.UNKNOWN
    owner: str = ""
    version: int = 0
    position: int = 0
    moved: int = 0
    hops: int = 0
    max_hops: int = DEFAULT_MAX_HOPS
    priority: int = 0
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    submitted_by: str = ""
    submitted_at: datetime | None = None
    updated_at: datetime | None = None
    closed_at: datetime | None = None
    deadline: datetime | None = None
    cancel_requested: bool = False
    cancel_reason: str = ""
    input: Payload | None = None
    result: Payload | None = None
    failure: Failure | None = None
    objective: str = ""
    next_task: str = ""
    constraints: tuple[str, ...] = ()
    decisions: tuple[Decision, ...] = ()
    open_questions: tuple[str, ...] = ()
    do_not_redo: tuple[str, ...] = ()
    artifacts: tuple[Blob, ...] = ()
    handoffs: tuple[Hop, ...] = ()
    turn: Turn | None = None
    dead_letter: DeadLetter | None = None
    leg: Leg | None = None
    ancestors: tuple[str, ...] = ()
    budget: Mapping[str, int] = field(default_factory=dict[str, int])
    spent: Mapping[str, int] = field(default_factory=dict[str, int])
    swaps: int = 0
    overdue: bool = False

    @property
    def closed(self) -> bool:
        """Whether the task has an outcome."""
        return self.state in CLOSED


EMPTY = Task()
"""The state before any event."""
