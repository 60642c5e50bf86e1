"""The reader: one aspect and its ranked passages in, every sentence that answers it out."""

from mesh import Agent, Context, Fail, Reply
from services.brief.extract import extract
from services.brief.message import Notes, ReadAspect

__all__ = ["read", "reader"]

reader = Agent("reader", behaviour="2.0.0", description="Extracts sentences about one aspect")


@reader.on(ReadAspect)
async def read(ctx: Context, request: ReadAspect) -> Reply | Fail:
    """Open the ranked files again and note the sentences that answer the aspect."""
    notes: Notes = await ctx.step("read", extract, request.docs, request.aspect)
    files = len({passage.path for passage in request.aspect.passages})
    if files and notes.files_changed == files:
        return Fail(
            f"none of the {files} files ranked for it can be read as it was: they were changed, or"
            f" are gone from `{request.docs}`"
        )
    return Reply(notes)
