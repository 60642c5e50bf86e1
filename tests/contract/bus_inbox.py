"""Inbox, tail and hints: what every bus promises."""

import random
from collections.abc import AsyncIterator

import anyio
import pytest

from mesh.bus.port import HINT_LIMIT_BYTES, Backlog, Bus, Hint, Inbox
from mesh.errors import HistoryCorrupt, PayloadTooLarge, Unavailable
from tests.contract.bus_append import UNREADABLE
from tests.contract.bus_rig import (
    Events,
    OpenRig,
    Rig,
    home,
    new_task,
    read,
    submit,
    take,
    take_none,
)


class InboxContract:
    """Deliveries; the subclass provides `rig` (leases of one second) and `open_rig`."""

    async def test_an_agent_gets_what_is_addressed_to_it_from_all_shards(self, rig: Rig) -> None:
        tasks = {new_task("s0"), new_task("s1")}
        for task in tasks:
            await submit(rig, new_task(home(task)), to="writer")
            await submit(rig, task)
        async with rig.bus.inbox("planner", max_held=8) as inbox:
            found = [await take(inbox) for _ in tasks]
            assert {d.record.subject.split(".")[4] for d in found} == tasks
            assert {(d.shard, d.redelivered, d.lease_valid) for d in found} == {
                ("s0", False, True),
                ("s1", False, True),
            }
            for delivery in found:
                await delivery.ack()

    async def test_what_is_acknowledged_does_not_come_again(self, rig: Rig) -> None:
        await submit(rig, new_task())
        async with rig.bus.inbox("planner", max_held=1) as inbox:
            await (await take(inbox)).ack()
            await take_none(inbox, 2 * rig.ack_wait_s)
        async with rig.other.inbox("planner", max_held=1) as inbox:
            await take_none(inbox, rig.ack_wait_s / 2)

    async def test_a_nak_brings_it_again_after_the_delay(self, rig: Rig) -> None:
        await submit(rig, new_task())
        async with rig.bus.inbox("planner", max_held=1) as inbox:
            first = await take(inbox)
            await first.nak(0.5)
            began = anyio.current_time()
            again = await take(inbox)
            assert again.redelivered
            assert again.record == first.record
            assert anyio.current_time() - began >= 0.4
            await again.ack()

    async def test_what_is_dropped_comes_again_when_its_lease_runs_out(self, rig: Rig) -> None:
        await submit(rig, new_task())
        async with (
            rig.bus.inbox("planner", max_held=1) as inbox,
            rig.other.inbox("planner", max_held=1) as other,
        ):
            first, second = (inbox, other) if await _first(inbox, other) else (other, inbox)
            del first
            again = await take(second)
            assert again.redelivered
            await again.ack()

    async def test_what_is_held_is_extended(self, rig: Rig) -> None:
        await submit(rig, new_task())
        async with rig.bus.inbox("planner", max_held=1) as inbox:
            held = await take(inbox)
            async with rig.other.inbox("planner", max_held=1) as other:
                await take_none(other, 3 * rig.ack_wait_s)
            assert held.lease_valid
            await held.ack()

    async def test_a_process_that_was_paused_holds_nothing(self, rig: Rig) -> None:
        await submit(rig, new_task())
        async with rig.bus.inbox("planner", max_held=1) as inbox:
            held = await take(inbox)
            rig.pause()
            assert not held.lease_valid
            async with rig.other.inbox("planner", max_held=1) as other:
                again = await take(other)
                assert (again.record, again.redelivered) == (held.record, True)
                await again.ack()
            assert not held.lease_valid
            held.drop()

    async def test_replicas_share_the_deliveries(self, rig: Rig) -> None:
        tasks = [new_task() for _ in range(20)]
        seen: list[str] = []

        async def work(bus: Bus) -> None:
            async with bus.inbox("planner", max_held=4) as inbox:
                async for delivery in inbox:
                    seen.append(delivery.record.subject.split(".")[4])
                    await delivery.ack()
                    if len(seen) == len(tasks):
                        group.cancel_scope.cancel()

        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                group.start_soon(work, rig.bus)
                group.start_soon(work, rig.other)
                for task in tasks:
                    await submit(rig, task)
        assert sorted(seen) == sorted(tasks)

    async def test_never_more_than_max_held_are_unsettled(self, rig: Rig) -> None:
        for n in range(6):
            await submit(rig, new_task(f"s{n % 2}"))
        for limit in (1, 3):
            async with rig.bus.inbox("planner", max_held=limit) as inbox:
                held = [await take(inbox) for _ in range(limit)]
                await take_none(inbox, rig.ack_wait_s / 2)
                await held[0].nak(0)
                held[0] = await take(inbox)
                for delivery in held:
                    await delivery.nak(0)

    async def test_stop_ends_the_iteration_and_lets_what_is_held_be_settled(
        self, open_rig: OpenRig
    ) -> None:
        async with open_rig(ack_wait_s=60) as rig:
            for _ in range(4):
                await submit(rig, new_task("s0"))
            async with rig.bus.inbox("planner", max_held=4) as inbox:
                held = await take(inbox)
                inbox.stop()
                assert [d async for d in inbox] == []
                await held.ack()
                async with rig.other.inbox("planner", max_held=4) as other:
                    for _ in range(3):
                        delivery = await take(other)
                        assert delivery.record != held.record
                        await delivery.ack()

    async def test_the_backlog_tells_what_waits_and_what_is_held(self, rig: Rig) -> None:
        assert await rig.bus.backlog("planner") == Backlog()
        async with rig.bus.inbox("planner", max_held=1) as inbox:
            for _ in range(3):
                await submit(rig, new_task("s0"))
            held = await take(inbox)
            assert await rig.bus.backlog("planner") == Backlog(waiting=2, held=1)
            assert await rig.other.backlog("reader") == Backlog()
            await held.ack()
            for _ in range(2):
                await (await take(inbox)).ack()
            assert await rig.other.backlog("planner") == Backlog()

    async def test_leaving_gives_back_what_is_held(self, open_rig: OpenRig) -> None:
        async with open_rig(ack_wait_s=60) as rig:
            await submit(rig, new_task())
            async with rig.bus.inbox("planner", max_held=4) as inbox:
                held = await take(inbox)
            async with rig.other.inbox("planner", max_held=4) as other:
                assert (await take(other)).record == held.record
            with pytest.raises(Unavailable):
                await held.ack()

    async def test_settling_twice_is_an_error_of_the_caller(self, rig: Rig) -> None:
        await submit(rig, new_task())
        async with rig.bus.inbox("planner", max_held=1) as inbox:
            held = await take(inbox)
            await held.ack()
            with pytest.raises(RuntimeError):
                await held.nak(0)
            with pytest.raises(RuntimeError):
                held.drop()

    async def test_what_cannot_be_read_is_delivered_with_its_fault(self, rig: Rig) -> None:
        task = new_task()
        await rig.put(f"mesh.{rig.tenant}.{home(task)}.planner.{task}.m.gateway", UNREADABLE)
        async with rig.bus.inbox("planner", max_held=1) as inbox:
            delivery = await take(inbox)
            assert delivery.record.envelope is None
            assert delivery.record.fault
            await delivery.ack()

    async def test_an_error_of_the_block_leaves_as_itself(self, rig: Rig) -> None:
        with pytest.raises(LookupError):
            async with rig.bus.inbox("planner", max_held=1):
                raise LookupError
        with pytest.raises(LookupError):
            async with rig.bus.tail("s0", after=0):
                raise LookupError


class TailContract:
    """Tails and hints; the subclass provides a `rig` fixture."""

    async def test_a_tail_gives_what_stands_and_then_what_comes(self, rig: Rig) -> None:
        make, task = Events(rig.tenant), new_task("s1")
        await rig.bus.append([make.step(task) for _ in range(5)], {})
        async with rig.other.tail("s1", after=2, batch=2) as tail:
            assert [r.position for r in await anext(tail)] in ([3], [3, 4])
        async with rig.other.tail("s1", after=2) as tail:
            assert [r.position for r in await read(tail, 3)] == [3, 4, 5]
            await submit(rig, new_task("s0"))
            await rig.bus.append([make.report(task)], {})
            (last,) = await read(tail, 1)
            assert last == (await rig.bus.history(task))[-1]

    async def test_batches_are_never_larger_than_asked_for(self, rig: Rig) -> None:
        make, task = Events(rig.tenant), new_task("s0")
        await rig.bus.append([make.step(task) for _ in range(50)], {})
        async with rig.bus.tail("s0", after=0, batch=7) as tail:
            positions: list[int] = []
            while len(positions) < 50:
                batch = await anext(tail)
                assert 1 <= len(batch) <= 7
                positions += [record.position for record in batch]
        assert positions == list(range(1, 51))

    async def test_a_tail_that_cannot_go_on_says_why(self, rig: Rig) -> None:
        make, task = Events(rig.tenant), new_task("s0")
        await rig.bus.append([make.step(task) for _ in range(5)], {})
        await rig.trim("s0", 3)
        with pytest.raises(HistoryCorrupt, match=r"begins at position 3.*needs 1.*trimmed"):
            async with rig.bus.tail("s0", after=0) as tail:
                await anext(tail)
        async with rig.bus.tail("s0", after=2) as tail:
            assert [r.position for r in await read(tail, 3)] == [3, 4, 5]
        with pytest.raises(HistoryCorrupt, match=r"ends at position 5.*seen 9.*recreated"):
            async with rig.bus.tail("s0", after=9) as tail:
                await anext(tail)

    async def test_no_gap_and_no_duplicate_while_a_thousand_a_second_are_written(
        self, rig: Rig
    ) -> None:
        total, tails = 2_000, 6
        make, task = Events(rig.tenant), new_task("s0")

        async def write() -> None:
            began = anyio.current_time()
            for n in range(0, total, 20):
                await rig.bus.append([make.step(task) for _ in range(20)], {})
                await anyio.sleep_until(began + n / 1_000)

        async def follow(reader: random.Random) -> None:
            after = 0
            while after < total:
                async with rig.other.tail("s0", after=after, batch=50) as tail:
                    for _ in range(reader.randint(1, 30)):
                        for record in await anext(tail):
                            assert record.position == after + 1
                            after += 1
                        if after == total:
                            return

        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(write)
                for seed in range(tails):
                    group.start_soon(follow, random.Random(seed))

    async def test_hints_reach_whoever_listens_for_them(self, rig: Rig) -> None:
        async with rig.other.hints("task.b") as only, rig.other.hints("task.*") as hints:
            await _heard(rig, hints)
            for topic in ("task.a", "task.b", "other.b", "task.b.c", "task.z"):
                await rig.bus.hint(topic)
            with anyio.fail_after(10):
                found = await _until(hints, "task.z")
                assert found == [Hint("task.a"), Hint("task.b"), Hint("task.z")]
                assert await anext(only) == Hint("task.b")

    async def test_hints_carry_bytes_as_they_are_and_in_order(self, rig: Rig) -> None:
        sent = [
            b"",
            b"text",
            bytes(range(256)),
            b"\r\n\0PUB x 1\r\n",
            random.Random(1).randbytes(70_000),
            b"",
            random.Random(2).randbytes(HINT_LIMIT_BYTES),
        ]
        async with rig.other.hints("task.*") as hints:
            await _heard(rig, hints)
            for data in sent:
                await rig.bus.hint("task.data", data)
            await rig.bus.hint("task.z")
            with anyio.fail_after(10):
                found = await _until(hints, "task.z")
            assert found == [*(Hint("task.data", data) for data in sent), Hint("task.z")]

    async def test_a_hint_that_is_too_large_is_refused_and_not_sent(self, rig: Rig) -> None:
        async with rig.other.hints("task.*") as hints:
            await _heard(rig, hints)
            with pytest.raises(PayloadTooLarge, match="524289 bytes") as refused:
                await rig.bus.hint("task.data", bytes(HINT_LIMIT_BYTES + 1))
            assert refused.value.limit_bytes == HINT_LIMIT_BYTES
            await rig.bus.hint("task.z")
            with anyio.fail_after(10):
                assert await _until(hints, "task.z") == [Hint("task.z")]

    async def test_a_slow_reader_of_hints_blocks_nobody(self, rig: Rig) -> None:
        async with rig.other.hints("task.*") as hints:
            await _heard(rig, hints)
            for _ in range(2_000):
                await rig.bus.hint("task.ready")
            with anyio.fail_after(10):
                assert await anext(hints) == Hint("task.ready")


async def _heard(rig: Rig, hints: AsyncIterator[Hint]) -> None:
    """In a cluster it takes a moment until every broker knows who listens."""

    async def call() -> None:
        while True:
            await rig.bus.hint("task.ready")
            await anyio.sleep(0.02)

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        with anyio.fail_after(10):
            assert await anext(hints) == Hint("task.ready")
        group.cancel_scope.cancel()


async def _until(hints: AsyncIterator[Hint], topic: str) -> list[Hint]:
    """Hints up to one on a topic, without those that only ask whether anybody listens."""
    found: list[Hint] = []
    while not found or found[-1].topic != topic:
        hint = await anext(hints)
        if hint.topic != "task.ready":
            found.append(hint)
    return found


async def _first(inbox: Inbox, other: Inbox) -> bool:
    """Whichever inbox gets it drops it; whether it was the first one."""
    winner: list[bool] = []

    async def wait(mine: Inbox, first: bool) -> None:
        (await take(mine)).drop()
        winner.append(first)
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(wait, inbox, True)
        group.start_soon(wait, other, False)
    return winner[0]
