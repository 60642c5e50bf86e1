import threading
from collections.abc import Generator
from functools import partial

import pytest
from anyio.from_thread import start_blocking_portal

from mesh.agent.payload import encode_value
from mesh.client import BlockingMesh, connect_blocking
from mesh.core import event as e
from mesh.errors import AgentUnknown, NotParked, TaskClosed, TaskUnknown
from mesh.wire.v1.api_pb2 import Task
from tests.make import START
from tests.services.door import Door


@pytest.fixture
def mesh() -> Generator[tuple[Door, BlockingMesh]]:
    """A mesh whose owner completes every task at once, on an event loop of its own."""
    door = Door()
    started: list[str] = []
    ready = threading.Event()

    async def serve() -> None:
        async with (
            door.rig.agent("planner"),
            door.open_ledger(),
            door.open_gateway() as (address, _),
            door.rig.bus.inbox("planner", max_held=1) as inbox,
        ):
            started.append(address)
            ready.set()
            async for delivery in inbox:
                envelope = delivery.record.envelope
                assert envelope is not None
                said = e.ProgressReported(text="done.", run="r", first_number=1, last_number=1)
                done = e.Completed(result=encode_value({"done": True}))
                await door.rig.act(envelope.task_id, e.WorkStarted(), said, done)
                await delivery.ack()
                await door.recorded()

    with start_blocking_portal("asyncio") as portal:
        serving = portal.start_task_soon(serve)
        assert ready.wait(10)
        with connect_blocking(started[0], patience_s=5) as made:
            yield door, made
        serving.cancel()


def test_a_script_submits_waits_and_reads(mesh: tuple[Door, BlockingMesh]) -> None:
    _, client = mesh
    task = client.submit("planner", {"a": 1}, key="k")
    assert task.result(timeout_s=10) == {"done": True}
    assert task.info().state == Task.COMPLETED
    assert client.submit("planner", {"a": 1}, key="k").id == task.id
    kinds = [update.event.kind for update in task.watch() if update.HasField("event")]
    assert kinds == [
        "task.submitted",
        "task.work_started",
        "task.progress_reported",
        "task.completed",
    ]
    assert [piece.text for piece in task.stream()] == ["done."]
    assert len(list(task.watch(live=True))) == 5
    assert client.state(task.id, version=1).state == Task.SUBMITTED
    assert [agent.card.name for agent in client.agents()] == ["planner"]
    assert client.status().shards[0].log_last == 4


def test_a_script_leaves_a_stream_when_it_has_enough(mesh: tuple[Door, BlockingMesh]) -> None:
    _, client = mesh
    task = client.submit("planner", {})
    assert task.result(timeout_s=10) == {"done": True}
    events = client.tail(first=1)
    assert [next(events).position for _ in range(3)] == [1, 2, 3]
    events.close()
    assert client.task(task.id).info().version == 4


def test_a_script_sees_the_same_errors(mesh: tuple[Door, BlockingMesh]) -> None:
    _, client = mesh
    with pytest.raises(AgentUnknown):
        client.submit("poet")
    with pytest.raises(TaskUnknown):
        client.task("0" * 32).cancel()
    with pytest.raises(TaskUnknown):
        next(client.task("0" * 32).watch())


def test_a_script_answers_signals_releases_and_redrives(
    mesh: tuple[Door, BlockingMesh],
) -> None:
    _, client = mesh
    task = client.submit("planner")
    assert task.result(timeout_s=10) == {"done": True}
    for call in (partial(task.answer, "yes"), partial(task.signal, "go")):
        with pytest.raises(TaskClosed):
            call()
    with pytest.raises(NotParked):
        task.unpark()
    (outcome,) = client.redrive_all([task.id])
    assert outcome.error.code == "task.not_dead_lettered"
    assert list(client.dead_letters(since=START)) == []
