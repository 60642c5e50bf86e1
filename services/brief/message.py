"""What the four agents hand to one another; every message is frozen and refuses unknown fields."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

__all__ = [
    "MAX_QUESTION_CHARS",
    "MAX_ROUNDS",
    "Answer",
    "Brief",
    "BriefRequest",
    "BriefStats",
    "Citation",
    "Defect",
    "Draft",
    "Findings",
    "FolderStats",
    "Notes",
    "Passage",
    "Quote",
    "RankedAspect",
    "ReadAspect",
    "ReviseRequest",
    "Searched",
    "WriteRequest",
]

MAX_QUESTION_CHARS = 500
MAX_ROUNDS = 3
"""Times the critic may hand back to the writer before the task fails."""


def _inside(path: str) -> str:
    parts = PurePosixPath(path)
    if not path or parts.is_absolute() or ".." in parts.parts or "\0" in path:
        raise ValueError("must be a path inside the folder")
    return path


def _absolute(path: str) -> str:
    if not PurePosixPath(path).is_absolute() or "\0" in path:
        raise ValueError("must be an absolute path")
    return path


Folder = Annotated[str, AfterValidator(_absolute)]
Question = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_QUESTION_CHARS)
]
RelativePath = Annotated[str, AfterValidator(_inside)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
LineNumber = Annotated[int, Field(ge=1)]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BriefRequest(_Message):
    """What a person asks.

    Attributes:
        question: Non-empty, at most `MAX_QUESTION_CHARS` characters.
        docs: Absolute path of the folder of documents; None means `default_docs()`.
    """

    question: Question
    docs: Folder | None = None


class FolderStats(_Message):
    """What was read: counts of files, and of passages of prose found in them."""

    files_read: int = Field(ge=0)
    files_skipped: int = Field(ge=0)
    passages: int = Field(ge=0)


class Passage(_Message):
    """A paragraph of a file, lines 1-based and inclusive; `score` is its BM25 score, > 0."""

    path: RelativePath
    first_line: LineNumber
    last_line: LineNumber
    sha256: Sha256
    score: float


class RankedAspect(_Message):
    """One part of the question and the passages that speak about it, best first.

    Attributes:
        title: Words of the question, a section heading.
        weights: Search term to its weight in this folder, rare terms weigh more.
        own: Terms only this aspect asks about: without them no sentence is relevant.
        passages: Best first; empty if the folder says nothing about it.
    """

    title: str
    weights: dict[str, float]
    own: tuple[str, ...]
    passages: tuple[Passage, ...]


class Searched(_Message):
    """What the planner found in the folder.

    Attributes:
        docs: The folder.
        refused: Why it cannot be searched, a sentence; empty if it was.
        files: Documents that it has, count.
        folder: What was read of them.
        aspects: One per aspect of the question, in order.
    """

    docs: Folder
    refused: str = ""
    files: int = Field(default=0, ge=0)
    folder: FolderStats = FolderStats(files_read=0, files_skipped=0, passages=0)
    aspects: tuple[RankedAspect, ...] = ()


class ReadAspect(_Message):
    """Planner to a reader: one aspect of a question."""

    docs: Folder
    aspect: RankedAspect


class Quote(_Message):
    """Sentences as they stand in a file, in canonical form (`prose.canonical_lines`).

    Attributes:
        text: Starts in `first_line` and ends in `last_line`.
        sha256: Of the whole file's bytes.
        about: What the passage documents: a qualified name or a heading; may be empty.
        score: How well it answers its aspect, >= 0.
    """

    text: str = Field(min_length=1)
    path: RelativePath
    first_line: LineNumber
    last_line: LineNumber
    sha256: Sha256
    about: str = ""
    score: float = 0.0


class Notes(_Message):
    """A reader's answer: every sentence that answers its aspect, none left out yet.

    Attributes:
        title: The aspect's.
        quotes: In the order of its passages; empty if nothing answers it.
        loose: There are only remarks without a form, the last resort.
        files_changed: Files that could not be read as they were ranked, count.
    """

    title: str
    quotes: tuple[Quote, ...]
    loose: bool = False
    files_changed: int = Field(default=0, ge=0)


class Findings(_Message):
    """Quotes for one aspect, best first; more than a brief shows, so that some can be dropped.

    `unread` says why its reader found out nothing, empty if it read.
    """

    title: str
    quotes: tuple[Quote, ...]
    unread: str = ""


class WriteRequest(_Message):
    """Planner to writer."""

    question: Question
    docs: Folder
    findings: tuple[Findings, ...] = Field(min_length=1)
    folder: FolderStats


class Citation(_Message):
    """A numbered source of the brief; quotes from the same lines share it."""

    number: int = Field(ge=1)
    path: RelativePath
    first_line: LineNumber
    last_line: LineNumber
    sha256: Sha256


class Answer(_Message):
    """A section of the brief: the quotes chosen for one aspect, none if nothing was found.

    `unread` says why nobody looked for any, empty if somebody did.
    """

    title: str
    quotes: tuple[Quote, ...]
    unread: str = ""


class Draft(_Message):
    """Writer to critic; `request` keeps what else the writer could have chosen."""

    request: WriteRequest
    answers: tuple[Answer, ...]
    citations: tuple[Citation, ...]
    markdown: str
    round: int = Field(ge=1, le=MAX_ROUNDS + 1)


class Defect(_Message):
    """What the critic found wrong.

    Attributes:
        kind: `hash` the file changed, `words` the quote does not stand there, `repeat` said before,
            `uncovered` an aspect without an answer, `text` the Markdown does not show the answers.
        aspect: Title of the aspect, empty if it concerns the whole brief.
        quote: The quote to drop, if one is to blame.
        detail: One sentence for people.
    """

    kind: Literal["hash", "words", "repeat", "uncovered", "text"]
    aspect: str = ""
    quote: Quote | None = None
    detail: str


class ReviseRequest(_Message):
    """Critic back to writer."""

    draft: Draft
    defects: tuple[Defect, ...] = Field(min_length=1)


class BriefStats(_Message):
    """Figures of a finished brief; counts, `rounds` is 1 if the first draft passed."""

    files_read: int = Field(ge=0)
    files_skipped: int = Field(ge=0)
    passages: int = Field(ge=0)
    aspects: int = Field(ge=1)
    aspects_answered: int = Field(ge=0)
    quotes: int = Field(ge=0)
    rounds: int = Field(ge=1)


class Brief(_Message):
    """The result of the task: Markdown whose every quote was checked against its source."""

    markdown: str
    citations: tuple[Citation, ...]
    stats: BriefStats
