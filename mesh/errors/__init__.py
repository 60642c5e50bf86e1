"""Every exception of the mesh.

    MeshError
    ├── Invalid        NEVER    EnvelopeInvalid · PayloadInvalid · PayloadTooLarge · NameInvalid
    │                           HandlerInvalid · AnswerInvalid
    ├── Refused        NEVER    TaskClosed · TaskUnknown · AgentUnknown · NotDeadLettered
    │                           NotParked · QuestionClosed · KeyConflict
    │                           guards: HopLimit · SwapLimit · DepthLimit · DelegationCycle
    │                           BudgetExceeded
    ├── Contested      RELOAD   Fenced · Unresolved
    ├── Unavailable    BACKOFF  LogFull · Retryable (raised by a handler)
    ├── Fatal          NEVER    (raised by a handler: no further attempt can help)
    ├── Unsuccessful   NEVER    TaskFailed · TaskRejected · TaskCanceled (told to who waits for a
    │                           result) · StepFailed · ChildFailed (told to a handler)
    └── Halted         HALT     HistoryCorrupt · CheckpointConflict · StreamDrifted · StoreLocked
                                ConfigError

The verdict says what to do with the message that caused the error; `code` crosses processes and
never changes.
"""

from mesh.errors.base import (
    AnswerInvalid,
    CheckpointConflict,
    ConfigError,
    Contested,
    EnvelopeInvalid,
    Fatal,
    Fenced,
    Halted,
    HandlerInvalid,
    HistoryCorrupt,
    Invalid,
    LogFull,
    MeshError,
    NameInvalid,
    PayloadInvalid,
    PayloadTooLarge,
    Retryable,
    StoreLocked,
    StreamDrifted,
    Unavailable,
    Unresolved,
    Verdict,
)
from mesh.errors.refused import (
    AgentUnknown,
    BudgetExceeded,
    DelegationCycle,
    DepthLimit,
    HopLimit,
    KeyConflict,
    NotDeadLettered,
    NotParked,
    QuestionClosed,
    Refused,
    SwapLimit,
    TaskClosed,
    TaskUnknown,
)
from mesh.errors.unsuccessful import (
    ChildFailed,
    StepFailed,
    TaskCanceled,
    TaskFailed,
    TaskRejected,
    Unsuccessful,
)

__all__ = [
    "AgentUnknown",
    "AnswerInvalid",
    "BudgetExceeded",
    "CheckpointConflict",
    "ChildFailed",
    "ConfigError",
    "Contested",
    "DelegationCycle",
    "DepthLimit",
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
    "NotParked",
    "PayloadInvalid",
    "PayloadTooLarge",
    "QuestionClosed",
    "Refused",
    "Retryable",
    "StepFailed",
    "StoreLocked",
    "StreamDrifted",
    "SwapLimit",
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
