"""The base of all errors, and those of no larger group."""

from enum import Enum
from typing import ClassVar

__all__ = [
    "AnswerInvalid",
    "CheckpointConflict",
    "ConfigError",
    "Contested",
    "EnvelopeInvalid",
    "Fatal",
    "Fenced",
    "Halted",
    "HandlerInvalid",
    "HistoryCorrupt",
    "Invalid",
    "LogFull",
    "MeshError",
    "NameInvalid",
    "PayloadInvalid",
    "PayloadTooLarge",
    "Retryable",
    "StoreLocked",
    "StreamDrifted",
    "Unavailable",
    "Unresolved",
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


class AnswerInvalid(Invalid):
    """An answer does not fit what the question asks for; the question stays open."""

    code = "task.answer_invalid"

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


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
