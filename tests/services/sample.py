"""The sample folder, and the pure part of the job over it."""

from __future__ import annotations

from pathlib import Path

from services.brief.compose import compose
from services.brief.extract import extract
from services.brief.folder import Document, list_documents
from services.brief.message import Draft, WriteRequest
from services.brief.question import aspects
from services.brief.rank import index_folder, rank

DOCS = str(Path(__file__).parent / "docs")
QUESTION = "How does a queue retry a failed job, drain workers and store jobs?"


def document(path: str, text: str) -> Document:
    return Document(path, "0" * 64, tuple(text.split("\n")))


def write_request(root: str, question: str = QUESTION) -> WriteRequest:
    asked = aspects(question)
    index = index_folder(root, list_documents(root), asked)
    findings = extract(root, rank(index, asked))
    return WriteRequest(question=question, docs=root, findings=findings, folder=index.folder)


def draft_of(root: str, question: str = QUESTION) -> Draft:
    return compose(write_request(root, question), round=1)
