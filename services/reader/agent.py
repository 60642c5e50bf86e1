"""The reader: ranked passages in, quotes per aspect out."""

from __future__ import annotations

from anyio import to_thread

from mesh import Agent, Context, Fail, Handoff
from services.brief.extract import extract
from services.brief.message import ReadRequest, WriteRequest

__all__ = ["read", "reader"]

reader = Agent("reader", behaviour="1.0.0", description="Extracts the best sentences")


@reader.on(ReadRequest)
async def read(ctx: Context, request: ReadRequest) -> Handoff | Fail:
    """Open the ranked files again and take the sentences that answer best."""
    findings = await to_thread.run_sync(
        extract, request.docs, request.aspects, abandon_on_cancel=True
    )
    quotes = [quote for found in findings for quote in found.quotes]
    if not quotes:
        return Fail(
            f"nothing to quote in `{request.docs}`: none of its passages about the question "
            "is a whole sentence that stands alone"
        )
    files = len({quote.path for quote in quotes})
    ctx.decide(
        "quotes", f"kept {len(quotes)} sentences of {files} files", why="whole, relevant, different"
    )
    for found in findings:
        if not found.quotes:
            ctx.decide(
                f"nothing about {found.title}", "left without a quote", why="none stands alone"
            )
    return Handoff(
        "writer",
        WriteRequest(
            question=request.question,
            docs=request.docs,
            findings=findings,
            folder=request.folder,
        ),
        next_task="write the brief",
    )
