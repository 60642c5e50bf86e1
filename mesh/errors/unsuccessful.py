"""Work that ended without a result, told to whoever waits for it."""

from mesh.errors.base import MeshError, Verdict

__all__ = [
    "ChildFailed",
    "StepFailed",
    "TaskCanceled",
    "TaskFailed",
    "TaskRejected",
    "Unsuccessful",
]


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


class StepFailed(Unsuccessful):
    """A step used up its attempts; told to the handler that asked for it, which may catch it.

    `ordinal` is the step's place in the handler.
    """

    code = "step.failed"

    def __init__(
        self, task_id: str, *, name: str, ordinal: int, reason: str, failure_code: str
    ) -> None:
        super().__init__(task_id, state="WORKING", reason=reason, failure_code=failure_code)
        self.args = (f"step `{name}` failed: {reason}",)
        self.name, self.ordinal = name, ordinal


class ChildFailed(Unsuccessful):
    """A delegated task ended without a result; told to the handler that waits, which may catch it.

    `task_id` is the child's.
    """

    code = "task.child_failed"
