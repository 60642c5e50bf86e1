"""`GatewayService`: requests to desk calls, and back."""

from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager

import grpc

from mesh.api import view
from mesh.api.request import CallContext, point_of, submission_of, trace_of
from mesh.api.server import open_server
from mesh.core.envelope import TraceContext
from mesh.core.payload import Blob
from mesh.errors import AgentUnknown, MeshError
from mesh.gateway.desk import Desk
from mesh.gateway.live import Chunk, LiveOrder
from mesh.gateway.reading import Reading
from mesh.gateway.watch import TailQuery, Update, tail, watch_live
from mesh.wire.rpc import translated
from mesh.wire.v1 import api_pb2 as api
from mesh.wire.v1 import gateway_pb2 as pb
from mesh.wire.v1 import ledger_pb2, ledger_pb2_grpc
from mesh.wire.v1.gateway_pb2_grpc import (
    GatewayServiceServicer,
    add_GatewayServiceServicer_to_server,
)

__all__ = ["GATEWAY_SERVICE", "GatewayServicer", "open_gateway_server"]

GATEWAY_SERVICE = "mesh.wire.v1.GatewayService"

_CHUNK_BYTES = 1024 * 1024
_LEDGER_S = 15.0


class GatewayServicer(GatewayServiceServicer):
    """The front door over gRPC; lists come from the ledger."""

    def __init__(self, desk: Desk, ledger: grpc.aio.Channel) -> None:
        self._desk = desk
        self._ledger = ledger_pb2_grpc.LedgerServiceStub(ledger)

    async def SubmitTask(
        self, request: pb.SubmitTaskRequest, context: CallContext
    ) -> pb.SubmitTaskResponse:
        """Begin a task."""
        submitted = await self._desk.submit(submission_of(request, trace_of(context)))
        return pb.SubmitTaskResponse(
            task=view.task(submitted.task, shard=submitted.shard),
            warnings=submitted.warnings,
            duplicate=submitted.duplicate,
        )

    async def GetTask(self, request: pb.GetTaskRequest, context: CallContext) -> api.Task:
        """One task, from the log."""
        return _shown(await self._desk.read(request.task_id))

    async def ListTasks(
        self, request: pb.ListTasksRequest, context: CallContext
    ) -> pb.ListTasksResponse:
        """Tasks, from the ledger."""
        with translated("the ledger"):
            return await self._ledger.ListTasks(request, timeout=_LEDGER_S)

    async def WatchTask(
        self, request: pb.WatchTaskRequest, context: CallContext
    ) -> AsyncGenerator[pb.WatchTaskResponse]:
        """A task, until it closes."""
        order = LiveOrder(request.live_run, request.live_number) if request.live else None
        after = request.after_position
        updates = watch_live(self._desk, request.task_id, after=after, order=order)
        async with aclosing(updates):
            async for update in updates:
                yield _live(update) if isinstance(update, Chunk) else _update(update)

    async def ListEvents(
        self, request: pb.ListEventsRequest, context: CallContext
    ) -> pb.ListEventsResponse:
        """Events, from the ledger."""
        request.shard = await self._shard(request.shard, request.task_id)
        with translated("the ledger"):
            return await self._ledger.ListEvents(request, timeout=_LEDGER_S)

    async def TailEvents(
        self, request: pb.TailEventsRequest, context: CallContext
    ) -> AsyncGenerator[api.Event]:
        """Events as they are stored."""
        query = TailQuery(
            shard=await self._shard(request.shard, request.task_id),
            first=request.from_position,
            task_id=request.task_id,
            agent=request.agent,
            kind=request.kind,
        )
        records = tail(self._desk.parts.bus, query)
        async with aclosing(records):
            async for record in records:
                yield view.event(
                    record, with_payload=request.with_payload, with_raw=request.with_raw
                )

    async def CancelTask(self, request: pb.CancelTaskRequest, context: CallContext) -> api.Task:
        """Ask a task's owner to wind up."""
        trace = _given(trace_of(context))
        return _shown(await self._desk.cancel(request.task_id, reason=request.reason, trace=trace))

    async def RedriveTask(self, request: pb.RedriveTaskRequest, context: CallContext) -> api.Task:
        """Give a dead-lettered delivery to its agent again."""
        trace = _given(trace_of(context))
        return _shown(
            await self._desk.redrive(request.task_id, request_id=request.request_id, trace=trace)
        )

    async def AnswerTask(self, request: pb.AnswerTaskRequest, context: CallContext) -> api.Task:
        """Answer an open question."""
        reading = await self._desk.answer(
            request.task_id,
            view.payload_of(request.answer),
            question_id=request.question_id,
            request_id=request.request_id,
            trace=_given(trace_of(context)),
        )
        return _shown(reading)

    async def SignalTask(self, request: pb.SignalTaskRequest, context: CallContext) -> api.Task:
        """Give a task a named signal."""
        reading = await self._desk.signal(
            request.task_id,
            request.name,
            view.payload_of(request.value) if request.HasField("value") else None,
            request_id=request.request_id,
            trace=_given(trace_of(context)),
        )
        return _shown(reading)

    async def UnparkTask(self, request: pb.UnparkTaskRequest, context: CallContext) -> api.Task:
        """Let a held task go on."""
        reading = await self._desk.unpark(
            request.task_id,
            reason=request.reason,
            request_id=request.request_id,
            trace=_given(trace_of(context)),
        )
        return _shown(reading)

    async def GetState(self, request: pb.GetStateRequest, context: CallContext) -> api.StateAt:
        """A task's state at a point of its history."""
        task, shard = await self._desk.state(request.task_id, point_of(request))
        return view.state_at(task, shard=shard)

    async def ListAgents(
        self, request: pb.ListAgentsRequest, context: CallContext
    ) -> pb.ListAgentsResponse:
        """Every agent ever registered, and who is alive."""
        registry, bus = self._desk.parts.registry, self._desk.parts.bus
        cards = await registry.cards()
        if request.name:
            cards = [card for card in cards if card.name == request.name]
            if not cards:
                raise AgentUnknown(request.name)
        alive = await registry.presences(request.name)
        return pb.ListAgentsResponse(
            agents=[
                view.agent(c, [p for p in alive if p.agent == c.name], await bus.backlog(c.name))
                for c in cards
            ]
        )

    async def ListDeadLetters(
        self, request: pb.ListDeadLettersRequest, context: CallContext
    ) -> pb.ListDeadLettersResponse:
        """Dead letters that were not redriven, from the ledger."""
        with translated("the ledger"):
            return await self._ledger.ListDeadLetters(request, timeout=_LEDGER_S)

    async def GetBlob(
        self, request: pb.GetBlobRequest, context: CallContext
    ) -> AsyncGenerator[pb.GetBlobResponse]:
        """The bytes of a claim check, verified before the first is sent."""
        blob = Blob(uri=request.uri, sha256=request.sha256, size=request.size)
        data = memoryview(await self._desk.parts.blobs.open(blob))
        for start in range(0, len(data), _CHUNK_BYTES):
            yield pb.GetBlobResponse(chunk=bytes(data[start : start + _CHUNK_BYTES]))

    async def GetStatus(
        self, request: pb.GetStatusRequest, context: CallContext
    ) -> pb.GetStatusResponse:
        """Where the log and the ledger stand."""
        reply = pb.GetStatusResponse(tenant=self._desk.parts.tenant)
        for log in await self._desk.parts.bus.info():
            reply.shards.add(
                shard=log.shard,
                log_first=log.first,
                log_last=log.last,
                replicas=log.replicas,
            )
        try:
            for shard in reply.shards:
                shard.checkpoint = await self._checkpoint(shard.shard)
        except MeshError as error:
            reply.ledger_error = str(error)  # the answer is what stands in the log
        return reply

    async def _shard(self, asked: str, task_id: str) -> str:
        """The shard that a request is about: the one it names, or the one of its task."""
        if asked or not task_id or len(await self._desk.parts.bus.info()) == 1:
            return asked or "s0"
        return (await self._desk.read(task_id)).shard

    async def _checkpoint(self, shard: str) -> int:
        asked = ledger_pb2.GetCheckpointRequest(shard=shard)
        with translated("the ledger"):
            reply = await self._ledger.GetCheckpoint(asked, timeout=_LEDGER_S)
        return reply.position


@asynccontextmanager
async def open_gateway_server(
    desk: Desk, ledger: grpc.aio.Channel, address: str = "127.0.0.1:50051"
) -> AsyncGenerator[str]:
    """Serve the front door.

    Args:
        desk: Its logic.
        ledger: Channel to the ledger, for lists; it may come and go.
        address: Host and port to listen on; port 0 for a free one.

    Returns:
        The address that it listens on.

    Raises:
        ConfigError: The address cannot be listened on.
    """

    def add(server: grpc.aio.Server) -> None:
        add_GatewayServiceServicer_to_server(GatewayServicer(desk, ledger), server)

    async with open_server(add, GATEWAY_SERVICE, address) as bound:
        yield bound


def _shown(reading: Reading) -> api.Task:
    return view.task(reading.task, shard=reading.shard)


def _update(update: Update) -> pb.WatchTaskResponse:
    event = view.event(update.record) if update.record else None
    # With them, a parent's updates would grow with its children, each time.
    waits = update.record is None
    shown = view.task(update.task, shard=update.shard, with_waits=waits)
    return pb.WatchTaskResponse(task=shown, event=event)


def _live(chunk: Chunk) -> pb.WatchTaskResponse:
    shown = api.Live(
        run=chunk.run, number=chunk.number, text=chunk.text, after_position=chunk.after
    )
    return pb.WatchTaskResponse(live=shown)


def _given(trace: TraceContext) -> TraceContext | None:
    """Without a context of its own, a call goes on in the task's."""
    return trace if trace.traceparent else None
