"""The recorder and the reader, on a log in memory and on both stores."""

from __future__ import annotations

from datetime import timedelta
from hashlib import sha256
from typing import TYPE_CHECKING

import anyio
import pytest

from mesh.bus.inproc import Fault, InprocBus
from mesh.core import event as e
from mesh.core.fold import fold
from mesh.core.payload import Payload
from mesh.core.point import Point
from mesh.core.task import State
from mesh.errors import HistoryCorrupt, Invalid, TaskUnknown, Unavailable
from mesh.ledger.check import verify
from mesh.store.inproc import InprocStore
from mesh.store.port import GENESIS, Commit, EventQuery
from mesh.store.surreal import open_surreal
from mesh.wire.codec import encode_task
from tests.make import FAILURE, TENANT, TEXT, envelope
from tests.runtime.ledger_rig import Rig, relay, task_id

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from pathlib import Path

    from mesh.store.port import Checkpoint


@pytest.fixture(params=["inproc", pytest.param("surreal", marks=pytest.mark.live)])
async def rig(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[Rig]:
    if request.param == "inproc":
        yield Rig(store=InprocStore())
        return
    monkeypatch.setenv("SURREAL_SYNC_DATA", "true")
    async with open_surreal(str(tmp_path / "store"), tenant=TENANT) as store:
        yield Rig(store=store)


@pytest.mark.parametrize("batch", [1, 3, 500])
async def test_what_is_on_the_log_is_in_the_store_chained(rig: Rig, batch: int) -> None:
    for number in range(1, 5):
        await rig.tell(*relay(number))
    await rig.record_all(batch=batch)
    events = await rig.store.events(EventQuery())
    chain = GENESIS
    for position, event in enumerate(events, 1):
        chain = sha256(chain + sha256(event.record.raw).digest()).digest()
        assert (event.record.position, event.chain) == (position, chain)
    checkpoint = await rig.store.checkpoint("s0")
    assert (checkpoint.first, checkpoint.position, checkpoint.count) == (1, 20, 20)
    assert checkpoint.chain == chain
    (info,) = await rig.bus.info()
    assert checkpoint.log_created_at == info.created_at
    assert (await verify(rig.store, "s0")).count == 20


async def test_events_are_recorded_as_they_come(rig: Rig) -> None:
    async with rig.recording() as recorder:
        for number in range(1, 4):
            position = await rig.tell(*relay(number))
            await recorder.wait_for(position)
            task = await rig.reader.task(task_id(number))
            assert task is not None
            assert task.state is State.COMPLETED


async def test_a_recorder_goes_on_where_the_last_one_stopped(rig: Rig) -> None:
    told = relay(1)
    for made in told:
        await rig.tell(made)
        await rig.record_all()
    assert (await rig.store.checkpoint("s0")).count == 5
    assert (await verify(rig.store, "s0")).position == 5
    rebuilt = await rig.reader.rebuilt(task_id(1))
    assert rebuilt.same
    assert rebuilt.live.version == 5


async def test_the_projection_is_the_fold_of_the_log_to_the_byte(rig: Rig) -> None:
    for number in range(1, 8):
        await rig.tell(*relay(number)[: number % 5 + 1])
    rig.bus.put(f"mesh.{TENANT}.s0.planner.{task_id(2)}.m.gateway", b"\xff")
    await rig.record_all(batch=2)
    for number in range(1, 8):
        history = await rig.bus.history(task_id(number))
        rebuilt = await rig.reader.rebuilt(task_id(number))
        assert encode_task(rebuilt.live) == encode_task(fold(history))
        assert rebuilt.same


async def test_tasks_are_listed_newest_first_by_state_and_owner_in_pages(rig: Rig) -> None:
    for number in range(1, 10):
        await rig.tell(*relay(number)[: 5 if number % 2 else 3])
    await rig.record_all()

    async def numbers(
        before: int = 0, limit: int = 100, states: Sequence[State] = (), agent: str = ""
    ) -> tuple[list[int], int]:
        tasks, following = await rig.reader.tasks(
            states=states, agent=agent, before=before, limit=limit
        )
        return [int(task.task_id, 16) for task in tasks], following

    assert await numbers() == ([9, 8, 7, 6, 5, 4, 3, 2, 1], 0)
    first, following = await numbers(limit=4)
    assert first == [9, 8, 7, 6]
    second, following = await numbers(before=following, limit=4)
    assert second == [5, 4, 3, 2]
    assert await numbers(before=following, limit=4) == ([1], 0)
    assert await numbers(states=[State.COMPLETED]) == ([9, 7, 5, 3, 1], 0)
    assert await numbers(states=[State.SUBMITTED], limit=2) == ([8, 6], (await order(rig, 6)))
    assert await numbers(states=[State.SUBMITTED, State.COMPLETED], agent="writer", limit=9) == (
        [9, 8, 7, 6, 5, 4, 3, 2, 1],
        (await order(rig, 1)),
    )
    assert await numbers(agent="planner") == ([], 0)


async def order(rig: Rig, number: int) -> int:
    row = await rig.store.row("task", task_id(number))
    assert row is not None
    return row.order


async def test_states_at_a_version_a_position_and_a_time(rig: Rig) -> None:
    await rig.tell(*relay(1)[:3])
    await rig.tell(*relay(2)[:1])
    await rig.tell(*relay(1)[3:])
    await rig.record_all()
    history = await rig.reader.history(task_id(1))
    assert [record.position for record in history] == [1, 2, 3, 5, 6]
    reader, task = rig.reader, task_id(1)
    for version in range(1, 6):
        assert await reader.state_at(task, Point(version=version)) == fold(history[:version])
    assert (await reader.state_at(task, Point(position=4))).version == 3
    assert (await reader.state_at(task, Point(position=5))).version == 4
    assert (await reader.state_at(task, Point())).state is State.COMPLETED
    assert (await reader.state_at(task, Point(time=history[2].stored_at))).owner == "writer"
    later = history[-1].stored_at + timedelta(days=1)
    assert (await reader.state_at(task, Point(time=later))).version == 5
    with pytest.raises(Invalid, match="versions 1 to 5, not 6"):
        await reader.state_at(task, Point(version=6))
    with pytest.raises(Invalid, match="versions 1 to 5, not 0"):
        await reader.state_at(task, Point(version=0))
    with pytest.raises(Invalid, match="reached position 6, not yet 7"):
        await reader.state_at(task, Point(position=7))
    with pytest.raises(Invalid, match="begins at position 4"):
        await reader.state_at(task_id(2), Point(position=3))
    with pytest.raises(Invalid, match="begins at"):
        await reader.state_at(task, Point(time=history[0].stored_at - timedelta(seconds=1)))
    with pytest.raises(TaskUnknown):
        await reader.state_at(task_id(77), Point())


async def test_history_is_cut_and_complete_over_many_pages(rig: Rig) -> None:
    start = relay(1)[0]
    many = [
        envelope(e.ProgressReported(text=str(n)), sender="planner", task_id=task_id(1))
        for n in range(2100)
    ]
    await rig.tell(start)
    for begin in range(0, len(many), 500):
        await rig.bus.append(many[begin : begin + 500], {})
    await rig.record_all()
    history = await rig.reader.history(task_id(1))
    assert [record.position for record in history] == list(range(1, 2102))
    cut = await rig.reader.history(task_id(1), after=10, to=1500)
    assert [record.position for record in cut] == list(range(11, 1501))
    assert await rig.reader.history(task_id(9)) == []


async def test_what_each_agent_did_is_counted(rig: Rig) -> None:
    for number in range(1, 4):
        await rig.tell(*relay(number))
    await rig.record_all(batch=4)
    planner, writer = await rig.reader.activity()
    assert (planner.agent, planner.received, planner.handed_off) == ("planner", 3, 3)
    assert (writer.agent, writer.received, writer.completed) == ("writer", 3, 3)
    assert (planner.last_position, writer.last_position) == (13, 15)


async def test_dead_letters_stand_oldest_first_until_redriven(rig: Rig) -> None:
    for number in range(1, 5):
        submit = relay(number)[0]
        position = await rig.tell(submit)
        dead = e.DeadLettered(
            delivery_id=submit.event_id, delivery_position=position, attempts=5, failure=FAILURE
        )
        await rig.tell(envelope(dead, sender="planner", task_id=task_id(number)))
    await rig.record_all()
    entries, following = await rig.reader.dead_letters(limit=3)
    assert [int(entry.task_id, 16) for entry in entries] == [1, 2, 3]
    rest, _ = await rig.reader.dead_letters(after=following, limit=3)
    assert [int(entry.task_id, 16) for entry in rest] == [4]
    assert all(entry.redrivable and entry.error == FAILURE for entry in entries)
    again = envelope(
        e.Redriven(delivery_id=entries[1].delivery_id, input=TEXT), to="planner", task_id=task_id(2)
    )
    await rig.tell(again)
    await rig.record_all()
    left, _ = await rig.reader.dead_letters(agent="planner")
    assert [int(entry.task_id, 16) for entry in left] == [1, 3, 4]
    assert await rig.reader.dead_letters(agent="writer") == ([], 0)


async def test_blobs_are_copied_before_the_event_that_names_them_is_recorded(rig: Rig) -> None:
    data = b"large " * 50_000
    blob = await rig.blobs_from.put(data)
    await rig.tell(*relay(1, result=Payload(content_type="text/plain", blob=blob)))
    await rig.record_all()
    assert await rig.blobs_to.open(blob) == data


async def test_a_blob_that_is_gone_stops_the_recorder_before_its_event(rig: Rig) -> None:
    blob = await rig.blobs_to.put(b"never uploaded")
    await rig.tell(*relay(1))
    await rig.record_all()
    elsewhere = Rig(store=rig.store, bus=rig.bus)
    await rig.tell(*relay(2, result=Payload(blob=blob)))
    with pytest.raises(HistoryCorrupt, match="position 10 needs a blob"):
        await elsewhere.recorder().run("s0")
    assert (await rig.store.checkpoint("s0")).position == 5
    await rig.record_all()  # an earlier run had copied it: the source may lose it
    assert (await rig.store.checkpoint("s0")).position == 10


async def test_a_message_nobody_can_read_is_dead_lettered_once(rig: Rig) -> None:
    await rig.tell(*relay(1)[:2])
    rig.bus.put(f"mesh.{TENANT}.s0.log.{task_id(1)}.m.planner", b"\xff garbage")
    rig.bus.put(f"mesh.{TENANT}.s0.log.no-task.m.planner", b"no task either")
    for _ in range(2):
        async with rig.recording() as recorder:
            await recorder.wait_for(6)
        assert (await rig.bus.info())[0].last == 6
    entries, _ = await rig.reader.dead_letters()
    assert [(entry.agent, entry.redrivable) for entry in entries] == [("ledger", False)] * 2
    assert all(entry.error and entry.error.code == "wire.envelope_invalid" for entry in entries)
    task = await rig.reader.task(task_id(1))
    assert task is not None
    assert (task.state, task.version) == (State.WORKING, 4)
    assert (await rig.reader.rebuilt(task_id(1))).same
    assert await rig.store.rows("notice", tags={}) == []
    assert [t.task_id for t in (await rig.reader.tasks())[0]] == [task_id(1)]


async def test_a_message_to_an_agent_is_left_to_the_agent(rig: Rig) -> None:
    rig.bus.put(f"mesh.{TENANT}.s0.planner.{task_id(1)}.m.gateway", b"\xff")
    await rig.tell(*relay(2))
    await rig.record_all()
    assert await rig.reader.dead_letters() == ([], 0)
    assert (await rig.bus.info())[0].last == 6


async def test_a_notice_waits_for_a_bus_that_is_down_while_recording_goes_on(rig: Rig) -> None:
    rig.bus.put(f"mesh.{TENANT}.s0.log.{task_id(1)}.m.planner", b"\xff")
    rig.bus.faults.extend([Fault.DOWN, Fault.LOST, Fault.STORED, Fault.DOWN])
    async with rig.recording() as recorder:
        await recorder.wait_for(2)
    await rig.record_all()
    assert (await rig.bus.info())[0].last == 2
    entries, _ = await rig.reader.dead_letters()
    assert len(entries) == 1


class Flaky(InprocStore):
    """A store whose commits get no answer: every second one is written all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.commits = 0

    async def commit(self, commit: Commit, *, expected: Checkpoint) -> None:
        self.commits += 1
        if self.commits % 4 == 1:
            raise Unavailable("not written")
        await super().commit(commit, expected=expected)
        if self.commits % 4 == 3:
            raise Unavailable("written, but nobody knows")


async def test_commits_without_an_answer_lose_nothing_and_write_nothing_twice() -> None:
    rig = Rig(store=Flaky())
    for number in range(1, 9):
        await rig.tell(*relay(number))
    await rig.record_all(batch=3)
    assert (await verify(rig.store, "s0")).count == 40
    for number in range(1, 9):
        assert (await rig.reader.rebuilt(task_id(number))).same
    assert (await rig.reader.activity())[0].received == 8


async def test_waiting_ends_with_the_error_that_the_recorder_stopped_with(rig: Rig) -> None:
    await rig.tell(*relay(1))
    await rig.record_all()
    rig.bus.recreate("s0")
    recorder = rig.recorder()
    stopped: list[HistoryCorrupt] = []

    async def wait() -> None:
        try:
            await recorder.wait_for(9)
        except HistoryCorrupt as error:
            stopped.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        with pytest.raises(HistoryCorrupt):
            await recorder.run("s0")
    assert "recreated" in str(stopped[0])


async def test_shards_share_a_store_and_their_counts_add_up() -> None:
    rig = Rig(store=InprocStore(), bus=InprocBus(tenant=TENANT, shards=3))
    for number in range(1, 31):
        await rig.tell(*relay(number))
    recorder = rig.recorder(batch=4)
    async with anyio.create_task_group() as tasks:
        for info in await rig.bus.info():
            tasks.start_soon(recorder.run, info.shard)
        with anyio.fail_after(30):
            for info in await rig.bus.info():
                await recorder.wait_for(info.last, shard=info.shard)
        tasks.cancel_scope.cancel()
    assert sum([(await rig.store.count(f"s{n}"))[2] for n in range(3)]) == 150
    for number in range(1, 31):
        assert (await rig.reader.rebuilt(task_id(number))).same
        assert len(await rig.reader.events(EventQuery(task_id=task_id(number)))) == 5
    assert [a.received for a in await rig.reader.activity()] == [30, 30]
    listed: list[str] = []
    seen = 0
    while True:
        page, seen = await rig.reader.tasks(before=seen, limit=7)
        listed += [task.task_id for task in page]
        if not seen:
            break
    assert sorted(listed) == [task_id(number) for number in range(1, 31)]
