"""The claim check: payloads too large for an event leave it before the append, and come back."""

from dataclasses import replace

from mesh.blob.port import BlobStore
from mesh.core.payload import INLINE_LIMIT, PAYLOAD_LIMIT, Payload
from mesh.errors import PayloadTooLarge

__all__ = ["check_in", "redeem"]


async def check_in(payload: Payload, blobs: BlobStore) -> Payload:
    """The payload as an event may carry it: its bytes kept elsewhere when they are too many.

    Raises:
        PayloadTooLarge: Over `PAYLOAD_LIMIT`.
    """
    size = len(payload.data)
    if size > PAYLOAD_LIMIT:
        raise PayloadTooLarge(size_bytes=size, limit_bytes=PAYLOAD_LIMIT)
    if size <= INLINE_LIMIT:
        return payload
    return replace(payload, data=b"", blob=await blobs.put(payload.data))


async def redeem(payload: Payload, blobs: BlobStore) -> Payload:
    """The payload with its bytes in place, verified."""
    if payload.blob is None:
        return payload
    return replace(payload, data=await blobs.open(payload.blob), blob=None)
