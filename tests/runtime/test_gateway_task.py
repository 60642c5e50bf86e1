from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import timedelta

import anyio
import pytest

from mesh.bus.inproc import Fault
from mesh.core import event as e
from mesh.core.fold import fold
from mesh.core.payload import Payload
from mesh.core.point import Point
from mesh.core.task import EMPTY, State
from mesh.errors import Fenced, Invalid, NotDeadLettered, TaskClosed, TaskUnknown
from mesh.gateway.desk import Desk
from mesh.gateway.fanout import Came, Subscription
from mesh.gateway.watch import TailQuery, Update, tail, watch
from tests.make import START
from tests.runtime.gateway_rig import HELLO, OTHER, GatewayRig, kinds, submission

REQUEST = "cd" * 16
RESULT = Payload(content_type="text/plain; charset=utf-8", data=b"done")


@pytest.fixture
async def rig() -> AsyncGenerator[GatewayRig]:
    made = GatewayRig()
    async with made.agent("planner"), made.agent("writer"):
        yield made


@pytest.fixture
async def desk(rig: GatewayRig) -> AsyncGenerator[Desk]:
    async with rig.desks(1) as (made,):
        yield made


async def begun(desk: Desk) -> str:
    return (await desk.submit(submission())).task.task_id


async def test_a_cancel_moves_the_task_and_hints_its_owner(rig: GatewayRig, desk: Desk) -> None:
    task_id = await begun(desk)
    await rig.act(task_id, e.HandedOff(input=OTHER), to="writer")
    async with rig.bus.hints("cancel.*") as hints:
        reading = await desk.cancel(task_id, reason="no need")
        with anyio.fail_after(2):
            assert (await anext(hints)).topic == f"cancel.{task_id}"
    assert reading.task.cancel_requested
    assert reading.task.cancel_reason == "no need"
    last = reading.last
    assert (last.to, last.hop, last.sender.agent) == ("writer", 1, "gateway")


async def test_a_second_cancel_changes_nothing(rig: GatewayRig, desk: Desk) -> None:
    task_id = await begun(desk)
    first = await desk.cancel(task_id, reason="one")
    second = await desk.cancel(task_id, reason="two")
    assert second.task == first.task
    assert kinds(await rig.bus.history(task_id)) == ["submitted", "cancel_requested"]


async def test_a_closed_task_cannot_be_cancelled(rig: GatewayRig, desk: Desk) -> None:
    task_id = await begun(desk)
    await rig.act(task_id, e.Completed(result=RESULT))
    with pytest.raises(TaskClosed) as refused:
        await desk.cancel(task_id, reason="")
    assert refused.value.state == "COMPLETED"
    with pytest.raises(TaskUnknown):
        await desk.cancel("0" * 32, reason="")


async def test_a_cancel_beside_a_working_owner_is_decided_again(
    rig: GatewayRig, desk: Desk
) -> None:
    task_id = await begun(desk)
    cancelled: list[State] = []

    async def cancel() -> None:
        cancelled.append((await desk.cancel(task_id, reason="")).task.state)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cancel)
        for ordinal in range(5):
            try:
                await rig.act(task_id, e.StepRecorded(ordinal=ordinal, name="s"))
            except Fenced:
                break  # as an owner sees it: it must wind up
    assert len(cancelled) == 1
    assert (await rig.task(task_id)).cancel_requested


async def test_a_cancel_whose_answer_was_lost_is_stored_once(rig: GatewayRig, desk: Desk) -> None:
    task_id = await begun(desk)
    rig.bus.faults.extend([Fault.STORED, Fault.LOST])
    await desk.cancel(task_id, reason="")
    assert kinds(await rig.bus.history(task_id)) == ["submitted", "cancel_requested"]


async def test_a_redrive_hands_the_payload_over_unchanged(rig: GatewayRig, desk: Desk) -> None:
    task_id = await rig.dead_lettered(desk)
    before = await rig.task(task_id)
    assert before.dead_letter is not None
    reading = await desk.redrive(task_id)
    event = reading.last.event
    assert isinstance(event, e.Redriven)
    assert (event.input, event.delivery_id) == (OTHER, before.dead_letter.delivery_id)
    assert reading.last.to == "writer"
    assert (reading.task.state, reading.task.owner) == (State.SUBMITTED, "writer")


async def test_a_repeated_redrive_is_one_only_by_its_request_id(
    rig: GatewayRig, desk: Desk
) -> None:
    task_id = await rig.dead_lettered(desk)
    first = await desk.redrive(task_id, request_id=REQUEST)
    again = await desk.redrive(task_id, request_id=REQUEST)
    assert again.task == first.task
    with pytest.raises(NotDeadLettered):
        await desk.redrive(task_id)


async def test_a_task_that_is_partly_in_the_ledger_reads_as_one(
    rig: GatewayRig, desk: Desk
) -> None:
    task_id = await begun(desk)
    await rig.act(task_id, e.WorkStarted(), e.StepRecorded(ordinal=1, name="a"))
    whole = await rig.task(task_id)
    await rig.forget(task_id)
    assert (await desk.read(task_id)).task == whole
    reading = await desk.cancel(task_id, reason="late")  # fenced on a log that has nothing
    assert reading.task.version == 4
    assert kinds(reading.records)[-1] == "cancel_requested"
    assert (await desk.read(task_id)).fence == reading.task.moved


async def test_state_at_each_version_position_and_time_is_the_fold_up_to_it(
    rig: GatewayRig, desk: Desk
) -> None:
    task_id = await begun(desk)
    await rig.act(task_id, e.WorkStarted(), e.StepRecorded(ordinal=1, name="a"))
    await rig.act(task_id, e.Completed(result=RESULT))
    records = await rig.bus.history(task_id)
    for version in range(1, len(records) + 1):
        expected = fold(records[:version], EMPTY)
        last = records[version - 1]
        for point in (
            Point(version=version),
            Point(position=last.position),
            Point(time=last.stored_at),
        ):
            assert await desk.state(task_id, point) == (expected, "s0")
    assert (await desk.state(task_id, Point()))[0].state is State.COMPLETED
    for point in (Point(version=9), Point(version=0), Point(time=START - timedelta(days=1))):
        with pytest.raises(Invalid):
            await desk.state(task_id, point)


async def watched(desk: Desk, task_id: str, after: int, into: list[Update]) -> None:
    updates = watch(desk, task_id, after=after)
    async with aclosing(updates):
        async for update in updates:
            into.append(update)


def positions(updates: list[Update]) -> list[int]:
    return [update.record.position for update in updates if update.record]


async def test_a_watch_gives_the_state_now_then_each_event_until_the_end(
    rig: GatewayRig, desk: Desk
) -> None:
    task_id = await begun(desk)
    updates: list[Update] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watched, desk, task_id, 0, updates)
        await anyio.wait_all_tasks_blocked()
        await rig.act(task_id, e.WorkStarted(), e.StepRecorded(ordinal=1, name="a"))
        await rig.act(task_id, e.Completed(result=RESULT))
    assert updates[0].record is None
    assert updates[0].task.state is State.SUBMITTED
    assert kinds([u.record for u in updates if u.record]) == [
        "submitted",
        "work_started",
        "step_recorded",
        "completed",
    ]
    assert [u.task.version for u in updates[1:]] == [1, 2, 3, 4]
    assert updates[-1].task.result == RESULT


async def test_a_watch_goes_on_after_any_position(rig: GatewayRig, desk: Desk) -> None:
    task_id = await begun(desk)
    await rig.act(task_id, e.WorkStarted(), e.StepRecorded(ordinal=1, name="a"))
    await rig.act(task_id, e.Completed(result=RESULT))
    whole: list[Update] = []
    await watched(desk, task_id, 0, whole)
    for after in positions(whole):
        rest: list[Update] = []
        await watched(desk, task_id, after, rest)
        assert positions(rest) == [p for p in positions(whole) if p > after]


async def test_watchers_of_many_tasks_share_a_tail_and_miss_nothing(
    rig: GatewayRig, desk: Desk
) -> None:
    task_ids = [await begun(desk) for _ in range(10)]
    seen: dict[str, list[Update]] = {task_id: [] for task_id in task_ids}

    async def work(task_id: str) -> None:
        for ordinal in range(20):
            await rig.act(task_id, e.StepRecorded(ordinal=ordinal, name="s"))
        await rig.act(task_id, e.Completed(result=RESULT))

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for task_id in task_ids:
                tasks.start_soon(watched, desk, task_id, 0, seen[task_id])
                tasks.start_soon(work, task_id)
    for task_id, updates in seen.items():
        stands = [r.position for r in await rig.bus.history(task_id)]
        assert positions(updates) == stands


async def test_a_watcher_that_is_too_slow_reads_the_log_instead(
    rig: GatewayRig, desk: Desk
) -> None:
    task_id = await begun(desk)
    updates = watch(desk, task_id)
    seen: list[Update] = []
    async with aclosing(updates):
        seen += [await anext(updates), await anext(updates)]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_next_into, updates, seen)  # subscribes, and waits
            await anyio.wait_all_tasks_blocked()
            await rig.act(task_id, e.WorkStarted())
        for ordinal in range(400):
            await rig.act(task_id, e.ProgressReported(text=str(ordinal)))
        await anyio.wait_all_tasks_blocked()
        await rig.act(task_id, e.Completed(result=RESULT))
        with anyio.fail_after(10):
            seen += [update async for update in updates]
    assert positions(seen) == [r.position for r in await rig.bus.history(task_id)]


async def _next_into(updates: AsyncGenerator[Update], into: list[Update]) -> None:
    into.append(await anext(updates))


async def test_what_happens_between_the_read_and_the_subscription_is_not_missed(
    rig: GatewayRig, desk: Desk
) -> None:
    task_id, other = await begun(desk), await begun(desk)
    seen: list[Update] = []
    others: list[Update] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watched, desk, other, 0, others)  # so that the shard is followed already
        await anyio.wait_all_tasks_blocked()
        updates = watch(desk, task_id)
        async with aclosing(updates):
            await anext(updates)  # it has read, and not subscribed
            await rig.act(task_id, e.WorkStarted())
            await anyio.wait_all_tasks_blocked()
            with anyio.fail_after(5):
                seen += [await anext(updates), await anext(updates)]
        tasks.cancel_scope.cancel()
    assert positions(seen) == [r.position for r in await rig.bus.history(task_id)]


async def test_an_overflowing_subscription_says_that_something_is_missing(
    rig: GatewayRig, desk: Desk
) -> None:
    task_id = await begun(desk)
    (record,) = await rig.bus.history(task_id)
    subscription = Subscription(task_id)
    subscription.offer(record)
    assert await subscription.next() == record
    for _ in range(1000):
        subscription.offer(record)
    assert await subscription.next() is Came.MISSED
    subscription.offer(record)
    assert await subscription.next() == record
    subscription.miss()
    assert await subscription.next() is Came.MISSED


async def test_a_log_that_is_recreated_under_a_watcher_is_followed_anew(
    rig: GatewayRig, desk: Desk
) -> None:
    task_id = await begun(desk)
    updates = watch(desk, task_id)
    async with aclosing(updates):
        await anext(updates)
        await anext(updates)
        found: list[Update] = []
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_next_into, updates, found)
                await anyio.wait_all_tasks_blocked()
                records = await rig.bus.history(task_id)
                rig.bus.recreate("s0")
                for record in records:  # as a restore does, and one more
                    rig.bus.put(record.subject, record.raw)
                await rig.act(task_id, e.WorkStarted())
    assert kinds([u.record for u in found if u.record]) == ["work_started"]


async def test_a_tail_begins_where_it_is_told_and_goes_on(rig: GatewayRig, desk: Desk) -> None:
    first, second = await begun(desk), await begun(desk)
    await rig.act(first, e.WorkStarted())
    records = tail(rig.bus, TailQuery(first=2))
    async with aclosing(records):
        assert [(await anext(records)).position for _ in range(2)] == [2, 3]
    records = tail(rig.bus, TailQuery(first=1, task_id=second))
    async with aclosing(records):
        assert (await anext(records)).position == 2
    records = tail(rig.bus, TailQuery(first=1, kind="task.work_started", agent="planner"))
    async with aclosing(records):
        assert (await anext(records)).position == 3


async def test_a_tail_from_now_on_gives_only_what_comes(rig: GatewayRig, desk: Desk) -> None:
    await begun(desk)
    found: list[int] = []

    async def one() -> None:
        records = tail(rig.bus, TailQuery())
        async with aclosing(records):
            found.append((await anext(records)).position)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one)
        await anyio.wait_all_tasks_blocked()
        await begun(desk)
    assert found == [2]


@pytest.mark.parametrize("query", [TailQuery(first=9), TailQuery(shard="s7")])
async def test_a_tail_of_what_is_not_there_is_refused(
    rig: GatewayRig, desk: Desk, query: TailQuery
) -> None:
    await begun(desk)
    with pytest.raises(Invalid):
        await anext(tail(rig.bus, query))


async def test_an_event_keeps_the_deadline_and_labels_of_its_task(
    rig: GatewayRig, desk: Desk
) -> None:
    submitted = await desk.submit(submission(input=HELLO))
    reading = await desk.cancel(submitted.task.task_id, reason="r")
    begin = reading.records[0].envelope
    assert begin is not None
    assert reading.last.labels == begin.labels
    assert reading.last.causation_id == begin.event_id


async def test_tasks_in_several_shards_are_each_found_watched_and_cancelled() -> None:
    rig = GatewayRig(shards=3)
    seen: dict[str, list[Update]] = {}
    async with rig.agent("planner"), rig.desks(1) as (desk,):
        submitted = [await desk.submit(submission(key=f"k{n}")) for n in range(12)]
        assert {one.shard for one in submitted} == {"s0", "s1", "s2"}
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                for one in submitted:
                    task_id = one.task.task_id
                    seen[task_id] = []
                    tasks.start_soon(watched, desk, task_id, 0, seen[task_id])
                    assert (await desk.cancel(task_id, reason="")).shard == one.shard
                    await rig.act(task_id, e.Canceled())
    for updates in seen.values():
        assert kinds([u.record for u in updates if u.record]) == [
            "submitted",
            "cancel_requested",
            "canceled",
        ]
