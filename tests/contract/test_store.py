"""What every store must do, and what only the embedded one must."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import anyio
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from mesh.errors import CheckpointConflict, ConfigError, HistoryCorrupt, StoreLocked, Unavailable
from mesh.store.inproc import InprocStore
from mesh.store.port import Checkpoint, Commit, EventQuery, Row
from mesh.store.surreal import open_surreal
from mesh.testing.broker import free_ports
from tests.contract.store_sample import START, after, commit, id_of, story

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from mesh.store.port import Store

EMPTY = Checkpoint(shard="s0")


async def positions(store: Store, query: EventQuery) -> list[int]:
    return [event.record.position for event in await store.events(query)]


class StoreContract:
    """Behaviour of any `Store`; the subclass provides a `store` fixture."""

    async def test_a_new_store_is_empty(self, store: Store) -> None:
        assert await store.checkpoint("s3") == Checkpoint(shard="s3")
        assert await store.count("s0") == (0, 0, 0)
        assert await store.events(EventQuery()) == []
        assert await store.row("task", "a") is None
        assert await store.rows("task", tags={}) == []

    async def test_events_come_back_as_they_were_written(self, store: Store) -> None:
        await store.commit(commit(EMPTY, story()), expected=EMPTY)
        assert await store.events(EventQuery()) == story()

    async def test_the_checkpoint_comes_back_as_it_was_written(self, store: Store) -> None:
        told = commit(EMPTY, story())
        await store.commit(told, expected=EMPTY)
        assert await store.checkpoint("s0") == told.checkpoint
        assert told.checkpoint.log_created_at == START

    async def test_a_store_goes_on_from_its_checkpoint(self, store: Store) -> None:
        first = commit(EMPTY, story()[:3])
        await store.commit(first, expected=EMPTY)
        await store.commit(commit(first.checkpoint, story()[3:]), expected=first.checkpoint)
        assert await store.events(EventQuery()) == story()
        assert await store.count("s0") == (1, 8, 8)

    async def test_another_checkpoint_stored_is_a_conflict_and_nothing_is_written(
        self, store: Store
    ) -> None:
        first = commit(EMPTY, story()[:3])
        await store.commit(first, expected=EMPTY)
        late = commit(EMPTY, story()[3:], [Row(projection="task", key="a", state=b"x")])
        with pytest.raises(CheckpointConflict) as caught:
            await store.commit(late, expected=EMPTY)
        assert (caught.value.expected, caught.value.actual) == (0, 3)
        assert await store.checkpoint("s0") == first.checkpoint
        assert await store.count("s0") == (1, 3, 3)
        assert await store.row("task", "a") is None

    async def test_the_same_position_with_another_chain_is_a_conflict(self, store: Store) -> None:
        first = commit(EMPTY, story()[:3])
        await store.commit(first, expected=EMPTY)
        other = replace(first.checkpoint, chain=bytes(range(32)))
        with pytest.raises(CheckpointConflict):
            await store.commit(commit(other, story()[3:]), expected=other)
        assert await store.count("s0") == (1, 3, 3)

    async def test_a_position_stored_already_is_corrupt_and_nothing_is_written(
        self, store: Store
    ) -> None:
        first = commit(EMPTY, story()[:3])
        await store.commit(first, expected=EMPTY)
        again = commit(first.checkpoint, story()[2:], [Row(projection="task", key="a", state=b"")])
        with pytest.raises(HistoryCorrupt, match="position 3 is stored already"):
            await store.commit(again, expected=first.checkpoint)
        assert await store.events(EventQuery()) == story()[:3]
        assert await store.checkpoint("s0") == first.checkpoint
        assert await store.row("task", "a") is None

    async def test_of_many_writers_at_once_one_wins(self, store: Store) -> None:
        conflicts: list[CheckpointConflict] = []

        async def write(key: str) -> None:
            row = Row(projection="agent", key=key, state=b"won")
            try:
                await store.commit(commit(EMPTY, story(), [row]), expected=EMPTY)
            except CheckpointConflict as error:
                conflicts.append(error)

        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(write, f"k{number}")
        assert len(conflicts) == 7
        assert len(await store.rows("agent", tags={})) == 1
        assert await store.count("s0") == (1, 8, 8)

    async def test_shards_do_not_touch_each_other(self, store: Store) -> None:
        other = Checkpoint(shard="s1")
        await store.commit(commit(EMPTY, story()), expected=EMPTY)
        await store.commit(commit(other, story("s1")[:2]), expected=other)
        assert await store.count("s0") == (1, 8, 8)
        assert await store.count("s1") == (1, 2, 2)
        assert await store.events(EventQuery(shard="s1")) == story("s1")[:2]
        assert (await store.checkpoint("s1")).position == 2

    async def test_unreadable_bytes_are_kept_with_their_fault(self, store: Store) -> None:
        broken = story()[0]
        broken = replace(
            broken, record=replace(broken.record, raw=b"\xff\x00", envelope=None, fault=""), kind=""
        )
        await store.commit(commit(EMPTY, [broken]), expected=EMPTY)
        (found,) = await store.events(EventQuery())
        assert found.record.raw == b"\xff\x00"
        assert found.record.envelope is None
        assert "envelope" in found.record.fault
        assert (found.kind, found.task_id) == ("", id_of(1))

    async def test_events_are_found_by_task_agent_kind_position_and_time(
        self, store: Store
    ) -> None:
        await store.commit(commit(EMPTY, story()), expected=EMPTY)
        second = timedelta(seconds=1)
        cases = {
            EventQuery(task_id=id_of(1)): [1, 2, 4, 6, 7],
            EventQuery(task_id=id_of(1), first=2, last=6): [2, 4, 6],
            EventQuery(task_id=id_of(1), kind="task.noted"): [2, 6],
            EventQuery(task_id=id_of(9)): [],
            EventQuery(agent="planner"): [1, 2, 4, 8],
            EventQuery(agent="writer", task_id=id_of(2)): [3, 5],
            EventQuery(kind="task.submitted"): [1, 3, 8],
            EventQuery(kind="task.submitted", agent="planner", first=2): [8],
            EventQuery(first=3, last=5): [3, 4, 5],
            EventQuery(first=9): [],
            EventQuery(limit=2): [1, 2],
            EventQuery(limit=2, first=3): [3, 4],
            EventQuery(kind="task.completed", limit=1): [5],
            EventQuery(task_id=id_of(1), limit=2, first=2): [2, 4],
            EventQuery(since=START + 3 * second): [3, 4, 5, 6, 7, 8],
            EventQuery(until=START + 3 * second): [1, 2, 3],
            EventQuery(since=START + 3 * second, until=START + 4 * second): [3, 4],
            EventQuery(since=START + 9 * second): [],
            EventQuery(task_id=id_of(1), since=START + 6 * second): [6, 7],
            EventQuery(until=START): [],
            EventQuery(shard="s1"): [],
        }
        for query, expected in cases.items():
            assert await positions(store, query) == expected, query

    async def test_a_time_is_found_among_events_far_apart(self, store: Store) -> None:
        hour = timedelta(hours=1)
        told = [
            replace(e, record=replace(e.record, stored_at=START + n * hour))
            for n, e in enumerate(story())
        ]
        await store.commit(commit(EMPTY, told), expected=EMPTY)
        found = await positions(store, EventQuery(since=START + 2 * hour, until=START + 5 * hour))
        assert found == [3, 4, 5, 6]
        assert await positions(store, EventQuery(since=START + 7 * hour)) == [8]
        assert await positions(store, EventQuery(until=START + 1 * hour)) == [1, 2]

    async def test_count_tells_what_stands_though_positions_do_not_begin_at_1(
        self, store: Store
    ) -> None:
        await store.commit(commit(EMPTY, story()[4:]), expected=EMPTY)
        assert await store.count("s0") == (5, 8, 4)

    async def test_rows_are_written_replaced_and_deleted(self, store: Store) -> None:
        row = Row(projection="task", key="a", state=b"\x00\x01", order=7, tags={"state": "WORKING"})
        first = commit(EMPTY, story()[:1], [row])
        await store.commit(first, expected=EMPTY)
        assert await store.row("task", "a") == row
        assert await store.row("agent", "a") is None
        changed = replace(row, state=b"", tags={"owner": "b"}, order=8)
        second = commit(first.checkpoint, story()[1:2], [changed])
        await store.commit(second, expected=first.checkpoint)
        assert await store.row("task", "a") == changed
        gone = replace(row, state=None)
        await store.commit(
            commit(second.checkpoint, story()[2:3], [gone]), expected=second.checkpoint
        )
        assert await store.row("task", "a") is None
        assert await store.rows("task", tags={}) == []

    async def test_rows_are_listed_newest_first_by_tags_and_in_pages(self, store: Store) -> None:
        rows = [
            Row(
                projection="task",
                key=f"k{n}",
                state=bytes([n]),
                order=n * 1024,
                tags={"state": "DONE" if n % 3 else "OPEN", "owner": f"a{n % 2}"},
            )
            for n in range(1, 31)
        ]
        other = Row(projection="agent", key="k1", state=b"a", order=1, tags={})
        await store.commit(commit(EMPTY, story(), [*rows, other]), expected=EMPTY)

        async def keys(before: int = 0, limit: int = 100, **tags: list[str]) -> list[int]:
            found = await store.rows("task", tags=tags, before=before, limit=limit)
            assert all(row in rows for row in found)
            return [row.order // 1024 for row in found]

        assert await keys() == list(range(30, 0, -1))
        assert await keys(limit=3) == [30, 29, 28]
        assert await keys(before=28 * 1024, limit=3) == [27, 26, 25]
        assert await keys(state=["OPEN"], limit=3) == [30, 27, 24]
        assert await keys(state=["OPEN"], before=24 * 1024, limit=2) == [21, 18]
        assert await keys(state=["OPEN", "DONE"], owner=["a1"], limit=3) == [29, 27, 25]
        assert await keys(state=["OPEN", "DONE"], limit=4) == [30, 29, 28, 27]
        assert await keys(state=["DONE", "OPEN"], owner=["a0", "a1"], before=5 * 1024) == [
            4,
            3,
            2,
            1,
        ]
        assert await keys(owner=["a0"], limit=2) == [30, 28]
        assert await keys(state=["NONE"]) == []
        assert [row.key for row in await store.rows("agent", tags={})] == ["k1"]

    async def test_large_numbers_and_an_empty_commit_survive(self, store: Store) -> None:
        big = 2**52
        event = story()[0]
        event = replace(event, record=replace(event.record, position=big))
        row = Row(projection="task", key="a", state=b"x", order=big)
        first = commit(EMPTY, [event], [row])
        await store.commit(first, expected=EMPTY)
        await store.commit(
            Commit(events=[], rows=[], checkpoint=first.checkpoint), expected=first.checkpoint
        )
        assert await store.count("s0") == (big, big, 1)
        assert (await store.rows("task", tags={}))[0].order == big
        assert (await store.checkpoint("s0")).position == big


class TestInprocStore(StoreContract):
    @pytest.fixture
    def store(self) -> InprocStore:
        return InprocStore()


@pytest.fixture(autouse=True)
def synced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SURREAL_SYNC_DATA", "true")


@pytest.mark.live
class TestEmbeddedSurrealStore(StoreContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncGenerator[Store]:
        async with open_surreal(f"surrealkv://{tmp_path / 'store'}") as store:
            yield store

    async def test_what_was_committed_is_there_after_reopening(self, tmp_path: Path) -> None:
        folder = str(tmp_path / "again")
        async with open_surreal(folder) as store:
            await store.commit(commit(EMPTY, story()), expected=EMPTY)
        async with open_surreal(folder) as store:
            assert await store.events(EventQuery()) == story()
            assert await store.checkpoint("s0") == after(EMPTY, story())

    async def test_tenants_have_databases_of_their_own(self, tmp_path: Path) -> None:
        folder = str(tmp_path / "shared")
        async with open_surreal(folder, tenant="acme") as store:
            await store.commit(commit(EMPTY, story()), expected=EMPTY)
        async with open_surreal(folder, tenant="other-one") as store:
            assert await store.count("s0") == (0, 0, 0)
        async with open_surreal(folder, tenant="acme") as store:
            assert await store.count("s0") == (1, 8, 8)

    async def test_a_folder_in_use_is_refused_by_name(self, tmp_path: Path) -> None:
        folder = str(tmp_path / "busy")
        async with open_surreal(folder):
            with pytest.raises(StoreLocked, match=f"`{folder}` is open in another process"):
                async with open_surreal(folder):
                    pytest.fail("two at a time")
        async with open_surreal(folder) as store:
            assert await store.count("s0") == (0, 0, 0)

    async def test_an_unsynced_engine_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("SURREAL_SYNC_DATA")
        with pytest.raises(ConfigError, match="SURREAL_SYNC_DATA=true"):
            async with open_surreal(str(tmp_path / "unsynced")):
                pytest.fail("opened")
        assert not (tmp_path / "unsynced").exists()

    @pytest.mark.parametrize("url", ["http://localhost:8000", "mem://", "store?sync=every", ""])
    async def test_a_url_of_another_kind_is_refused(self, url: str) -> None:
        with pytest.raises(ConfigError, match="store"):
            async with open_surreal(url):
                pytest.fail("opened")

    async def test_no_file_stays_open_after_leaving(self, tmp_path: Path) -> None:
        folder = tmp_path / "left"
        async with open_surreal(str(folder)) as store:
            await store.commit(commit(EMPTY, story()), expected=EMPTY)
            assert open_files(folder)
        assert open_files(folder) == []

    async def test_stored_events_cannot_be_changed_or_deleted(self, tmp_path: Path) -> None:
        async with open_surreal(str(tmp_path / "guarded")) as store:
            await store.commit(commit(EMPTY, story()), expected=EMPTY)
            for sql in (
                "UPDATE event SET kind = 'x'",
                "DELETE event",
                "UPDATE event:['s0', 1] SET kind = 'x'",
            ):
                with pytest.raises(Exception, match="append-only"):
                    await store.execute(sql)
            assert await store.events(EventQuery()) == story()


async def test_a_server_that_hangs_up_in_the_middle_is_unavailable() -> None:
    async def hang_up(socket: ServerConnection) -> None:
        await socket.recv()

    async with serve(
        hang_up, "127.0.0.1", 0, subprotocols=[Subprotocol("cbor")], max_size=None
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        with anyio.fail_after(10), pytest.raises(Unavailable, match=f"127.0.0.1:{port}"):
            async with open_surreal(f"ws://127.0.0.1:{port}"):
                pytest.fail("opened")


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    (port,) = free_ports(1)
    with anyio.fail_after(10), pytest.raises(Unavailable, match=f"127.0.0.1:{port}"):
        async with open_surreal(f"ws://127.0.0.1:{port}"):
            pytest.fail("opened")


def open_files(folder: Path) -> list[str]:
    found: list[str] = []
    for handle in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{handle}")
        except OSError:
            continue
        if path.startswith(str(folder)):
            found.append(path)
    return found
