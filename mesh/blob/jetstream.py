"""Blobs in a JetStream object store: one bucket per tenant, one object per content.

The layout is the object store's own, so that its tools read it. The writing is ours: the client's
`put` replaces an object that stands and purges its chunks under those who read it.
"""
# pyright: reportUnknownMemberType=false
# nats-py leaves its keyword parameters without types.

import base64
import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import nats.errors
import nats.js.errors
from anyio import to_thread
from nats.js import JetStreamContext, api

from mesh.blob.check import claim_check, key_of, verified
from mesh.clock import IdSource
from mesh.core.payload import Blob
from mesh.errors import HistoryCorrupt, StreamDrifted, Unavailable

__all__ = ["JetStreamBlobs", "jetstream_blobs"]

_CHUNK_BYTES = 128 * 1024
_STALE = 10071  # another message stands on the subject than the one expected
_IN_USE = 10058  # the stream exists with another configuration


@dataclass(frozen=True, slots=True)
class _Object:
    """An object's description as it stands in the bucket; `seq` is 0 when there is none."""

    seq: int = 0
    nuid: str = ""
    size: int = -1
    chunks: int = 0


async def jetstream_blobs(
    js: JetStreamContext, *, tenant: str, ids: IdSource, replicas: int = 1
) -> "JetStreamBlobs":
    """Blobs of a tenant, in a bucket that is made if it is not there.

    Raises:
        StreamDrifted: The bucket is there with other settings.
        Unavailable: JetStream does not answer.
    """
    bucket = f"mesh-{tenant}-blobs"
    with _translated(bucket):
        try:
            await js.create_object_store(bucket, replicas=replicas, storage=api.StorageType.FILE)
        except nats.js.errors.BadRequestError as error:
            if error.err_code != _IN_USE:
                raise
            raise StreamDrifted(
                f"bucket `{bucket}` exists with other settings than {replicas} replica(s) on"
                f" file: {error.description}"
            ) from error
    return JetStreamBlobs(js, bucket, ids)


class JetStreamBlobs:
    """A `BlobStore` over one bucket; made by `jetstream_blobs`."""

    def __init__(self, js: JetStreamContext, bucket: str, ids: IdSource) -> None:
        self._js = js
        self._bucket = bucket
        self._stream = f"OBJ_{bucket}"
        self._ids = ids

    async def put(self, data: bytes) -> Blob:
        """Keep bytes; durable as the bucket is when it returns.

        Chunks go under a name of their own and count only once the description stands, which is
        written last and by one of many at most. What a crash leaves is never read.
        """
        blob = await to_thread.run_sync(claim_check, data)
        with _translated(self._bucket):
            there = await self._described(blob.sha256)
            if there.size == blob.size:
                return blob
            nuid = self._ids.fresh()
            for start in range(0, blob.size, _CHUNK_BYTES):
                await self._js.publish(
                    self._chunks(nuid), data[start : start + _CHUNK_BYTES], stream=self._stream
                )
            await self._describe(blob, nuid, there.seq)
        return blob

    async def open(self, blob: Blob) -> bytes:
        """The bytes behind a claim check, verified."""
        key = key_of(blob)
        with _translated(self._bucket):
            there = await self._described(key)
            if not there.nuid:
                raise HistoryCorrupt(f"blob `{blob.uri}` is gone")
            if there.size != blob.size:
                raise HistoryCorrupt(
                    f"blob `{blob.uri}` has {there.size} bytes, expected {blob.size}"
                )
            parts = await self._read(blob, there)
        return await to_thread.run_sync(verified, blob, b"".join(parts))

    async def _read(self, blob: Blob, there: _Object) -> list[bytes]:
        parts: list[bytes] = []
        seq = 0
        for _ in range(there.chunks):
            # Asked of the leader: a replica may not have it yet.
            try:
                message = await self._js.get_msg(
                    self._stream, seq=seq + 1, subject=self._chunks(there.nuid), next=True
                )
            except nats.js.errors.NotFoundError as error:
                raise HistoryCorrupt(
                    f"blob `{blob.uri}` has {len(parts)} of {there.chunks} chunks"
                ) from error
            parts.append(message.data or b"")
            seq = message.seq or 0
        return parts

    async def _described(self, key: str) -> _Object:
        """What stands under a key; a deleted object has a place but no `nuid`."""
        try:
            message = await self._js.get_last_msg(self._stream, self._meta(key))
        except nats.js.errors.NotFoundError:
            return _Object()
        seq = message.seq or 0
        try:
            info = api.ObjectInfo.from_response(json.loads(message.data or b"{}"))
        except (ValueError, KeyError, TypeError) as error:
            raise HistoryCorrupt(f"blob `{key}` has an unreadable description") from error
        if info.deleted or not info.nuid:
            return _Object(seq=seq)
        return _Object(seq=seq, nuid=info.nuid, size=info.size or 0, chunks=info.chunks or 0)

    async def _describe(self, blob: Blob, nuid: str, expected_seq: int) -> None:
        """Make the chunks an object, unless somebody else was first: then they are dropped."""
        digest = base64.urlsafe_b64encode(bytes.fromhex(blob.sha256)).decode()
        info = api.ObjectInfo(
            name=blob.sha256,
            bucket=self._bucket,
            nuid=nuid,
            size=blob.size,
            chunks=-(-blob.size // _CHUNK_BYTES),
            digest=f"SHA-256={digest}",
            options=api.ObjectMetaOptions(max_chunk_size=_CHUNK_BYTES),
        )
        try:
            await self._js.publish(
                self._meta(blob.sha256),
                json.dumps(info.as_dict()).encode(),
                stream=self._stream,
                headers={
                    api.Header.ROLLUP.value: "sub",
                    api.Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value: str(expected_seq),
                },
            )
        except nats.js.errors.APIError as error:
            if error.err_code != _STALE:
                raise
            await self._js.purge_stream(self._stream, subject=self._chunks(nuid))

    def _chunks(self, nuid: str) -> str:
        return f"$O.{self._bucket}.C.{nuid}"

    def _meta(self, key: str) -> str:
        return f"$O.{self._bucket}.M.{base64.urlsafe_b64encode(key.encode()).decode()}"


@contextmanager
def _translated(bucket: str) -> Generator[None]:
    try:
        yield
    except (nats.errors.Error, OSError) as error:
        raise Unavailable(f"bucket `{bucket}`: {error or type(error).__name__}") from error
