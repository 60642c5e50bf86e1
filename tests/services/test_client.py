from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import anyio
import pytest
from google.protobuf.json_format import MessageToDict

from mesh.agent.payload import encode_value
from mesh.client import EventFilter, Mesh, TaskHandle
from mesh.core import event as e
from mesh.core.payload import INLINE_LIMIT, PAYLOAD_LIMIT, Payload
from mesh.errors import (
    AgentUnknown,
    Invalid,
    KeyConflict,
    NameInvalid,
    NotDeadLettered,
    PayloadInvalid,
    PayloadTooLarge,
    TaskCanceled,
    TaskClosed,
    TaskFailed,
    TaskRejected,
    TaskUnknown,
)
from mesh.wire.v1.api_pb2 import Task
from tests.make import FAILURE
from tests.services.door import Door


@pytest.fixture
def door() -> Door:
    return Door()


@pytest.fixture
async def mesh(door: Door) -> AsyncGenerator[Mesh]:
    async with door.connected() as made:
        yield made


@dataclass
class Brief:
    title: str
    pages: int


async def complete(door: Door, task: TaskHandle, value: object) -> None:
    await door.rig.act(task.id, e.WorkStarted(), e.Completed(result=encode_value(value)))


async def test_a_submitted_task_is_there_at_once_and_shows_what_was_asked(mesh: Mesh) -> None:
    deadline = datetime(2030, 1, 1, tzinfo=UTC)
    task = await mesh.submit(
        "planner",
        {"topic": "bees"},
        deadline=deadline,
        labels={"team": "a"},
        objective="a brief",
        max_hops=3,
    )
    info = await task.info()
    assert info.state == Task.SUBMITTED
    assert (info.owner, info.objective, info.max_hops) == ("planner", "a brief", 3)
    assert dict(info.labels) == {"team": "a"}
    assert info.deadline.ToDatetime(UTC) == deadline
    assert (info.shard, info.version) == ("s0", 1)
    assert not task.warnings
    assert not task.duplicate


@pytest.mark.parametrize(
    ("value", "as_type", "expected"),
    [
        ({"a": [1, 2]}, None, {"a": [1, 2]}),
        ("text", None, "text"),
        (b"\x00\xff", None, b"\x00\xff"),
        (Brief("t", 3), None, {"title": "t", "pages": 3}),
        (Brief("t", 3), Brief, Brief("t", 3)),
        (None, None, None),
        (17, int, 17),
    ],
)
async def test_a_result_comes_back_as_it_was_given(
    door: Door, mesh: Mesh, value: object, as_type: type | None, expected: object
) -> None:
    task = await mesh.submit("planner", {})
    await complete(door, task, value)
    with anyio.fail_after(5):
        assert await task.result(as_type=as_type) == expected


async def test_a_result_of_another_shape_names_the_field(door: Door, mesh: Mesh) -> None:
    task = await mesh.submit("planner", {})
    await complete(door, task, {"title": "t", "pages": "many"})
    with pytest.raises(PayloadInvalid, match="pages"):
        await task.result(as_type=Brief)


async def test_a_task_that_completes_without_a_result_gives_none(door: Door, mesh: Mesh) -> None:
    task = await mesh.submit("planner", {})
    await door.rig.act(task.id, e.Completed())
    assert await task.result() is None


async def test_a_large_result_is_fetched_and_verified(door: Door, mesh: Mesh) -> None:
    data = bytes(range(256)) * (INLINE_LIMIT // 64)
    task = await mesh.submit("planner", data)
    blob = await door.rig.blobs.put(data)
    result = Payload(content_type="application/octet-stream", blob=blob)
    await door.rig.act(task.id, e.Completed(result=result))
    assert await task.result() == data
    assert not (await task.info()).HasField("result")


async def test_a_result_is_waited_for_while_the_task_runs(door: Door, mesh: Mesh) -> None:
    task = await mesh.submit("planner", {})
    found: list[object] = []

    async def wait() -> None:
        found.append(await task.result())

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            async with aclosing(task.watch()) as updates:
                await anext(updates)  # a stream is open: the wait has begun, or comes late
            await complete(door, task, "done")
    assert found == ["done"]


async def test_a_wait_that_takes_too_long_times_out(mesh: Mesh) -> None:
    task = await mesh.submit("planner", {})
    with pytest.raises(TimeoutError):
        await task.result(timeout_s=0.2)


@pytest.mark.parametrize(
    ("event", "error"),
    [
        (e.Failed(failure=FAILURE), TaskFailed),
        (e.Rejected(failure=FAILURE), TaskRejected),
        (e.Canceled(reason="it broke"), TaskCanceled),
    ],
)
async def test_a_task_without_a_result_says_why(
    door: Door, mesh: Mesh, event: e.TaskEvent, error: type[TaskFailed]
) -> None:
    task = await mesh.submit("planner", {})
    await door.rig.act(task.id, e.CancelRequested(reason="it broke"), event)
    with pytest.raises(error, match="it broke") as ended:
        await task.result()
    assert ended.value.task_id == task.id
    assert ended.value.failure_code in ("test.failed", "")


async def test_the_errors_of_the_gateway_are_the_errors_of_the_client(
    door: Door, mesh: Mesh
) -> None:
    with pytest.raises(AgentUnknown) as unknown:
        await mesh.submit("poet", {})
    assert unknown.value.agent == "poet"
    with pytest.raises(TaskUnknown):
        await mesh.task("0" * 32).info()
    with pytest.raises(NameInvalid):
        await mesh.task("nonsense").info()
    first = await mesh.submit("planner", {"a": 1}, key="k")
    with pytest.raises(KeyConflict) as conflict:
        await mesh.submit("planner", {"a": 2}, key="k")
    assert (conflict.value.key, conflict.value.task_id) == ("k", first.id)
    with pytest.raises(NotDeadLettered):
        await mesh.redrive(first.id)
    await complete(door, first, "done")
    with pytest.raises(TaskClosed) as closed:
        await first.cancel()
    assert closed.value.state == "COMPLETED"


async def test_what_is_wrong_here_is_said_here(mesh: Mesh) -> None:
    with pytest.raises(PayloadTooLarge):
        await mesh.submit("planner", bytes(PAYLOAD_LIMIT + 1))
    with pytest.raises(PayloadInvalid):
        await mesh.submit("planner", {"x": object()})
    with pytest.raises(Invalid, match="time zone"):
        await mesh.submit("planner", {}, deadline=datetime(2030, 1, 1))  # noqa: DTZ001
    with pytest.raises(TypeError, match="no option 'keyy'; there are key, "):
        await mesh.submit("planner", {}, **{"keyy": "x"})  # type: ignore[misc]  # the mistake
    with pytest.raises(Invalid, match="state `DONE`"):
        await anext(mesh.tasks(states=("DONE",)))
    with pytest.raises(Invalid, match="one of"):
        await mesh.state("0" * 32, version=1, position=1)


async def test_the_largest_payload_there_may_be_passes(door: Door, mesh: Mesh) -> None:
    task = await mesh.submit("planner", bytes(PAYLOAD_LIMIT))
    stored = (await door.rig.task(task.id)).input
    assert stored is not None
    assert stored.blob is not None
    assert stored.blob.size == PAYLOAD_LIMIT


async def test_a_cancel_reaches_the_owner(door: Door, mesh: Mesh) -> None:
    task = await mesh.submit("planner", {})
    shown = await task.cancel("enough")
    assert shown.cancel_requested
    assert shown.cancel_reason == "enough"
    assert (await task.cancel("again")).cancel_reason == "enough"
    await door.rig.act(task.id, e.Canceled(reason="enough"))
    with pytest.raises(TaskCanceled, match="enough"):
        await task.result()


async def test_lists_come_from_the_ledger_page_by_page(door: Door, mesh: Mesh) -> None:
    count = 450  # of 200 a page
    made = [await mesh.submit("planner", {"n": n}) for n in range(count)]
    await complete(door, made[0], "done")
    await door.recorded()
    listed = [task.task_id async for task in mesh.tasks()]
    assert listed == [task.id for task in reversed(made)]
    done = [task async for task in mesh.tasks(states=("COMPLETED",))]
    assert [task.task_id for task in done] == [made[0].id]
    assert not done[0].HasField("result")
    assert len([task async for task in mesh.tasks(limit=5)]) == 5
    events = [event.position async for event in mesh.events()]
    assert events == list(range(1, count + 3))
    own = [event.kind async for event in mesh.events(task_id=made[0].id)]
    assert own == ["task.submitted", "task.work_started", "task.completed"]
    some = [event.position async for event in mesh.events(positions=(3, 5))]
    assert some == [3, 4, 5]
    late = door.rig.clock.now() - timedelta(seconds=0.5)
    assert [event.position async for event in mesh.events(since=late)] == [count + 2]


async def test_an_event_shows_its_body_and_payload_only_when_asked(door: Door, mesh: Mesh) -> None:
    await mesh.submit("planner", {"topic": "bees"})
    await door.recorded()
    (event,) = [event async for event in mesh.events()]
    shown = MessageToDict(event.body)["input"]
    assert shown == {"contentType": "application/json", "sizeBytes": 16}
    assert event.raw == b""
    (event,) = [event async for event in mesh.events(with_payload=True, with_raw=True)]
    assert MessageToDict(event.body)["input"]["value"] == {"topic": "bees"}
    assert event.raw == (await door.rig.bus.history(event.task_id))[0].raw


async def test_an_unreadable_message_is_shown_as_such(door: Door, mesh: Mesh) -> None:
    task_id = "e" * 32
    position = door.rig.bus.put(f"mesh.test.s0.log.{task_id}.i.planner", b"\xff\xff")
    await door.recorded()
    event = await anext(mesh.events(positions=(position, position)))
    assert (event.kind, event.task_id, getattr(event, "from")) == ("unreadable", task_id, "planner")
    assert event.fault
    task = await mesh.submit("planner", {})
    await door.recorded()
    assert [e.position async for e in mesh.events(kind="unreadable")] == [position]
    asked: list[EventFilter] = [{"kind": "unreadable"}, {"task_id": task_id}, {"agent": "planner"}]
    for which in asked:
        async with aclosing(mesh.tail(first=1, **which)) as events:
            assert (await anext(events)).position == position
    async with aclosing(mesh.tail(first=1, task_id=task.id)) as events:
        assert (await anext(events)).kind == "task.submitted"


async def test_agents_are_shown_with_who_is_alive(door: Door, mesh: Mesh) -> None:
    async with door.rig.agent("critic"):
        pass
    agents = {agent.card.name: agent for agent in await mesh.agents()}
    assert sorted(agents) == ["critic", "planner", "writer"]
    assert [i.instance for i in agents["planner"].instances] == ["1-planner"]
    assert not agents["critic"].instances
    await mesh.submit("writer", {})
    (one,) = await mesh.agents("writer")
    assert (one.card.name, one.pending, one.held) == ("writer", 1, 0)
    with pytest.raises(AgentUnknown):
        await mesh.agents("poet")
    task = await mesh.submit("critic", {})
    assert "`critic`" in task.warnings[0]


async def test_a_dead_letter_is_listed_and_redriven(door: Door, mesh: Mesh) -> None:
    async with door.open_gateway() as (_, desk):
        task_id = await door.rig.dead_lettered(desk)
    await door.recorded()
    (entry,) = [entry async for entry in mesh.dead_letters()]
    assert (entry.task_id, entry.agent, entry.attempts) == (task_id, "writer", 5)
    assert entry.error.message == "it broke"
    assert entry.redrivable
    with pytest.raises(TaskFailed, match="it broke"):
        await mesh.task(task_id).result()
    task = await mesh.redrive(task_id)
    assert (task.state, task.owner) == (Task.SUBMITTED, "writer")
    await door.recorded()
    assert [entry async for entry in mesh.dead_letters()] == []


async def test_a_state_in_the_past_has_the_hash_of_the_ledgers_fold(door: Door, mesh: Mesh) -> None:
    task = await mesh.submit("planner", {}, objective="a brief")
    await complete(door, task, "done")
    head = await mesh.state(task.id)
    assert (head.state, head.version, head.packet.objective) == (Task.COMPLETED, 3, "a brief")
    assert head.task.result.string_value == "done"
    before = await mesh.state(task.id, version=1)
    assert (before.state, before.version) == (Task.SUBMITTED, 1)
    assert before.state_sha256 != head.state_sha256
    assert (await mesh.state(task.id, position=head.position)).state_sha256 == head.state_sha256
    await door.recorded()
    await door.rig.forget(task.id)
    assert await mesh.state(task.id) == head
    assert await task.result() == "done"
