"""The planner: question and folder in; a reader for each aspect, their notes joined for the writer.

What it learns of the folder is a recorded step, and what the readers find comes back as their
results: after a crash nothing is read twice.
"""

from collections.abc import Sequence
from pathlib import Path

from anyio import to_thread

from mesh import Agent, ChildFailed, Context, Fail, Handoff, MeshError, Reject
from services.brief.extract import join
from services.brief.folder import FILE_TYPES, default_docs, list_documents
from services.brief.message import BriefRequest, Findings, Notes, ReadAspect, Searched, WriteRequest
from services.brief.question import aspects
from services.brief.rank import index_folder, rank

__all__ = ["plan", "planner", "search"]

planner = Agent(
    "planner", behaviour="2.0.0", description="Splits a question, has each aspect read, joins"
)

_READ = ", ".join(FILE_TYPES)


@planner.on(BriefRequest)
async def plan(ctx: Context, request: BriefRequest) -> Handoff | Fail | Reject:
    """Rank the folder's passages, have a reader read about each aspect, and join their notes."""
    if not aspects(request.question):
        return Reject("the question has no word to search for", field="question")
    searched: Searched = await ctx.step("search", search, request.question, request.docs)
    if searched.refused:
        return Reject(searched.refused, field="docs")
    if nothing := _nothing(searched):
        return Fail(nothing)
    _note_search(ctx, searched)
    found: Sequence[Notes | MeshError] = await ctx.gather(
        *(
            ctx.delegate(
                "reader",
                ReadAspect(docs=searched.docs, aspect=aspect),
                returns=Notes,
                objective=f"read about: {aspect.title}",
            )
            for aspect in searched.aspects
        ),
        failures="collect",
    )
    failed = [each for each in found if isinstance(each, MeshError)]
    if len(failed) == len(found):
        return Fail(f"every reader failed, the first: {_reason(failed[0])}")
    findings = await to_thread.run_sync(_findings, searched, found, abandon_on_cancel=True)
    quotes = [quote for each in findings for quote in each.quotes]
    if not quotes:
        return Fail(
            f"nothing to quote in `{searched.docs}`: none of its passages about the question "
            "is a whole sentence that stands alone"
        )
    files = len({quote.path for quote in quotes})
    ctx.decide(
        "quotes", f"kept {len(quotes)} sentences of {files} files", why="whole, relevant, different"
    )
    _note_gaps(ctx, findings)
    return Handoff(
        "writer",
        WriteRequest(
            question=request.question,
            docs=searched.docs,
            findings=findings,
            folder=searched.folder,
        ),
        next_task="write the brief",
    )


def search(question: str, docs: str | None) -> Searched:
    """Split a question and rank a folder's passages for each aspect.

    Args:
        question: What is asked.
        docs: Absolute path; None for the default documents of the machine that this runs on.
    """
    root = docs or default_docs()
    if not Path(root).is_dir():
        return Searched(docs=root, refused=f"there is no folder `{root}`")
    try:
        listing = list_documents(root)
    except OSError as e:
        return Searched(docs=root, refused=f"the folder `{root}` cannot be read: {e.strerror}")
    asked = aspects(question)
    index = index_folder(root, listing, asked)
    return Searched(
        docs=root, files=len(listing.paths), folder=index.folder, aspects=rank(index, asked)
    )


def _nothing(searched: Searched) -> str:
    """Why there is nothing to read, "" if there is something."""
    docs, folder = searched.docs, searched.folder
    if not searched.files:
        return f"no documents in `{docs}`: it has no file of type {_READ}"
    if not folder.passages:
        return (
            f"no readable text in `{docs}`: {folder.files_read} files read, "
            f"{folder.files_skipped} skipped; read are {_READ} in UTF-8, at most 2 MiB each"
        )
    if not any(aspect.passages for aspect in searched.aspects):
        return (
            f"nothing relevant to the question in `{docs}`: {folder.passages} passages "
            f"in {folder.files_read} files searched; read are {_READ}"
        )
    return ""


def _note_search(ctx: Context, searched: Searched) -> None:
    folder, titles = searched.folder, ", ".join(f"`{each.title}`" for each in searched.aspects)
    ctx.decide(
        "aspects",
        f"split into {len(searched.aspects)}, a reader each: {titles}",
        why="the clauses of the question",
    )
    ctx.decide(
        "folder",
        f"searched {folder.passages} passages in {folder.files_read} files of `{searched.docs}`",
        why=f"{folder.files_skipped} files skipped as unreadable, binary, not UTF-8 or too large",
    )
    ctx.constraint("quotes stand word for word in their source")
    ctx.constraint("nothing is said twice")
    ctx.constraint("an aspect without a source says so")


def _findings(searched: Searched, found: Sequence[Notes | MeshError]) -> tuple[Findings, ...]:
    """The joined notes; an aspect whose reader failed says so."""
    notes = [
        Notes(title=aspect.title, quotes=(), loose=True) if isinstance(each, MeshError) else each
        for aspect, each in zip(searched.aspects, found, strict=True)
    ]
    return tuple(
        joined.model_copy(update={"unread": _reason(each)})
        if isinstance(each, MeshError)
        else joined
        for joined, each in zip(join(notes), found, strict=True)
    )


def _reason(error: MeshError) -> str:
    return (isinstance(error, ChildFailed) and error.reason) or str(error)


def _note_gaps(ctx: Context, findings: Sequence[Findings]) -> None:
    for each in findings:
        if each.unread:
            ctx.decide(
                f"not read: {each.title}", "left without a quote", why=f"its reader: {each.unread}"
            )
        elif not each.quotes:
            ctx.decide(
                f"nothing about {each.title}", "left without a quote", why="none stands alone"
            )
