"""Blobs in a folder: the ledger's own copy.

A blob is written under another name, synced, and renamed: a name without a suffix is always whole.
"""

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from anyio import to_thread

from mesh.blob.check import claim_check, key_of, verified
from mesh.core.payload import Blob
from mesh.errors import HistoryCorrupt, Unavailable

__all__ = ["FileBlobs"]

_UNFINISHED = ".part"


class FileBlobs:
    """A `BlobStore` over `<folder>/<first two digits>/<sha256>`.

    Args:
        folder: Made when the first blob comes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put(self, data: bytes) -> Blob:
        """Keep bytes; durable when it returns."""
        blob = await to_thread.run_sync(claim_check, data)
        await to_thread.run_sync(self._write, blob, data)
        return blob

    async def open(self, blob: Blob) -> bytes:
        """The bytes behind a claim check, verified."""
        path = self._path(blob)
        return await to_thread.run_sync(_read, path, blob)

    def _path(self, blob: Blob) -> Path:
        key = key_of(blob)
        return self._folder / key[:2] / key

    def _write(self, blob: Blob, data: bytes) -> None:
        path = self._path(blob)
        with _translated(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if not (path.is_file() and path.stat().st_size == blob.size):
                _write_whole(path, data)
            # Also for one that stood there: who wrote it may have died before its name was durable.
            for folder in (path.parent, self._folder, self._folder.parent):
                _sync(folder)


def _write_whole(path: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(suffix=_UNFINISHED, prefix=path.name, dir=path.parent)
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read(path: Path, blob: Blob) -> bytes:
    with _translated(path):
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise HistoryCorrupt(f"blob `{blob.uri}` is gone") from error
    return verified(blob, data)


@contextmanager
def _translated(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(f"blob file `{path.name}`: {error.strerror or error}") from error
