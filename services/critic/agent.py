"""The critic: a draft in, the finished brief or its defects out."""

from __future__ import annotations

from mesh import Agent, Context, Fail, Handoff, Reply
from services.brief.message import MAX_ROUNDS, Brief, BriefStats, Draft, ReviseRequest
from services.brief.verify import review

__all__ = ["critic", "criticise"]

critic = Agent("critic", behaviour="2.0.0", description="Checks every quote at its source")


@critic.on(Draft)
async def criticise(ctx: Context, draft: Draft) -> Handoff | Reply | Fail:
    """Open every source again; reply only if all quotes stand, nothing repeats, nothing is left."""
    defects = await ctx.step("review", review, draft)
    if not defects:
        return Reply(_brief(draft))
    listed = "; ".join(defect.detail for defect in defects)
    if draft.round > MAX_ROUNDS:
        return Fail(f"still {len(defects)} defects after {MAX_ROUNDS} revisions: {listed}")
    ctx.decide(f"review {draft.round}", f"sent back for {len(defects)} defects", why=listed)
    return Handoff(
        "writer", ReviseRequest(draft=draft, defects=defects), next_task="remove the defects"
    )


def _brief(draft: Draft) -> Brief:
    folder = draft.request.folder
    return Brief(
        markdown=draft.markdown,
        citations=draft.citations,
        stats=BriefStats(
            files_read=folder.files_read,
            files_skipped=folder.files_skipped,
            passages=folder.passages,
            aspects=len(draft.answers),
            aspects_answered=sum(bool(answer.quotes) for answer in draft.answers),
            quotes=sum(len(answer.quotes) for answer in draft.answers),
            rounds=draft.round,
        ),
    )
