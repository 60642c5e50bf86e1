"""The relay envelope: what every event carries, and what the log keeps of it.

Source: `envelope.proto`; design, section 2.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from mesh.core.event import TaskEvent
from mesh.core.subject import LOG, Subject

__all__ = ["DEFAULT_MAX_HOPS", "SPEC_VERSION", "Envelope", "Record", "Sender", "TraceContext"]

SPEC_VERSION = "1.0"
"""Major and minor version of the envelope; another major is unreadable, another minor is not."""
DEFAULT_MAX_HOPS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """Who wrote an event: the agent's name (or `gateway`, `ledger`) and the process."""

    agent: str
    instance: str = ""
    behaviour_version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceContext:
    """W3C trace context of the span that sent the event; `mode` is continue, linked or auto."""

    traceparent: str = ""
    tracestate: str = ""
    baggage: str = ""
    mode: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """One event, before and after it is stored.

    `to` is an agent's name or `log`; `attempt` and `started_at` say which run of a handler wrote
    it (0 and None where none did); `hop` counts hand-offs so far, 0-based. `source` holds the
    bytes it was decoded from, so that fields of a newer version survive being encoded again.
    """

    event_id: str
    tenant: str
    task_id: str
    root_task_id: str
    sender: Sender
    occurred_at: datetime
    event: TaskEvent
    to: str = LOG
    spec_version: str = SPEC_VERSION
    parent_task_id: str = ""
    correlation_id: str = ""
    causation_id: str = ""
    attempt: int = 0
    hop: int = 0
    max_hops: int = DEFAULT_MAX_HOPS
    priority: int = 0
    started_at: datetime | None = None
    deadline: datetime | None = None
    trace: TraceContext = TraceContext()
    forked_from: str = ""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    source: bytes = field(default=b"", compare=False, repr=False)

    @property
    def kind(self) -> str:
        """Wire name of the event's kind, e.g. `task.handed_off`."""
        return self.event.kind

    def subject(self, shard: str) -> Subject:
        """Where this event goes in the given shard."""
        return Subject(
            self.tenant, shard, self.to, self.task_id, self.event.event_class, self.sender.agent
        )

    def next(
        self, event: TaskEvent, *, event_id: str, sender: Sender, occurred_at: datetime
    ) -> "Envelope":
        """An event of the same task that this one caused.

        What belongs to the whole task goes on, unknown fields too; what belongs to one event does
        not: it is addressed to nobody and belongs to no attempt until the caller says so.
        """
        return replace(
            self,
            event=event,
            event_id=event_id,
            causation_id=self.event_id,
            sender=sender,
            occurred_at=occurred_at,
            to=LOG,
            attempt=0,
            started_at=None,
            forked_from="",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One stored message of the log: a position, the broker's time, the bytes, and their meaning.

    `envelope` is None when the bytes are no envelope this version reads, or do not agree with
    the subject they stand on; `fault` then says why. Such a record counts for the fence and
    folds to nothing.
    """

    position: int
    stored_at: datetime
    subject: str
    raw: bytes = field(repr=False)
    envelope: Envelope | None = None
    fault: str = ""
