"""The ledger keeps a copy of every large payload that an event names: logs are trimmed."""

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import cast

from mesh.blob.port import BlobStore
from mesh.core.envelope import Record
from mesh.core.payload import Blob
from mesh.errors import HistoryCorrupt

__all__ = ["BlobCopier", "blobs_of"]

_HELD = 10_000
_SCHEME = "blob:"


def blobs_of(value: object) -> Iterator[Blob]:
    """Every claim check in an event, however deep; references to elsewhere are not the mesh's."""
    if isinstance(value, Blob):
        if value.uri.startswith(_SCHEME):
            yield value
    elif is_dataclass(value):
        for field in fields(value):
            yield from blobs_of(getattr(value, field.name))
    elif isinstance(value, tuple):
        for item in cast("tuple[object, ...]", value):  # of whatever the event has
            yield from blobs_of(item)


class BlobCopier:
    """Copies what records refer to; remembers what it copied last."""

    def __init__(self, source: BlobStore, target: BlobStore) -> None:
        self._source, self._target = source, target
        self._copied: dict[str, None] = {}

    async def copy(self, shard: str, records: Sequence[Record]) -> None:
        """Copy every blob that these records name and that was not copied before.

        Raises:
            HistoryCorrupt: A blob is gone or not what the event says, here and there.
            Unavailable: A blob store does not answer.
        """
        for record in records:
            if record.envelope is None:
                continue
            for blob in blobs_of(record.envelope.event):
                if blob.sha256 not in self._copied:
                    await self._copy(shard, record, blob)

    async def _copy(self, shard: str, record: Record, blob: Blob) -> None:
        try:
            await self._target.put(await self._source.open(blob))
        except HistoryCorrupt as error:
            try:
                await self._target.open(blob)  # copied by an earlier run, before the source lost it
            except HistoryCorrupt:
                raise HistoryCorrupt(
                    f"shard `{shard}`: the event at position {record.position} needs a blob that"
                    f" cannot be had: {error}"
                ) from error
        self._copied[blob.sha256] = None
        while len(self._copied) > _HELD:
            del self._copied[next(iter(self._copied))]
