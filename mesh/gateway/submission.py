"""What a submit asks for, and when two of them are the same.

Source: `gateway.proto`, SubmitTaskRequest; design, section 3.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256

from mesh.core.envelope import DEFAULT_MAX_HOPS, TraceContext
from mesh.core.payload import Payload
from mesh.core.task import Task

__all__ = ["Submission", "Submitted", "first_agent", "same_input"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A new task, as a caller asks for it.

    `key` makes it repeatable by anyone who knows the key; `request_id` only by the caller, over
    the retries of one request. `max_hops` 0 is the default.
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
    trace: TraceContext = field(default_factory=TraceContext)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """What became of it; `duplicate` when the task was there already."""

    task: Task
    shard: str
    warnings: tuple[str, ...] = ()
    duplicate: bool = False


def first_agent(task: Task) -> str:
    """The agent that a task was submitted to."""
    return task.handoffs[0].source if task.handoffs else task.owner


def same_input(one: Payload | None, other: Payload | None) -> bool:
    """Whether two payloads are the same, in place or claim-checked: type, schema and bytes."""
    a, b = one or Payload(), other or Payload()
    return (a.content_type, a.schema) == (b.content_type, b.schema) and _hash(a) == _hash(b)


def _hash(payload: Payload) -> str:
    return payload.blob.sha256 if payload.blob else sha256(payload.data).hexdigest()
