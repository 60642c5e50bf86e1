"""The ledger's read side, for agents and gateways: what the log has forgotten.

Source: `ledger.proto`, ReadHistory; design, section 5.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC

import grpc

from mesh.core.envelope import Record
from mesh.wire.codec import read_record
from mesh.wire.rpc import MESSAGE_BYTES, translated
from mesh.wire.v1.ledger_pb2 import ReadHistoryRequest
from mesh.wire.v1.ledger_pb2_grpc import LedgerServiceStub

__all__ = ["GrpcArchive", "open_ledger_channel"]

_TIMEOUT_S = 30.0
_OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


class GrpcArchive:
    """Histories as the ledger keeps them."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._ledger = LedgerServiceStub(channel)

    async def history(self, task_id: str, *, after: int = 0, to: int = 0) -> list[Record]:
        """One task's records above `after`, up to `to` (0: the end), ascending.

        Raises:
            Unavailable: The ledger does not answer.
        """
        request = ReadHistoryRequest(task_id=task_id, after_position=after, to_position=to)
        with translated("the ledger"):
            return [
                read_record(
                    reply.position, reply.stored_at.ToDatetime(UTC), reply.subject, reply.raw
                )
                async for reply in self._ledger.ReadHistory(request, timeout=_TIMEOUT_S)
            ]


@asynccontextmanager
async def open_ledger_channel(address: str) -> AsyncGenerator[grpc.aio.Channel]:
    """A channel to the ledger, which may come and go."""
    async with grpc.aio.insecure_channel(address, options=_OPTIONS) as channel:
        yield channel
