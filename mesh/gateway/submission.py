"""What a submit asks for, and when two of them are the same.

Source: `gateway.proto`, SubmitTaskRequest; design, section 3.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256

from mesh.core.envelope import DEFAULT_MAX_HOPS, TraceContext
from mesh.core.payload import Payload
from mesh.core.subject import check_name
from mesh.core.task import Task
from mesh.errors import Invalid

__all__ = ["Submission", "Submitted", "check_budget", "check_sizes", "first_agent", "same_input"]

_COUNTERS = 64
_LABELS_BYTES, _OBJECTIVE_BYTES, _KEY_BYTES = 16 * 1024, 32 * 1024, 512
"""What goes with every event, or into every packet, must leave the log room for the event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A new task, as a caller asks for it.

    `key` makes it repeatable by anyone who knows the key; `request_id` only by the caller, over
    the retries of one request. `max_hops` 0 is the default. `budget` limits what it and all that
    it delegates may spend, by counter, >= 0.
    """

    agent: str
    input: Payload | None = None
    key: str = ""
    request_id: str = ""
    deadline: datetime | None = None
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    objective: str = ""
    priority: int = 0
    max_hops: int = DEFAULT_MAX_HOPS
    correlation_id: str = ""
    budget: Mapping[str, int] = field(default_factory=dict[str, int])
    trace: TraceContext = field(default_factory=TraceContext)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """What became of it; `duplicate` when the task was there already."""

    task: Task
    shard: str
    warnings: tuple[str, ...] = ()
    duplicate: bool = False


def check_budget(budget: Mapping[str, int]) -> None:
    """Refuse counters that none can be.

    Raises:
        NameInvalid: A name does not match `[a-z][a-z0-9-]{0,62}`.
        Invalid: A limit is below 0, or there are too many.
    """
    if len(budget) > _COUNTERS:
        raise Invalid(f"budget has {len(budget)} counters, at most {_COUNTERS}")
    for counter, limit in budget.items():
        if check_name(counter) and limit < 0:
            raise Invalid(f"budget of `{counter}` is {limit}; it must be 0 or more")


def check_sizes(submission: Submission) -> None:
    """Refuse what is not an input and yet large.

    Raises:
        Invalid: The text names what, its size and its limit.
    """
    labels = sum(len(f"{name}{value}".encode()) for name, value in submission.labels.items())
    for what, size, limit in (
        ("labels", labels, _LABELS_BYTES),
        ("objective", len(submission.objective.encode()), _OBJECTIVE_BYTES),
        ("idempotency_key", len(submission.key.encode()), _KEY_BYTES),
        ("correlation_id", len(submission.correlation_id.encode()), _KEY_BYTES),
    ):
        if size > limit:
            raise Invalid(f"{what} of {size} bytes, at most {limit}; large data is an input")


def first_agent(task: Task) -> str:
    """The agent that a task was submitted to."""
    return task.handoffs[0].source if task.handoffs else task.owner


def same_input(one: Payload | None, other: Payload | None) -> bool:
    """Whether two payloads are the same, in place or claim-checked: type, schema and bytes."""
    a, b = one or Payload(), other or Payload()
    return (a.content_type, a.schema) == (b.content_type, b.schema) and _hash(a) == _hash(b)


def _hash(payload: Payload) -> str:
    return payload.blob.sha256 if payload.blob else sha256(payload.data).hexdigest()
