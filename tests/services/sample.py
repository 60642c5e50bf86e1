"""The sample folder, and the pure part of the job over it."""

from __future__ import annotations

from pathlib import Path

from services.brief.compose import compose
from services.brief.extract import extract, join
from services.brief.folder import Document
from services.brief.message import Draft, WriteRequest
from services.planner.agent import search

DOCS = str(Path(__file__).parent / "docs")
QUESTION = "How does a queue retry a failed job, drain workers and store jobs?"


def document(path: str, text: str) -> Document:
    return Document(path, "0" * 64, tuple(text.split("\n")))


def write_request(root: str, question: str = QUESTION) -> WriteRequest:
    searched = search(question, root)
    findings = join([extract(root, aspect) for aspect in searched.aspects])
    return WriteRequest(question=question, docs=root, findings=findings, folder=searched.folder)


def draft_of(root: str, question: str = QUESTION) -> Draft:
    return compose(write_request(root, question), round=1)
