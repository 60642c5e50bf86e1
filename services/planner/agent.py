"""The planner: question and folder in, ranked passages per aspect out."""

from __future__ import annotations

from pathlib import Path

from anyio import to_thread

from mesh import Agent, Context, Fail, Handoff, Reject
from services.brief.folder import FILE_TYPES, Listing, default_docs, list_documents
from services.brief.message import BriefRequest, ReadRequest
from services.brief.question import aspects
from services.brief.rank import index_folder, rank

__all__ = ["plan", "planner"]

planner = Agent("planner", behaviour="1.0.0", description="Splits a question and ranks passages")

_READ = ", ".join(FILE_TYPES)


@planner.on(BriefRequest)
async def plan(ctx: Context, request: BriefRequest) -> Handoff | Fail | Reject:
    """Split the question into aspects and rank the folder's passages for each."""
    docs = request.docs or default_docs()
    listing = await to_thread.run_sync(_listing, docs, abandon_on_cancel=True)
    if isinstance(listing, Reject):
        return listing
    asked = aspects(request.question)
    if not asked:
        return Reject("the question has no word to search for", field="question")
    if not listing.paths:
        return Fail(f"no documents in `{docs}`: it has no file of type {_READ}")
    index = await to_thread.run_sync(index_folder, docs, listing, asked, abandon_on_cancel=True)
    folder = index.folder
    if not folder.passages:
        return Fail(
            f"no readable text in `{docs}`: {folder.files_read} files read, "
            f"{folder.files_skipped} skipped; read are {_READ} in UTF-8, at most 2 MiB each"
        )
    ranked = await to_thread.run_sync(rank, index, asked, abandon_on_cancel=True)
    if not any(aspect.passages for aspect in ranked):
        return Fail(
            f"nothing relevant to the question in `{docs}`: {folder.passages} passages "
            f"in {folder.files_read} files searched; read are {_READ}"
        )
    titles = ", ".join(f"`{aspect.title}`" for aspect in ranked)
    ctx.decide("aspects", f"split into {len(ranked)}: {titles}", why="the clauses of the question")
    ctx.decide(
        "folder",
        f"searched {folder.passages} passages in {folder.files_read} files of `{docs}`",
        why=f"{folder.files_skipped} files skipped as unreadable, binary, not UTF-8 or too large",
    )
    ctx.constraint("quotes stand word for word in their source")
    ctx.constraint("nothing is said twice")
    ctx.constraint("an aspect without a source says so")
    return Handoff(
        "reader",
        ReadRequest(question=request.question, docs=docs, aspects=ranked, folder=folder),
        next_task="extract the best sentences",
    )


def _listing(docs: str) -> Listing | Reject:
    if not Path(docs).is_dir():
        return Reject(f"there is no folder `{docs}`", field="docs")
    try:
        return list_documents(docs)
    except OSError as e:
        return Reject(f"the folder `{docs}` cannot be read: {e.strerror}", field="docs")
