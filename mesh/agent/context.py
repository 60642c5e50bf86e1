"""What a handler may ask of the world; each answer is recorded once and comes back in every run."""

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol, TypeVar, overload
from uuid import UUID

from mesh.agent.operation import Operation
from mesh.agent.retry import Retry
from mesh.core.packet import RelayPacket

__all__ = ["NOTHING", "Context", "Duration", "Part"]

T = TypeVar("T")
# Any: values have the types of their authors.
NOTHING: Any = object()
"""No default."""
Part = Operation[Any] | Coroutine[Any, Any, Any]
"""What can be gathered: what `ctx` gives, or a coroutine that awaits what `ctx` gives."""
Duration = float | timedelta
"""Seconds, or a span of time."""


class Context(Protocol):
    """Handed to every handler; everything from outside goes through it.

    What it gives can be awaited in the handler, or gathered. A handler runs again from its
    beginning after a wait or a crash, and what it asked for before is answered from the record; so
    it must ask for the same things in the same order, and do nothing else to the world.
    """

    @property
    def task_id(self) -> str:
        """The task, 32 hex digits."""
        ...

    @property
    def attempt(self) -> int:
        """Which run of this handler for this delivery it is, 1-based."""
        ...

    @property
    def hop(self) -> int:
        """How often the task was handed off before, >= 0."""
        ...

    @property
    def packet(self) -> RelayPacket:
        """What the agents before left for this one."""
        ...

    @overload
    def step(
        self,
        name: str,
        fn: Callable[..., Awaitable[T]],
        *args: Any,
        retry: Retry | None = None,
    ) -> Operation[T]: ...
    @overload
    def step(
        self, name: str, fn: Callable[..., T], *args: Any, retry: Retry | None = None
    ) -> Operation[T]: ...
    def step(
        self, name: str, fn: Callable[..., Any], *args: Any, retry: Retry | None = None
    ) -> Operation[Any]:
        """Run a function once and record its result; a plain one runs in a thread.

        The result comes back as the type that the function is annotated with; without an annotation
        as plain JSON. A function with a parameter `idempotency_key` is given a key that is the same
        for all its attempts, to pass on to the outside world: a process may die after the function
        ran and before that is recorded.

        Args:
            name: What it is recorded as.
            fn: The function.
            args: Its arguments.
            retry: How often it is tried; the handler's policy if None.

        Raises:
            StepFailed: When awaited: it used up its attempts, or raised `Fatal`.
        """
        ...

    def delegate(
        self,
        agent: str,
        input: Any = None,
        *,
        returns: type[T] | Any = Any,
        objective: str = "",
        deadline: Duration | datetime | None = None,
        budget: Mapping[str, int] | None = None,
    ) -> Operation[Any]:
        """Start a child task at another agent; its result comes back.

        A child that is still open when this handler ends is cancelled.

        Args:
            agent: Whose work it is.
            input: As for a submit.
            returns: What its result is to be; plain JSON, text or bytes if not given.
            objective: What it is for, in a sentence.
            deadline: When it must have ended; never after this task's own.
            budget: What is reserved for it, by counter, of what is left to this task.

        Raises:
            AgentUnknown, DelegationCycle, DepthLimit, BudgetExceeded: These end the task.
            ChildFailed: When awaited: it ended without a result.
        """
        ...

    def gather(
        self, *parts: Part, failures: Literal["raise", "collect"] = "raise"
    ) -> Operation[Any]:
        """All values, in order.

        Args:
            parts: What to wait for, side by side.
            failures: "raise" the first failure as soon as it comes; or "collect" them: then an
                error stands in the place of a value.
        """
        ...

    def race(self, *parts: Part) -> Operation[tuple[int, Any]]:
        """The first to come back: its place among the parts, and its value.

        The others go on; children of them that are open when the handler ends are cancelled.
        """
        ...

    def sleep(self, duration: Duration) -> Operation[None]:
        """Wait; nothing is held meanwhile, and every process may be restarted."""
        ...

    def sleep_until(self, time: datetime) -> Operation[None]:
        """Wait until an instant, aware."""
        ...

    def ask(
        self,
        prompt: str,
        schema: Any = Any,
        *,
        expires: Duration | datetime | None = None,
        default: Any = NOTHING,
    ) -> Operation[Any]:
        """Ask a person; `mesh task answer` answers.

        Args:
            prompt: The question.
            schema: The type of the answer, or a JSON Schema; anything in JSON if not given.
            expires: When it is not waited for any longer.
            default: The answer then.

        Raises:
            QuestionClosed: When awaited: it expired, and there is no default.
        """
        ...

    def signal(self, name: str, returns: Any = Any) -> Operation[Any]:
        """The value of the next signal of a name; `mesh task signal` sends one.

        Signals that come while this agent has the task are kept for it.
        """
        ...

    def compensate(self, fn: Callable[..., Any], *args: Any, retry: Retry | None = None) -> None:
        """Undo something with this function if the task fails or is cancelled in this agent's time.

        It is recorded before the next step runs, so write it before the step that it undoes; and it
        must tolerate that this step never happened. Undos run in reverse order, once each; the
        pauses between the attempts of one are 10 s at most.
        """
        ...

    def spend(self, counter: str, amount: int) -> None:
        """Use so much of a counter, such as `tokens`.

        Raises:
            BudgetExceeded: It is more than is left; this ends the task.
        """
        ...

    def emit(self, text: str) -> None:
        """Show output as it comes to whoever watches the task; a step may do so too.

        It may get lost on the way; the whole text is recorded with what is recorded next. When the
        handler runs again, it must say the same again: what is recorded is not shown twice. A step
        that runs again shows its output again; an undo shows none.
        """
        ...

    def now(self) -> datetime:
        """This instant, aware, UTC; the same one when the handler runs again."""
        ...

    def uuid(self) -> UUID:
        """An id; the same one, in order, when the handler runs again."""
        ...

    def random(self) -> float:
        """A number in [0, 1); the same one, in order, when the handler runs again."""
        ...

    def decide(self, id: str, summary: str, why: str = "") -> None:
        """Put a decision into the relay packet."""
        ...

    def constraint(self, rule: str) -> None:
        """Put a standing rule into the relay packet; it stays for the rest of the task."""
        ...
