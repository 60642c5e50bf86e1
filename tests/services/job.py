"""The four handlers of the cited brief in one process, with a context that needs no mesh."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

from mesh import Handoff
from mesh.core.packet import RelayPacket
from services.brief.message import BriefRequest, Draft, ReadRequest, ReviseRequest, WriteRequest
from services.critic.agent import criticise
from services.planner.agent import plan
from services.reader.agent import read
from services.writer.agent import rewrite, write


@dataclass
class FakeContext:
    """Answers without a mesh and keeps what was noted."""

    task_id: str = "0" * 32
    attempt: int = 1
    hop: int = 0
    packet: RelayPacket = field(default_factory=RelayPacket)
    decisions: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])
    constraints: list[str] = field(default_factory=list[str])

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    def uuid(self) -> UUID:
        return UUID(int=1)

    def random(self) -> float:
        return 0.5

    def decide(self, id: str, summary: str, why: str = "") -> None:
        self.decisions.append((id, summary, why))

    def constraint(self, rule: str) -> None:
        self.constraints.append(rule)


async def relay(request: BriefRequest, ctx: FakeContext) -> tuple[object, list[str]]:
    """Run the four handlers one after the other; the outcome and the agents handed to."""
    outcome: object = await plan(ctx, request)
    hops: list[str] = []
    while isinstance(outcome, Handoff):
        hops.append(outcome.agent)
        match outcome.value:
            case ReadRequest() as value:
                outcome = await read(ctx, value)
            case WriteRequest() as value:
                outcome = await write(ctx, value)
            case ReviseRequest() as value:
                outcome = await rewrite(ctx, value)
            case Draft() as value:
                outcome = await criticise(ctx, value)
            case other:
                raise TypeError(f"no agent takes {other!r}")
    return outcome, hops
