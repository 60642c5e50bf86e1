"""Blobs in memory, gone with the process."""

from mesh.blob.check import claim_check, key_of, verified
from mesh.core.payload import Blob
from mesh.errors import HistoryCorrupt

__all__ = ["InprocBlobs"]


class InprocBlobs:
    """A `BlobStore` for tests and single-process meshes."""

    def __init__(self) -> None:
        self._kept: dict[str, bytes] = {}

    async def put(self, data: bytes) -> Blob:
        """Keep bytes."""
        blob = claim_check(data)
        self._kept.setdefault(blob.sha256, bytes(data))
        return blob

    async def open(self, blob: Blob) -> bytes:
        """The bytes behind a claim check, verified."""
        data = self._kept.get(key_of(blob))
        if data is None:
            raise HistoryCorrupt(f"blob `{blob.uri}` is gone")
        return verified(blob, data)
