"""How a handler ends: values, never exceptions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Fail", "Handoff", "Outcome", "Reject", "Reply"]

# Any: a value may be whatever `encode_value` takes.


@dataclass(frozen=True, slots=True)
class Reply:
    """The task is done; `value` is its result."""

    value: Any = None


@dataclass(frozen=True, slots=True)
class Handoff:
    """The task goes to another agent, which gets `value` as its input.

    `next_task` says in a sentence what that agent is asked to do; it goes into the relay packet.
    """

    agent: str
    value: Any = None
    next_task: str = ""


@dataclass(frozen=True, slots=True)
class Fail:
    """The task cannot be done; no retry would help."""

    message: str
    code: str = "agent.failed"
    details: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Reject:
    """The agent will not take this input; `field` names what is wrong with it."""

    message: str
    field: str = ""


Outcome = Reply | Handoff | Fail | Reject
