from collections.abc import AsyncGenerator
from typing import Any

import anyio
import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from mesh import errors
from mesh.api.gateway import GATEWAY_SERVICE
from mesh.api.ledger import LEDGER_SERVICE, open_ledger_server
from mesh.api.status import status_code
from mesh.client.line import CHANNEL_OPTIONS
from mesh.core import event as e
from mesh.errors import ConfigError, MeshError, Unavailable
from mesh.ledger.reader import Reader
from mesh.store.grpc import GrpcArchive
from mesh.store.inproc import InprocStore
from mesh.store.port import Row
from mesh.wire.rpc import translated
from mesh.wire.v1.gateway_pb2 import (
    GetTaskRequest,
    ListEventsRequest,
    ListTasksRequest,
    SubmitTaskRequest,
)
from mesh.wire.v1.gateway_pb2_grpc import GatewayServiceStub
from mesh.wire.v1.ledger_pb2 import (
    GetCheckpointRequest,
    ListAgentActivityRequest,
)
from mesh.wire.v1.ledger_pb2_grpc import LedgerServiceStub
from mesh.wire.v1.payload_pb2 import Payload
from tests.services.door import Door

TASK_ID = "a" * 32
S = grpc.StatusCode
EXAMPLES: list[tuple[MeshError, grpc.StatusCode]] = [
    (errors.MeshError("what"), S.INTERNAL),
    (errors.Invalid("not so"), S.INVALID_ARGUMENT),
    (errors.EnvelopeInvalid("no envelope"), S.INVALID_ARGUMENT),
    (errors.PayloadInvalid("missing", field="a.b"), S.INVALID_ARGUMENT),
    (errors.PayloadTooLarge(size_bytes=9, limit_bytes=8), S.INVALID_ARGUMENT),
    (errors.NameInvalid("name `A`"), S.INVALID_ARGUMENT),
    (errors.HandlerInvalid("signature"), S.INVALID_ARGUMENT),
    (errors.AnswerInvalid("not so", field="a.0"), S.INVALID_ARGUMENT),
    (errors.Refused("no"), S.FAILED_PRECONDITION),
    (errors.TaskClosed(TASK_ID, state="FAILED"), S.FAILED_PRECONDITION),
    (errors.TaskUnknown(TASK_ID), S.NOT_FOUND),
    (errors.AgentUnknown("poet"), S.NOT_FOUND),
    (errors.NotDeadLettered(TASK_ID, state="WORKING"), S.FAILED_PRECONDITION),
    (errors.NotParked(TASK_ID, state="WORKING"), S.FAILED_PRECONDITION),
    (
        errors.QuestionClosed(TASK_ID, request_id="q", reason="has expired"),
        S.FAILED_PRECONDITION,
    ),
    (errors.HopLimit(TASK_ID, hops=32, max_hops=32), S.FAILED_PRECONDITION),
    (errors.SwapLimit(TASK_ID, agents=("a", "b"), swaps=6), S.FAILED_PRECONDITION),
    (errors.DepthLimit(TASK_ID, depth=9, max_depth=8), S.FAILED_PRECONDITION),
    (errors.DelegationCycle(TASK_ID, chain=("a", "b", "a")), S.FAILED_PRECONDITION),
    (
        errors.BudgetExceeded(TASK_ID, counter="tokens", limit=9, spent=8, asked=2),
        S.FAILED_PRECONDITION,
    ),
    (errors.KeyConflict("schlüssel\n", task_id=TASK_ID), S.ALREADY_EXISTS),
    (errors.Contested("read again"), S.ABORTED),
    (errors.Fenced(TASK_ID, expected=3, actual=4), S.ABORTED),
    (errors.Fenced(TASK_ID, expected=3), S.ABORTED),
    (errors.Unresolved("no answer"), S.ABORTED),
    (errors.Unavailable("gone"), S.UNAVAILABLE),
    (errors.LogFull("full"), S.RESOURCE_EXHAUSTED),
    (errors.Retryable("later", after=1.5), S.UNAVAILABLE),
    (errors.Retryable(), S.UNAVAILABLE),
    (errors.Fatal("never"), S.FAILED_PRECONDITION),
    (errors.Unsuccessful(TASK_ID, state="FAILED"), S.FAILED_PRECONDITION),
    (
        errors.TaskFailed(TASK_ID, state="FAILED", reason="r", failure_code="c"),
        S.FAILED_PRECONDITION,
    ),
    (errors.TaskRejected(TASK_ID, state="REJECTED", reason="r"), S.FAILED_PRECONDITION),
    (errors.TaskCanceled(TASK_ID, state="CANCELED"), S.FAILED_PRECONDITION),
    (
        errors.StepFailed(TASK_ID, name="s", ordinal=2, reason="r", failure_code="c"),
        S.FAILED_PRECONDITION,
    ),
    (errors.ChildFailed(TASK_ID, state="FAILED", reason="r"), S.FAILED_PRECONDITION),
    (errors.Halted("stop"), S.INTERNAL),
    (errors.HistoryCorrupt("gap"), S.DATA_LOSS),
    (errors.CheckpointConflict("s0", expected=1, actual=2), S.INTERNAL),
    (errors.StreamDrifted("settings"), S.INTERNAL),
    (errors.StoreLocked("locked"), S.INTERNAL),
    (errors.ConfigError("file, key, line"), S.INTERNAL),
]


class RaisingStore(InprocStore):
    """A store whose answer is an error."""

    error: Exception = MeshError("unset")

    async def row(self, projection: str, key: str) -> Row | None:
        raise self.error


@pytest.fixture
async def raising() -> AsyncGenerator[tuple[RaisingStore, grpc.aio.Channel]]:
    store = RaisingStore()
    async with (
        open_ledger_server(Reader(store)) as address,
        grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel,
    ):
        yield store, channel


@pytest.fixture
async def gateway() -> AsyncGenerator[tuple[Door, grpc.aio.Channel]]:
    door = Door()
    async with (
        door.rig.agent("planner"),
        door.open_gateway() as (address, _),
        grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel,
    ):
        yield door, channel


def test_every_error_has_an_example() -> None:
    kinds = {getattr(errors, name) for name in errors.__all__} - {errors.Verdict}
    assert {type(error) for error, _ in EXAMPLES} == kinds
    assert len({kind.code for kind in kinds}) == len(kinds)


@pytest.mark.parametrize(("error", "code"), EXAMPLES, ids=lambda x: type(x).__name__)
async def test_an_error_crosses_as_itself(
    raising: tuple[RaisingStore, grpc.aio.Channel], error: MeshError, code: grpc.StatusCode
) -> None:
    store, channel = raising
    store.error = error
    stub: Any = LedgerServiceStub(channel)
    with pytest.raises(MeshError) as unary, translated():
        await stub.GetTask(GetTaskRequest(task_id=TASK_ID))
    with pytest.raises(MeshError) as streamed:
        await GrpcArchive(channel).history(TASK_ID)
    for came in (unary.value, streamed.value):
        assert type(came) is type(error)
        assert str(came) == str(error)
        assert vars(came) == vars(error)
        assert isinstance(came.__cause__, grpc.aio.AioRpcError)
        assert came.__cause__.code() is code is status_code(error)


async def test_an_error_of_a_newer_version_keeps_its_text(
    raising: tuple[RaisingStore, grpc.aio.Channel],
) -> None:
    class Newer(errors.Refused):
        code = "newer.kind"

    store, channel = raising
    store.error = Newer("in words")
    with pytest.raises(MeshError, match="in words") as came:
        await GrpcArchive(channel).history(TASK_ID)
    assert type(came.value) is MeshError


async def test_a_very_long_text_still_arrives(
    raising: tuple[RaisingStore, grpc.aio.Channel],
) -> None:
    store, channel = raising
    store.error = errors.PayloadInvalid("ä" * 100_000, field="€" * 100_000)
    with pytest.raises(errors.PayloadInvalid, match="ä" * 500) as came:
        await GrpcArchive(channel).history(TASK_ID)
    assert came.value.field == "€" * 100


async def test_a_bug_is_logged_and_told_without_its_internals(
    raising: tuple[RaisingStore, grpc.aio.Channel], caplog: pytest.LogCaptureFixture
) -> None:
    store, channel = raising
    store.error = KeyError("secret")
    stub: Any = LedgerServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await stub.GetTask(GetTaskRequest(task_id=TASK_ID))
    assert failed.value.code() is S.INTERNAL
    assert "secret" not in str(failed.value.details())
    (logged,) = [record for record in caplog.records if record.exc_info]
    assert "GetTask" in logged.getMessage()


async def test_health_knows_each_service(gateway: tuple[Door, grpc.aio.Channel]) -> None:
    stub: Any = HealthStub(gateway[1])
    for service in ("", GATEWAY_SERVICE):
        reply = await stub.Check(HealthCheckRequest(service=service))
        assert reply.status == HealthCheckResponse.SERVING
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await stub.Check(HealthCheckRequest(service=LEDGER_SERVICE))
    assert failed.value.code() is S.NOT_FOUND


async def test_reflection_lists_the_services(gateway: tuple[Door, grpc.aio.Channel]) -> None:
    channel: Any = gateway[1]
    stub: Any = ServerReflectionStub(channel)
    call = stub.ServerReflectionInfo()
    await call.write(ServerReflectionRequest(list_services=""))
    await call.done_writing()
    reply = await call.read()
    assert GATEWAY_SERVICE in {one.name for one in reply.list_services_response.service}


async def test_a_port_in_use_is_named_with_the_fix() -> None:
    async with open_ledger_server(Reader(InprocStore())) as address:
        with pytest.raises(ConfigError, match=f"{address}.*another port"):
            async with open_ledger_server(Reader(InprocStore()), address):
                pass


async def test_a_server_with_an_open_stream_stops_within_its_grace() -> None:
    door = Door()
    async with door.rig.agent("planner"), anyio.create_task_group() as tasks:
        running = await door.start_gateway(tasks)
        async with grpc.aio.insecure_channel(running.address) as channel:
            stub: Any = GatewayServiceStub(channel)
            reply = await stub.SubmitTask(SubmitTaskRequest(agent="planner"))
            call = stub.WatchTask(GetTaskRequest(task_id=reply.task.task_id))
            await call.read()
            began = anyio.current_time()
            await running.stop()
            assert anyio.current_time() - began < 3
            await call.read()
            with pytest.raises(Unavailable), translated():
                await call.read()


async def test_a_call_goes_on_in_the_trace_of_its_caller(
    gateway: tuple[Door, grpc.aio.Channel],
) -> None:
    door, channel = gateway
    stub: Any = GatewayServiceStub(channel)
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    sent = (("traceparent", parent), ("tracestate", "a=b"), ("baggage", "c=d"))
    traces: list[str] = []
    for metadata in (sent, (("traceparent", "junk"), ("tracestate", "a=b"))):
        reply = await stub.SubmitTask(SubmitTaskRequest(agent="planner"), metadata=metadata)
        (record,) = await door.rig.bus.history(reply.task.task_id)
        assert record.envelope is not None
        traces.append(record.envelope.trace.traceparent)
    own, fresh = (trace.split("-") for trace in traces)
    assert own[1] == parent.split("-")[1]
    assert own[2] != parent.split("-")[2]  # the span that sent it is the gateway's own
    assert fresh[1] != own[1]


async def test_json_that_cannot_be_shown_is_left_as_bytes(
    gateway: tuple[Door, grpc.aio.Channel],
) -> None:
    door, channel = gateway
    stub: Any = GatewayServiceStub(channel)
    for data in (b"{", b"NaN", b"[" * 60 + b"]" * 60, b"[" * 5000 + b"]" * 5000, b"\xff"):
        payload = Payload(content_type="application/json", data=data)
        reply = await stub.SubmitTask(SubmitTaskRequest(agent="planner", input=payload))
        task_id = reply.task.task_id
        begun = (await door.rig.task(task_id)).input
        await door.rig.act(task_id, e.Completed(result=begun))
        task = await stub.GetTask(GetTaskRequest(task_id=task_id))
        assert not task.HasField("result")
        assert task.result_payload.data == data


async def test_the_ledger_answers_for_itself() -> None:
    door = Door()
    async with door.rig.agent("planner"), door.open_ledger() as address:
        async with door.rig.desks(1) as (desk,):
            dead = await door.rig.dead_lettered(desk)
        await door.recorded()
        async with grpc.aio.insecure_channel(address) as channel:
            stub: Any = LedgerServiceStub(channel)
            task = await stub.GetTask(GetTaskRequest(task_id=dead))
            assert task.dead_lettered
            checkpoint = await stub.GetCheckpoint(GetCheckpointRequest())
            assert (checkpoint.position, checkpoint.count) == (4, 4)
            assert len(checkpoint.chain_sha256) == 64
            reply = await stub.ListAgentActivity(ListAgentActivityRequest())
            counts = {a.agent: (a.received, a.dead_lettered) for a in reply.agents}
            assert counts["planner"] == (1, 0)
            assert counts["writer"] == (1, 1)
            for request in (ListTasksRequest(page_token="x"), ListTasksRequest(page_token="-1")):
                with pytest.raises(errors.Invalid, match="page_token"), translated():
                    await stub.ListTasks(request)


async def test_a_page_of_large_events_ends_before_it_cannot_be_sent() -> None:
    door = Door()
    async with door.rig.agent("planner"), door.open_ledger() as address:
        large = Payload(content_type="application/octet-stream", data=bytes(250_000))
        async with (
            door.open_gateway() as (gateway, _),
            grpc.aio.insecure_channel(gateway, options=CHANNEL_OPTIONS) as channel,
        ):
            stub: Any = GatewayServiceStub(channel)
            for _ in range(90):
                await stub.SubmitTask(SubmitTaskRequest(agent="planner", input=large))
        await door.recorded()
        async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
            ledger: Any = LedgerServiceStub(channel)
            seen: list[int] = []
            request = ListEventsRequest(page_size=1000, with_payload=True, with_raw=True)
            while True:
                reply = await ledger.ListEvents(request)
                assert reply.ByteSize() < 50 * 1024 * 1024
                seen += [event.position for event in reply.events]
                if not reply.next_page_token:
                    break
                request.page_token = reply.next_page_token
    assert seen == list(range(1, 91))
