"""What keeps tasks from going round, going deep, and spending without end.

Source: design, section 4.
"""

from collections.abc import Mapping

from mesh.core.task import Task
from mesh.errors import BudgetExceeded, DelegationCycle, DepthLimit, HopLimit, SwapLimit

__all__ = [
    "MAX_DEPTH",
    "MAX_SWAPS",
    "check_delegation",
    "check_hop",
    "check_spend",
    "child_budget",
]

MAX_DEPTH = 8
"""Most agents that may wait for one another."""
MAX_SWAPS = 6
"""Most hand-offs in a row between the same two agents without recorded progress."""


def check_hop(task: Task, to: str) -> None:
    """Whether the task may be handed to an agent.

    Raises:
        HopLimit: It already made `max_hops` hops.
        SwapLimit: It goes back and forth between two agents.

    Source: hop limit as in IPv6, RFC 8200 section 3.
    """
    if task.hops >= task.max_hops:
        raise HopLimit(task.task_id, hops=task.hops, max_hops=task.max_hops)
    last = task.handoffs[-1] if task.handoffs else None
    if last and last.source == to and task.swaps >= MAX_SWAPS:
        raise SwapLimit(task.task_id, agents=(task.owner, to), swaps=task.swaps)


def check_delegation(task: Task, agent: str) -> tuple[str, ...]:
    """Whether the owner may wait for a child task at an agent; gives the child's ancestors.

    Raises:
        DelegationCycle: That agent waits for this task already, or is its owner.
        DepthLimit: Too many agents wait for one another.
    """
    chain = (*task.ancestors, task.owner)
    if agent in chain:
        raise DelegationCycle(task.task_id, chain=(*chain, agent))
    if len(chain) > MAX_DEPTH:
        raise DepthLimit(task.task_id, depth=len(chain), max_depth=MAX_DEPTH)
    return chain


def check_spend(task: Task, counter: str, amount: int, *, pending: int = 0) -> None:
    """Whether so much of a counter may be used, or reserved for a child.

    Args:
        task: Whose budget.
        counter: Of what.
        amount: How much, >= 0.
        pending: What was used of it since the task was folded.

    Raises:
        BudgetExceeded: More than is left; nothing is used.
    """
    limit = task.budget.get(counter)
    spent = task.spent.get(counter, 0) + pending
    if limit is not None and amount > 0 and spent + amount > limit:
        raise BudgetExceeded(task.task_id, counter=counter, limit=limit, spent=spent, asked=amount)


def child_budget(task: Task, reserved: Mapping[str, int]) -> dict[str, int]:
    """What a child may spend: what is reserved for it, and nothing else of what is limited here."""
    return {**dict.fromkeys(task.budget, 0), **reserved}
