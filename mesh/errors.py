"""Every exception of the mesh.

    MeshError
    ├── Invalid        NEVER    EnvelopeInvalid · PayloadInvalid · PayloadTooLarge · NameInvalid
    │                           HandlerInvalid
    ├── Refused        NEVER    TaskClosed · TaskUnknown · AgentUnknown · NotDeadLettered
    │                           HopLimit · KeyConflict
    ├── Contested      RELOAD   Fenced · Unresolved
    ├── Unavailable    BACKOFF  LogFull · Retryable (raised by a handler)
    ├── Fatal          NEVER    (raised by a handler: no further attempt can help)
    ├── Unsuccessful   NEVER    TaskFailed · TaskRejected · TaskCanceled (told to who waits for a
    │                           result)
    └── Halted         HALT     HistoryCorrupt · CheckpointConflict · StreamDrifted · StoreLocked
                                ConfigError

The verdict says what to do with the message that caused the error; `code` crosses processes and
never changes.
"""

from enum import Enum
from typing import ClassVar

__all__ = [
    "AgentUnknown",
    "CheckpointConflict",
    "ConfigError",
    "Contested",
    "EnvelopeInvalid",
    "Fatal",
    "Fenced",
    "Halted",
    "HandlerInvalid",
    "HistoryCorrupt",
    "HopLimit",
    "Invalid",
    "KeyConflict",
    "LogFull",
    "MeshError",
    "NameInvalid",
    "NotDeadLettered",
    "PayloadInvalid",
    "PayloadTooLarge",
    "Refused",
    "Retryable",
    "StoreLocked",
    "StreamDrifted",
    "TaskCanceled",
    "TaskClosed",
    "TaskFailed",
    "TaskRejected",
    "TaskUnknown",
    "Unavailable",
    "Unresolved",
    "Unsuccessful",
    "Verdict",
]


class Verdict(Enum):
    """What to do with the message that caused an error."""

    NEVER = "never"
    """It can never succeed: record the outcome, then ack."""
    RELOAD = "reload"
    """Read the task again, then decide; never a bare nak."""
    BACKOFF = "backoff"
    """Try again later."""
    HALT = "halt"
    """Stop: going on could lose or corrupt something."""


class MeshError(Exception):
    """Base of all; `code` and `verdict` are fixed per class, the text is for people."""

    code: ClassVar[str] = "mesh.error"
    verdict: ClassVar[Verdict] = Verdict.HALT

    def details(self) -> dict[str, str]:
        """The error's own fields as text, to cross a process boundary."""
        return {name: str(value) for name, value in vars(self).items() if value is not None}


class Invalid(MeshError):
    """Something a caller gave is not well formed."""

    code = "mesh.invalid"
    verdict = Verdict.NEVER


class EnvelopeInvalid(Invalid):
    """The bytes of a message are no envelope this version can read."""

    code = "wire.envelope_invalid"


class PayloadInvalid(Invalid):
    """A payload does not fit the type that the handler declares."""

    code = "agent.payload_invalid"

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class PayloadTooLarge(Invalid):
    """A payload is larger than the mesh carries."""

    code = "blob.payload_too_large"

    def __init__(self, *, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"payload of {size_bytes} bytes is over the limit of {limit_bytes} bytes;"
            " store it elsewhere and pass a reference"
        )
        self.size_bytes, self.limit_bytes = size_bytes, limit_bytes


class NameInvalid(Invalid):
    """A tenant, agent or task name cannot stand in a subject."""

    code = "core.name_invalid"


class HandlerInvalid(Invalid):
    """A handler's signature is not one the runtime can call."""

    code = "agent.handler_invalid"


class Refused(MeshError):
    """The request is well formed, but the state forbids it."""

    code = "mesh.refused"
    verdict = Verdict.NEVER


class TaskClosed(Refused):
    """The task has an outcome already."""

    code = "task.closed"

    def __init__(self, task_id: str, *, state: str) -> None:
        super().__init__(f"task `{task_id}` is already {state}")
        self.task_id, self.state = task_id, state


class TaskUnknown(Refused):
    """No history has this task."""

    code = "task.unknown"

    def __init__(self, task_id: str) -> None:
        super().__init__(f"task `{task_id}` does not exist; `mesh task list` shows those that do")
        self.task_id = task_id


class AgentUnknown(Refused):
    """No agent of this name was ever registered."""

    code = "agent.unknown"

    def __init__(self, agent: str) -> None:
        super().__init__(
            f"agent `{agent}` was never registered; `mesh agents list` shows those that were"
        )
        self.agent = agent


class NotDeadLettered(Refused):
    """Only a dead-lettered task can be redriven."""

    code = "task.not_dead_lettered"

    def __init__(self, task_id: str, *, state: str) -> None:
        super().__init__(f"task `{task_id}` is {state}, not dead-lettered: nothing to redrive")
        self.task_id, self.state = task_id, state


class HopLimit(Refused):
    """A task was handed off as often as it may be."""

    code = "guard.max_hops"

    def __init__(self, task_id: str, *, hops: int, max_hops: int) -> None:
        super().__init__(f"task `{task_id}` made {hops} hops of at most {max_hops}")
        self.task_id, self.hops, self.max_hops = task_id, hops, max_hops


class KeyConflict(Refused):
    """An idempotency key came again with another request."""

    code = "task.key_conflict"

    def __init__(self, key: str, *, task_id: str) -> None:
        super().__init__(
            f"idempotency key `{key}` belongs to task `{task_id}`, submitted with another"
            " agent or payload; use a new key for a new task"
        )
        self.key, self.task_id = key, task_id


class Contested(MeshError):
    """The log decides, not the caller: read the task again."""

    code = "bus.contested"
    verdict = Verdict.RELOAD


class Fenced(Contested):
    """Another writer moved the task first; nothing was written."""

    code = "bus.fenced"

    def __init__(self, task_id: str, *, expected: int, actual: int | None = None) -> None:
        found = "another" if actual is None else str(actual)
        super().__init__(f"task `{task_id}`: expected position {expected}, found {found}")
        self.task_id, self.expected, self.actual = task_id, expected, actual


class Unresolved(Contested):
    """A write got no answer: it may be stored or not, only a read tells."""

    code = "bus.unresolved"


class Unavailable(MeshError):
    """A part of the mesh does not answer now; nothing was written."""

    code = "mesh.unavailable"
    verdict = Verdict.BACKOFF


class LogFull(Unavailable):
    """The log refuses new events until something is trimmed."""

    code = "bus.log_full"


class Retryable(Unavailable):
    """Raised by a handler: try again, `after` seconds from now if given."""

    code = "agent.retryable"

    def __init__(self, message: str = "", *, after: float | None = None) -> None:
        super().__init__(message or "asked to be retried")
        self.after = after


class Fatal(MeshError):
    """Raised by a handler: no further attempt can help."""

    code = "agent.fatal"
    verdict = Verdict.NEVER


class Unsuccessful(MeshError):
    """A task ended without a result; `reason` is for people, `failure_code` for programs."""

    code = "task.unsuccessful"
    verdict = Verdict.NEVER

    def __init__(
        self, task_id: str, *, state: str, reason: str = "", failure_code: str = ""
    ) -> None:
        said = f": {reason}" if reason else ""
        super().__init__(f"task `{task_id}` is {state}{said}")
        self.task_id, self.state = task_id, state
        self.reason, self.failure_code = reason, failure_code


class TaskFailed(Unsuccessful):
    """The task failed, or was dead-lettered."""

    code = "task.failed"


class TaskRejected(Unsuccessful):
    """An agent would not take the task."""

    code = "task.rejected"


class TaskCanceled(Unsuccessful):
    """The task was cancelled."""

    code = "task.canceled"


class Halted(MeshError):
    """Going on would lose or corrupt something."""

    code = "mesh.halted"
    verdict = Verdict.HALT


class HistoryCorrupt(Halted):
    """Log and store disagree, or one of them was altered."""

    code = "ledger.history_corrupt"


class CheckpointConflict(Halted):
    """Another ledger advanced the checkpoint: only one may write."""

    code = "store.checkpoint_conflict"

    def __init__(self, shard: str, *, expected: int, actual: int) -> None:
        super().__init__(
            f"shard `{shard}`: checkpoint is {actual}, this ledger expected {expected};"
            " another ledger writes to this store"
        )
        self.shard, self.expected, self.actual = shard, expected, actual


class StreamDrifted(Halted):
    """A stream or consumer exists with settings the mesh cannot work with."""

    code = "bus.stream_drifted"


class StoreLocked(Halted):
    """Another process has the store open."""

    code = "store.locked"


class ConfigError(Halted):
    """A setting or the manifest is wrong; the text names file, key and line."""

    code = "config.invalid"
