"""A folder of documents: which files are read, in which order, and what is in one of them."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import sysconfig
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

__all__ = [
    "FILE_TYPES",
    "MAX_FILE_BYTES",
    "Document",
    "Listing",
    "Unread",
    "default_docs",
    "list_documents",
    "open_document",
]

FILE_TYPES = (".md", ".txt", ".rst", ".py", ".html")
MAX_FILE_BYTES = 2 * 1024 * 1024
_MAX_FILES = 20_000  # bounds the planner's memory and time
_NOT_DOCUMENTS = frozenset({"__pycache__", "node_modules", "site-packages"})
_TESTS = frozenset({"test", "tests", "idle_test"})
_LINE_END = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True, slots=True)
class Document:
    """A text file: `lines[0]` is line 1, without line ends; `sha256` is of the file's bytes."""

    path: str
    sha256: str
    lines: tuple[str, ...]

    @property
    def suffix(self) -> str:
        """File type, one of `FILE_TYPES`."""
        return PurePosixPath(self.path).suffix.lower()


@dataclass(frozen=True, slots=True)
class Unread:
    """A file that is left out, and why, in a few words."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Listing:
    """Files of a folder: `paths` relative and sorted, `skipped` what cannot even be opened."""

    paths: tuple[str, ...]
    skipped: int


def default_docs() -> str:
    """Absolute path of the Python standard library's sources on this machine."""
    return sysconfig.get_path("stdlib")


def list_documents(root: str) -> Listing:
    """Find the documents under a folder, in an order that only their names decide.

    Hidden folders, installed packages, caches and linked folders are not entered: a link may lead
    in a circle. Python tests are no documentation. At most 20,000 files; more count as skipped.

    Args:
        root: Absolute path of a folder.

    Returns:
        Paths with `/` between the parts, relative to `root`.

    Raises:
        OSError: `root` itself cannot be listed; a folder below it counts as skipped.
    """
    paths: list[str] = []
    skipped = 0
    pending = [""]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(os.path.join(root, folder)) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError:
            if not folder:
                raise
            skipped += 1
            continue
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir(follow_symlinks=False):
                if _entered(entry.name):
                    pending.append(path)
            elif _is_document(path):
                if _is_printable(path):
                    paths.append(path)
                else:
                    skipped += 1
    paths.sort(key=lambda path: path.split("/"))
    return Listing(tuple(paths[:_MAX_FILES]), skipped + max(0, len(paths) - _MAX_FILES))


def open_document(root: str, path: str) -> Document | Unread:
    """Read one file of a folder.

    Args:
        root: Absolute path of the folder.
        path: Relative to it.

    Returns:
        Its text, or why it is left out: not a regular file, over 2 MiB, binary (a NUL byte or not
        UTF-8), or the system's reason.
    """
    try:
        # A pipe named `x.txt` would block its reader for ever.
        fd = os.open(Path(root, path), os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return Unread(path, "not a regular file")
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as e:
        return Unread(path, e.strerror or type(e).__name__)
    if len(raw) > MAX_FILE_BYTES:
        return Unread(path, "larger than 2 MiB")
    if b"\0" in raw:
        return Unread(path, "binary")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return Unread(path, "not UTF-8")
    return Document(path, hashlib.sha256(raw).hexdigest(), tuple(_LINE_END.split(text)))


def _entered(name: str) -> bool:
    return not name.startswith(".") and name not in _NOT_DOCUMENTS


def _is_document(path: str) -> bool:
    parts = PurePosixPath(path)
    suffix = parts.suffix.lower()
    return suffix in FILE_TYPES and not (suffix == ".py" and _TESTS.intersection(parts.parts[:-1]))


def _is_printable(path: str) -> bool:
    """Whether a name can stand in a brief: no control character, and valid UTF-8 on disk."""
    return path.isprintable()
