"""Append, history and info: what every bus promises."""

from dataclasses import replace

import anyio
import pytest

from mesh.bus.port import Bus
from mesh.core.envelope import Envelope, Record
from mesh.core.subject import Subject
from mesh.errors import EnvelopeInvalid, Fenced, NameInvalid
from tests.contract.bus_rig import Events, Rig, home, new_task, submit

UNREADABLE = b"\xff\xff not an envelope"


class AppendContract:
    """Writing to a bus and reading tasks; the subclass provides a `rig` fixture."""

    async def test_positions_ascend_in_the_order_of_the_events(self, rig: Rig) -> None:
        make, task = Events(rig.tenant), new_task()
        first = await rig.bus.append([make.submitted(task)], {task: 0})
        more = await rig.bus.append(
            [make.started(task), make.step(task), make.report(task)], {task: first[0]}
        )
        assert [*first, *more] == sorted({*first, *more})
        kinds = [r.envelope.kind for r in await rig.bus.history(task) if r.envelope]
        assert kinds[1:] == ["task.work_started", "task.step_recorded", "task.child_finished"]

    async def test_a_stale_append_writes_nothing_and_says_where_the_task_is(self, rig: Rig) -> None:
        make, task = Events(rig.tenant), new_task()
        first = await submit(rig, task)
        for batch in ([make.started(task)], [make.handed_off(task), make.step(task)]):
            with pytest.raises(Fenced) as refused:
                await rig.bus.append(batch, {task: 0})
            assert (refused.value.expected, refused.value.actual) == (0, first)
        assert len(await rig.bus.history(task)) == 1
        assert sum(log.last for log in await rig.bus.info()) == first

    async def test_one_stale_task_refuses_the_whole_batch(self, rig: Rig) -> None:
        make, parent = Events(rig.tenant), new_task()
        child, moved = new_task(), new_task()
        at = await submit(rig, parent)
        await rig.bus.append([make.submitted(moved, root=parent)], {moved: 0})
        batch = [
            make.started(parent),
            make.submitted(child, root=parent),
            make.submitted(moved, root=parent),
        ]
        with pytest.raises(Fenced) as refused:
            await rig.bus.append(batch, {parent: at, child: 0, moved: 0})
        assert refused.value.task_id == moved
        assert await rig.bus.history(child, root_task_id=parent) == []
        assert len(await rig.bus.history(parent)) == 1

    async def test_parent_and_children_are_created_in_one_commit(self, rig: Rig) -> None:
        make, parent = Events(rig.tenant), new_task()
        children = [new_task() for _ in range(3)]
        batch = [make.submitted(parent), *(make.submitted(c, root=parent) for c in children)]
        stored = await rig.bus.append(batch, dict.fromkeys([parent, *children], 0))
        assert stored == tuple(range(stored[0], stored[0] + 4))
        for child in children:
            assert len(await rig.bus.history(child, root_task_id=parent)) == 1

    async def test_a_task_that_is_not_named_is_not_fenced(self, rig: Rig) -> None:
        make, task = Events(rig.tenant), new_task()
        await submit(rig, task)
        await rig.bus.append([make.step(task)], {})
        await rig.bus.append([make.step(task), make.step(task)], {})
        assert len(await rig.bus.history(task)) == 4

    async def test_informing_events_do_not_move_the_fence(self, rig: Rig) -> None:
        make, task = Events(rig.tenant), new_task()
        at = await submit(rig, task)
        for _ in range(3):
            await rig.other.append([make.report(task)], {})
        await rig.bus.append([make.started(task)], {task: at})

    async def test_a_named_task_that_is_only_informed_is_fenced_too(self, rig: Rig) -> None:
        make, task = Events(rig.tenant), new_task()
        at = await submit(rig, task)
        with pytest.raises(Fenced):
            await rig.bus.append([make.report(task)], {task: 0})
        await rig.bus.append([make.report(task)], {task: at})

    async def test_the_fence_may_stand_behind_an_informing_event(self, rig: Rig) -> None:
        make, task = Events(rig.tenant), new_task()
        at = await submit(rig, task)
        with pytest.raises(Fenced):
            await rig.bus.append([make.report(task), make.step(task)], {task: 0})
        await rig.bus.append([make.report(task), make.step(task)], {task: at})
        assert len(await rig.bus.history(task)) == 3

    async def test_an_event_that_stands_already_counts_as_stored(self, rig: Rig) -> None:
        make, task = Events(rig.tenant), new_task()
        submitted, report = make.submitted(task), make.report(task)
        first = await rig.bus.append([submitted], {task: 0})
        batch = [make.started(task), make.step(task)]
        second = await rig.bus.append(batch, {task: first[0]})
        third = await rig.bus.append([report], {})
        assert await rig.other.append([submitted], {task: 0}) == first
        assert await rig.other.append(batch, {task: first[0]}) == second
        assert await rig.other.append(batch, {}) == second
        assert await rig.other.append([report], {}) == third
        assert len(await rig.bus.history(task)) == 4

    async def test_the_same_id_of_another_process_is_not_this_event(self, rig: Rig) -> None:
        task = new_task()
        mine, theirs = Events(rig.tenant, "one"), Events(rig.tenant, "two")
        first = mine.submitted(task)
        await rig.bus.append([first], {task: 0})
        copy = theirs.submitted(task)
        for expected in ({task: 0}, {}):
            with pytest.raises(Fenced):
                await rig.other.append([_same_id(copy, first.event_id)], expected)
        report = mine.report(task)
        await rig.bus.append([report], {})
        with pytest.raises(Fenced):
            await rig.other.append([_same_id(theirs.report(task), report.event_id)], {})
        assert len(await rig.bus.history(task)) == 2

    async def test_a_batch_of_which_only_a_part_stands_writes_nothing(self, rig: Rig) -> None:
        make, task = Events(rig.tenant), new_task()
        step = make.step(task)
        await rig.bus.append([step], {})
        with pytest.raises(Fenced):
            await rig.bus.append([make.step(task), step], {})
        assert len(await rig.bus.history(task)) == 1

    async def test_of_two_writers_at_once_one_wins(self, rig: Rig) -> None:
        task = new_task()
        at = await submit(rig, task)
        positions: list[int] = []
        refusals: list[Fenced] = []

        async def start(bus: Bus, name: str) -> None:
            try:
                positions.extend(
                    await bus.append([Events(rig.tenant, name).started(task)], {task: at})
                )
            except Fenced as refused:
                refusals.append(refused)

        async with anyio.create_task_group() as group:
            group.start_soon(start, rig.bus, "one")
            group.start_soon(start, rig.other, "two")
        assert len(positions) == 1
        assert [refused.actual for refused in refusals] == positions

    async def test_over_five_hundred_events_are_stored_in_order(self, rig: Rig) -> None:
        make, task = Events(rig.tenant), new_task()
        batch = [make.submitted(task), *(make.step(task) for _ in range(1_099))]
        stored = await rig.bus.append(batch, {task: 0})
        assert list(stored) == sorted(set(stored))
        assert await rig.bus.append(batch, {task: 0}) == stored
        history = await rig.bus.history(task, root_task_id=task)
        assert [r.position for r in history] == list(stored)
        assert [r.envelope.event_id for r in history if r.envelope] == [e.event_id for e in batch]

    async def test_what_cannot_be_stored_is_refused_by_name(self, rig: Rig) -> None:
        make, task = Events(rig.tenant), new_task("s0")
        step = make.step(task)
        stranger = Events("stranger").step(task)
        for batch, expected, says in (
            ([], {}, "nothing"),
            ([make.step(task, 1024 * 1024)], {}, "bytes"),
            ([stranger], {}, "tenant `stranger`"),
            ([make.step(task), make.step(new_task("s1"))], {}, "one shard"),
            ([step, step], {}, "twice"),
            ([step], {new_task(): 0}, "no event"),
            ([make.handed_off(task, to="Not A Name")], {}, "Not A Name"),
        ):
            with pytest.raises(EnvelopeInvalid, match=says):
                await rig.bus.append(batch, expected)
        assert await rig.bus.history(task) == []

    async def test_history_holds_both_classes_above_a_position(self, rig: Rig) -> None:
        make, task = Events(rig.tenant), new_task()
        at = await submit(rig, task)
        await submit(rig, new_task(home(task)))
        (second,) = await rig.bus.append([make.report(task)], {})
        (third,) = await rig.bus.append([make.started(task)], {task: at})
        for root in ("", task):
            records = await rig.other.history(task, root_task_id=root)
            assert [r.position for r in records] == [at, second, third]
            records = await rig.other.history(task, root_task_id=root, after=at)
            assert [r.position for r in records] == [second, third]
        assert await rig.bus.history(task, after=third) == []
        assert await rig.bus.history(new_task()) == []

    async def test_what_cannot_be_read_counts_for_the_fence_and_says_why(self, rig: Rig) -> None:
        make, task = Events(rig.tenant), new_task()
        at = await submit(rig, task)
        subject = f"mesh.{rig.tenant}.{home(task)}.planner.{task}.m.gateway"
        bad = await rig.put(subject, UNREADABLE)
        with pytest.raises(Fenced) as refused:
            await rig.bus.append([make.started(task)], {task: at})
        assert refused.value.actual == bad
        record = (await rig.bus.history(task))[-1]
        assert (record.position, record.raw, record.envelope) == (bad, UNREADABLE, None)
        assert record.fault
        await rig.bus.append([make.started(task)], {task: bad})

    async def test_history_and_fence_forget_what_was_trimmed(self, rig: Rig) -> None:
        make, task = Events(rig.tenant), new_task()
        at = await submit(rig, task)
        (second,) = await rig.bus.append([make.report(task)], {})
        await rig.trim(home(task), second)
        assert [r.position for r in await rig.bus.history(task)] == [second]
        with pytest.raises(Fenced) as refused:
            await rig.bus.append([make.started(task)], {task: at})
        assert refused.value.actual == 0
        await rig.bus.append([make.started(task)], {task: 0})

    async def test_the_head_is_the_last_record_that_moved_the_task(self, rig: Rig) -> None:
        make, task = Events(rig.tenant), new_task()
        at = await submit(rig, task)
        (submitted,) = await rig.bus.history(task)
        assert await rig.other.head(task, root_task_id=task) == submitted
        await rig.bus.append([make.started(task), make.step(task)], {task: at})
        await submit(rig, new_task(home(task)))
        head = await _head(rig.other, task, task)
        assert head == (await rig.bus.history(task))[-1]
        assert head.envelope
        assert head.envelope.kind == "task.step_recorded"
        with pytest.raises(Fenced) as refused:
            await rig.bus.append([make.step(task)], {task: at})
        assert refused.value.actual == head.position
        await rig.other.append([make.step(task)], {task: head.position})

    async def test_the_head_passes_over_informing_events(self, rig: Rig) -> None:
        make, task = Events(rig.tenant), new_task()
        report = await rig.bus.append([make.report(task)], {})
        assert await rig.bus.head(task, root_task_id=task) is None
        at = await submit(rig, task)
        for to in ("planner", "log", "writer"):
            report = await rig.bus.append([make.report(task, to)], {})
        head = await _head(rig.other, task, task)
        assert head.position == at < report[0]

    async def test_the_head_is_found_whoever_the_events_are_addressed_to(self, rig: Rig) -> None:
        make, task = Events(rig.tenant), new_task()
        at = await submit(rig, task, to="writer")
        for envelope, owner in (
            (make.started(task), ("log", "gateway")),
            (make.handed_off(task, to="reader"), ("reader", "gateway")),
            (make.handed_off(task, to="planner"), ("planner", "gateway")),
            (make.handed_off(task, to="writer"), ("writer", "gateway")),
            (make.step(task), ("log", "gateway")),
        ):
            (at,) = await rig.bus.append([envelope], {task: at})
            head = await _head(rig.other, task, task)
            subject = Subject.parse(head.subject)
            assert (head.position, (subject.to, subject.sender)) == (at, owner)

    async def test_a_task_that_nobody_moved_has_no_head(self, rig: Rig) -> None:
        await submit(rig, new_task("s0"))
        await submit(rig, new_task("s1"))
        for task in (new_task("s0"), new_task("s1")):
            assert await rig.bus.head(task, root_task_id=task) is None

    async def test_the_head_is_looked_for_in_the_shard_of_the_root(self, rig: Rig) -> None:
        make = Events(rig.tenant)
        for shard, elsewhere in (("s0", "s1"), ("s1", "s0")):
            root, child = new_task(shard), new_task(elsewhere)
            batch = [make.submitted(root), make.submitted(child, root=root)]
            stored = await rig.bus.append(batch, {root: 0, child: 0})
            for task, position in zip((root, child), stored, strict=True):
                head = await _head(rig.other, task, root)
                assert (head.position, head.envelope) == (position, batch[stored.index(position)])
                assert head.subject.split(".")[2] == shard
            assert await rig.other.head(child, root_task_id=child) is None

    async def test_the_head_is_there_as_soon_as_the_append_is_answered(self, rig: Rig) -> None:
        make, task = Events(rig.tenant), new_task()
        at = await submit(rig, task)
        for n in range(50):
            to = ("planner", "writer", "log")[n % 3]
            (at,) = await rig.bus.append([make.handed_off(task, to=to)], {task: at})
            head = await _head(rig.other, task, task)
            assert head.position == at

    async def test_a_head_may_be_as_large_as_an_event_may_be(self, rig: Rig) -> None:
        task = new_task()
        step = Events(rig.tenant).step(task, 1_000_000)
        await rig.bus.append([step], {task: 0})
        head = await _head(rig.other, task, task)
        assert head.envelope == step

    async def test_a_head_that_cannot_be_read_is_told_with_its_fault(self, rig: Rig) -> None:
        make, task = Events(rig.tenant), new_task()
        await submit(rig, task)
        subject = f"mesh.{rig.tenant}.{home(task)}.planner.{task}.m.gateway"
        for raw in (UNREADABLE, b""):
            bad = await rig.put(subject, raw)
            head = await _head(rig.bus, task, task)
            assert head == (await rig.bus.history(task))[-1]
            assert (head.position, head.raw, head.envelope) == (bad, raw, None)
            assert head.fault
        await rig.bus.append([make.started(task)], {task: bad})

    async def test_the_head_is_none_once_it_was_trimmed(self, rig: Rig) -> None:
        make, task = Events(rig.tenant), new_task()
        await submit(rig, task)
        (report,) = await rig.bus.append([make.report(task)], {})
        await rig.trim(home(task), report)
        assert await rig.bus.head(task, root_task_id=task) is None
        (moved,) = await rig.bus.append([make.started(task)], {task: 0})
        head = await _head(rig.bus, task, task)
        assert head.position == moved

    async def test_info_tells_where_each_log_begins_and_ends(self, rig: Rig) -> None:
        task = new_task("s1")
        assert [(log.shard, log.first, log.last) for log in await rig.bus.info()] == [
            ("s0", 1, 0),
            ("s1", 1, 0),
        ]
        for _ in range(3):
            await rig.bus.append([Events(rig.tenant).step(task)], {})
        await rig.trim("s1", 3)
        log = (await rig.bus.info())[1]
        assert (log.first, log.last) == (3, 3)
        await rig.trim("s1", 4)
        emptied = (await rig.bus.info())[1]
        assert (emptied.first, emptied.last, emptied.created_at) == (4, 3, log.created_at)

    async def test_a_name_that_cannot_stand_in_a_subject_is_refused(self, rig: Rig) -> None:
        with pytest.raises(NameInvalid):
            async with rig.bus.inbox("Not.A.Name", max_held=1):
                pass


async def _head(bus: Bus, task: str, root: str) -> Record:
    """The head of a task that has one."""
    head = await bus.head(task, root_task_id=root)
    assert head is not None
    return head


def _same_id(envelope: Envelope, event_id: str) -> Envelope:
    return replace(envelope, event_id=event_id)
