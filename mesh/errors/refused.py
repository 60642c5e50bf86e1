"""Well-formed requests that the state of a task forbids, guards among them."""

from mesh.errors.base import MeshError, Verdict

__all__ = [
    "AgentUnknown",
    "BudgetExceeded",
    "DelegationCycle",
    "DepthLimit",
    "HopLimit",
    "KeyConflict",
    "NotDeadLettered",
    "NotParked",
    "QuestionClosed",
    "Refused",
    "SwapLimit",
    "TaskClosed",
    "TaskUnknown",
]


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


class SwapLimit(Refused):
    """Two agents handed a task back and forth without progress."""

    code = "guard.swap"

    def __init__(self, task_id: str, *, agents: tuple[str, str], swaps: int) -> None:
        super().__init__(
            f"`{agents[0]}` and `{agents[1]}` swapped task `{task_id}` {swaps} times"
            " without progress"
        )
        self.task_id, self.agents, self.swaps = task_id, " ".join(agents), swaps


class DepthLimit(Refused):
    """Too many agents wait for one another."""

    code = "guard.depth"

    def __init__(self, task_id: str, *, depth: int, max_depth: int) -> None:
        super().__init__(
            f"task `{task_id}` is delegated {depth} deep already, at most {max_depth} are allowed"
        )
        self.task_id, self.depth, self.max_depth = task_id, depth, max_depth


class DelegationCycle(Refused):
    """An agent would wait for itself."""

    code = "guard.cycle"

    def __init__(self, task_id: str, *, chain: tuple[str, ...]) -> None:
        super().__init__(f"task `{task_id}` would wait for itself: {' -> '.join(chain)}")
        self.task_id, self.chain = task_id, " ".join(chain)


class BudgetExceeded(Refused):
    """More was asked of a counter than is left of it."""

    code = "guard.budget"

    def __init__(self, task_id: str, *, counter: str, limit: int, spent: int, asked: int) -> None:
        super().__init__(
            f"task `{task_id}` asked for {asked} of `{counter}`, {limit - spent} of {limit} are"
            " left; submit or delegate it with a larger `budget`"
        )
        self.task_id, self.counter = task_id, counter
        self.limit, self.spent, self.asked = limit, spent, asked


class NotParked(Refused):
    """The task is not held, so there is nothing to release."""

    code = "task.not_parked"

    def __init__(self, task_id: str, *, state: str) -> None:
        super().__init__(f"task `{task_id}` is {state}, and not parked")
        self.task_id, self.state = task_id, state


class QuestionClosed(Refused):
    """A question is not open: it was answered, has expired, or was never asked."""

    code = "task.question_closed"

    def __init__(self, task_id: str, *, request_id: str, reason: str) -> None:
        super().__init__(f"question `{request_id}` of task `{task_id}` {reason}")
        self.task_id, self.request_id, self.reason = task_id, request_id, reason


class KeyConflict(Refused):
    """An idempotency key came again with another request."""

    code = "task.key_conflict"

    def __init__(self, key: str, *, task_id: str) -> None:
        super().__init__(
            f"idempotency key `{key}` belongs to task `{task_id}`, submitted with another"
            " agent or payload; use a new key for a new task"
        )
        self.key, self.task_id = key, task_id
