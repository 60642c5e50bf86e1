"""`LedgerService`: requests to reader calls, and back."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import grpc

from mesh.api import view
from mesh.api.request import CallContext, page_size, page_token, point_of
from mesh.api.server import open_server
from mesh.core.subject import Subject
from mesh.core.task import State
from mesh.errors import TaskUnknown
from mesh.ledger.reader import Reader
from mesh.store.port import EventQuery
from mesh.wire import mirror
from mesh.wire.v1 import api_pb2 as api
from mesh.wire.v1 import gateway_pb2 as pb
from mesh.wire.v1 import ledger_pb2
from mesh.wire.v1.ledger_pb2_grpc import (
    LedgerServiceServicer,
    add_LedgerServiceServicer_to_server,
)

__all__ = ["LEDGER_SERVICE", "LedgerServicer", "open_ledger_server"]

LEDGER_SERVICE = "mesh.wire.v1.LedgerService"
_PAGE_BYTES = 16 * 1024 * 1024
"""A page of events ends early here, so that payloads never make it too large to send."""


class LedgerServicer(LedgerServiceServicer):
    """The ledger's read side over gRPC."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    async def GetTask(self, request: pb.GetTaskRequest, context: CallContext) -> api.Task:
        """One task as the projection has it."""
        task = await self._reader.task(request.task_id)
        if task is None:
            raise TaskUnknown(request.task_id)
        return view.task(task)

    async def ListTasks(
        self, request: pb.ListTasksRequest, context: CallContext
    ) -> pb.ListTasksResponse:
        """Tasks, the last submitted first."""
        tasks, token = await self._reader.tasks(
            states=[State(api.Task.State.Name(state)) for state in request.states],
            agent=request.agent,
            before=page_token(request.page_token),
            limit=page_size(request.page_size),
        )
        return pb.ListTasksResponse(
            tasks=[view.task(task, with_result=False) for task in tasks],
            next_page_token=str(token or ""),
        )

    async def ListEvents(
        self, request: pb.ListEventsRequest, context: CallContext
    ) -> pb.ListEventsResponse:
        """Events of one shard, oldest first; a token is the position to go on at."""
        limit = page_size(request.page_size)
        # The store has no kind for these, and a page of them may be empty and have a next one.
        unreadable = request.kind == view.UNREADABLE
        query = EventQuery(
            shard=request.shard or "s0",
            task_id=request.task_id,
            agent=request.agent,
            kind="" if unreadable else request.kind,
            first=max(request.from_position, page_token(request.page_token), 1),
            last=request.to_position,
            since=view.time_of(request, "since"),
            until=view.time_of(request, "until"),
            limit=limit,
        )
        found = await self._reader.events(query)
        reply, size, end = pb.ListEventsResponse(), 0, len(found) < limit
        for record in (stored.record for stored in found):
            if unreadable and record.envelope is not None:
                continue
            size += len(record.raw)
            if reply.events and size > _PAGE_BYTES:
                reply.next_page_token = str(record.position)
                return reply
            shown = view.event(record, with_payload=request.with_payload, with_raw=request.with_raw)
            reply.events.append(shown)
        if not end:
            reply.next_page_token = str(found[-1].record.position + 1)
        return reply

    async def ReadHistory(
        self, request: ledger_pb2.ReadHistoryRequest, context: CallContext
    ) -> AsyncGenerator[ledger_pb2.ReadHistoryResponse]:
        """One task's records as stored."""
        records = await self._reader.history(
            request.task_id, after=request.after_position, to=request.to_position
        )
        for record in records:
            yield ledger_pb2.ReadHistoryResponse(
                shard=Subject.parse(record.subject).shard,
                position=record.position,
                stored_at=view.instant(record.stored_at),
                subject=record.subject,
                raw=record.raw,
            )

    async def GetState(self, request: pb.GetStateRequest, context: CallContext) -> api.StateAt:
        """A task's state at a point of its history, from the stored events."""
        task = await self._reader.state_at(request.task_id, point_of(request))
        return view.state_at(task)

    async def ListDeadLetters(
        self, request: pb.ListDeadLettersRequest, context: CallContext
    ) -> pb.ListDeadLettersResponse:
        """Dead letters that stand, oldest first."""
        entries, token = await self._reader.dead_letters(
            agent=request.agent,
            after=page_token(request.page_token),
            limit=page_size(request.page_size),
        )
        reply = pb.ListDeadLettersResponse(next_page_token=str(token or ""))
        for entry in entries:
            mirror.fill(reply.dead_letters.add(), entry)
        return reply

    async def GetCheckpoint(
        self, request: ledger_pb2.GetCheckpointRequest, context: CallContext
    ) -> ledger_pb2.GetCheckpointResponse:
        """How far the ledger got in one shard."""
        checkpoint = await self._reader.checkpoint(request.shard or "s0")
        return ledger_pb2.GetCheckpointResponse(
            shard=checkpoint.shard,
            first_position=checkpoint.first,
            position=checkpoint.position,
            count=checkpoint.count,
            chain_sha256=checkpoint.chain.hex(),
        )

    async def ListAgentActivity(
        self, request: ledger_pb2.ListAgentActivityRequest, context: CallContext
    ) -> ledger_pb2.ListAgentActivityResponse:
        """What each agent did, by name."""
        reply = ledger_pb2.ListAgentActivityResponse()
        for activity in await self._reader.activity():
            mirror.fill(reply.agents.add(), activity)
        return reply


@asynccontextmanager
async def open_ledger_server(reader: Reader, address: str = "127.0.0.1:0") -> AsyncGenerator[str]:
    """Serve the ledger's read side.

    Args:
        reader: Its logic.
        address: Host and port to listen on; port 0 for a free one.

    Returns:
        The address that it listens on.

    Raises:
        ConfigError: The address cannot be listened on.
    """

    def add(server: grpc.aio.Server) -> None:
        add_LedgerServiceServicer_to_server(LedgerServicer(reader), server)

    async with open_server(add, LEDGER_SERVICE, address) as bound:
        yield bound
