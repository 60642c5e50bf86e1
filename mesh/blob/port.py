"""What the mesh needs to keep large payloads.

Source: design, section 2.
"""

from typing import Protocol

from mesh.core.payload import Blob

__all__ = ["BlobStore"]


class BlobStore(Protocol):
    """Bytes by their SHA-256; the same bytes are kept once and never change."""

    async def put(self, data: bytes) -> Blob:
        """Keep bytes; durable when it returns.

        Raises:
            PayloadTooLarge: Over `PAYLOAD_LIMIT`.
            Unavailable: The store does not answer; putting again is safe.
        """
        ...

    async def open(self, blob: Blob) -> bytes:
        """The bytes behind a claim check, verified.

        Raises:
            HistoryCorrupt: They are not what the claim check says, or are gone.
            Unavailable: The store does not answer.
        """
        ...
