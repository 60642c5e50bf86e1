"""The writer: quotes in, Markdown out; again without what the critic refused."""

from __future__ import annotations

from mesh import Agent, Context, Fail, Handoff
from services.brief.compose import compose, revise
from services.brief.message import Draft, ReviseRequest, WriteRequest

__all__ = ["rewrite", "write", "writer"]

writer = Agent("writer", behaviour="1.1.0", description="Composes the brief")


@writer.on(WriteRequest)
async def write(ctx: Context, request: WriteRequest) -> Handoff:
    """Compose the first draft."""
    draft = compose(request, round=1)
    ctx.decide("draft 1", _figures(draft), why="the best sentences of each aspect")
    return Handoff("critic", draft, next_task="check every quote")


@writer.on(ReviseRequest)
async def rewrite(ctx: Context, request: ReviseRequest) -> Handoff | Fail:
    """Compose again without the quotes that are to blame."""
    draft = revise(request.draft, request.defects)
    if not any(answer.quotes for answer in draft.answers):
        reasons = "; ".join(defect.detail for defect in request.defects)
        return Fail(f"no quote is left after the critic's defects: {reasons}")
    ctx.decide(
        f"draft {draft.round}", _figures(draft), why=f"{len(request.defects)} defects removed"
    )
    return Handoff("critic", draft, next_task="check every quote again")


def _figures(draft: Draft) -> str:
    quotes = sum(len(answer.quotes) for answer in draft.answers)
    return f"{quotes} quotes from {len(draft.citations)} places"
