"""The recorder as a process of its own, on a real log and a real store."""

# pyright: reportUnknownMemberType=false
# nats-py leaves its keyword parameters without types.

from __future__ import annotations

import os
import signal
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL
from typing import TYPE_CHECKING

import anyio
import pytest

from mesh.bus.jetstream import open_bus, open_nats
from mesh.ledger.check import verify
from mesh.ledger.reader import Reader
from mesh.store.port import EventQuery
from mesh.store.surreal import open_surreal
from mesh.testing.broker import Broker, open_broker
from tests.contract.nats_client import connected
from tests.make import TENANT
from tests.runtime.ledger_rig import relay, task_id

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from anyio.abc import Process

    from mesh.bus.port import Bus
    from mesh.core.envelope import Record
    from mesh.store.port import Store

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]
ENV = {"SURREAL_SYNC_DATA": "true", "PATH": os.defpath}
STREAM = f"MESH_{TENANT}_s0"


@dataclass(kw_only=True)
class Site:
    """A broker with a log, and the folder of the store that a recorder makes of it."""

    broker: Broker
    bus: Bus
    folder: Path

    @asynccontextmanager
    async def recorder(self) -> AsyncGenerator[Child]:
        """A recorder process; killed at the end."""
        command = [sys.executable, "-m", "tests.system.ledger_child", "record"]
        async with await anyio.open_process(
            [*command, str(self.folder), self.broker.url],
            env=ENV,
            cwd=ROOT,
            stdin=DEVNULL,
            stderr=None,
        ) as process:
            try:
                yield Child(process)
            finally:
                if process.returncode is None:
                    process.kill()

    @asynccontextmanager
    async def store(self) -> AsyncGenerator[Store]:
        async with open_surreal(str(self.folder), tenant=TENANT) as store:
            yield store

    async def put(self, subject: str, raw: bytes) -> None:
        """Put a message on the log by hand."""
        async with connected(self.broker.url) as client:
            await client.request(subject, raw, timeout=5)

    async def last(self) -> int:
        return (await self.bus.info())[0].last

    async def log(self) -> list[Record]:
        """All that the log has."""
        last = await self.last()
        found: list[Record] = []
        async with self.bus.tail("s0", after=0) as batches:
            async for batch in batches:
                found += batch
                if found[-1].position == last:
                    break
        return found


class Child:
    """What a recorder process says."""

    def __init__(self, process: Process) -> None:
        self._process, self._text = process, b""

    async def reached(self, position: int) -> None:
        """Wait until it says that it recorded a position."""
        assert self._process.stdout is not None
        with anyio.fail_after(60):
            while self.position < position:
                self._text += await self._process.stdout.receive()

    @property
    def position(self) -> int:
        lines = self._text.split(b"\n")[:-1]
        return int(lines[-1]) if lines else 0

    async def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        assert await self._process.wait() == -signal.SIGKILL

    async def ended(self) -> int:
        with anyio.fail_after(60):
            return await self._process.wait()


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Site]:
    monkeypatch.setenv("SURREAL_SYNC_DATA", "true")
    async with (
        open_broker(tmp_path) as broker,
        open_nats(broker.url, "test") as connection,
        open_bus(connection, tenant=TENANT) as bus,
    ):
        yield Site(broker=broker, bus=bus, folder=tmp_path / "store")


async def write(bus: Bus, first: int, last: int) -> None:
    """Relay tasks, each in one append."""
    for number in range(first, last + 1):
        await bus.append(relay(number), {task_id(number): 0})


async def check_same(site: Site, tasks: int) -> None:
    """The store has the log, byte for byte and once; projections are what events fold to."""
    log = await site.log()
    async with site.store() as store:
        events = await store.events(EventQuery(limit=100_000))
        assert [e.record for e in events] == log
        assert await store.count("s0") == (1, len(log), len(log))
        assert (await verify(store, "s0")).position == len(log)
        reader = Reader(store)
        for number in range(1, tasks + 1):
            assert (await reader.rebuilt(task_id(number))).same
        done = sum(activity.completed for activity in await reader.activity())
        assert done == tasks


async def test_a_killed_recorder_goes_on_with_nothing_lost_or_twice(
    site: Site, request: pytest.FixtureRequest
) -> None:
    kills = 20 if request.config.getoption("--bars") else 4
    per_kill, written = 60, 0
    for kill in range(kills):
        await site.put(f"mesh.{TENANT}.s0.log.{task_id(9000 + kill)}.m.planner", b"\xff")
        async with site.recorder() as child, anyio.create_task_group() as tasks:
            tasks.start_soon(write, site.bus, written + 1, written + per_kill)
            await child.reached(await site.last() + per_kill)
            await child.kill()
        written += per_kill
    async with site.recorder() as child:
        await child.reached(written * 5 + 2 * kills)  # each unreadable one has its notice
        assert child.position == await site.last()
    await check_same(site, written)
    async with site.store() as store:
        letters, _ = await Reader(store).dead_letters()
        assert len(letters) == kills
        assert await store.rows("notice", tags={}) == []


async def test_a_broker_that_dies_and_comes_back_is_recorded_on(site: Site) -> None:
    async with site.recorder() as child:
        await write(site.bus, 1, 20)
        await child.reached(100)
        await site.broker.kill()
        await site.broker.restart()
        await write(site.bus, 21, 40)
        await child.reached(200)
    await check_same(site, 40)


async def test_a_log_that_was_recreated_stops_the_recorder(
    site: Site, capfd: pytest.CaptureFixture[str]
) -> None:
    await write(site.bus, 1, 20)
    async with site.recorder() as child:
        await child.reached(100)
    async with connected(site.broker.url) as client:
        await client.jetstream().delete_stream(STREAM)
    async with (
        open_nats(site.broker.url, "again") as connection,
        open_bus(connection, tenant=TENANT) as bus,
    ):
        await write(bus, 101, 130)
    async with site.recorder() as child:
        assert await child.ended() == 1
    assert "the log was recreated at" in capfd.readouterr().err
    async with site.store() as store:
        assert await store.count("s0") == (1, 100, 100)


async def test_a_hole_in_the_log_stops_the_recorder_before_it(
    site: Site, capfd: pytest.CaptureFixture[str]
) -> None:
    await write(site.bus, 1, 20)
    async with connected(site.broker.url) as client:
        await client.jetstream().delete_msg(STREAM, 57)
    async with site.recorder() as child:
        assert await child.ended() == 1
    assert "after position 56 comes 58, 57 is missing" in capfd.readouterr().err
    async with site.store() as store:
        first, last, count = await store.count("s0")
        assert last == count <= 56
        assert first in (0, 1)


async def test_a_second_recorder_on_the_same_folder_is_refused(
    site: Site, capfd: pytest.CaptureFixture[str]
) -> None:
    await write(site.bus, 1, 5)
    async with site.recorder() as child:
        await child.reached(25)
        async with site.recorder() as second:
            assert await second.ended() == 1
        assert f"store `{site.folder}` is open in another process" in capfd.readouterr().err
        await write(site.bus, 6, 10)
        await child.reached(50)
    await check_same(site, 10)


async def test_an_altered_event_stops_the_recorder(
    site: Site, capfd: pytest.CaptureFixture[str]
) -> None:
    await write(site.bus, 1, 20)
    async with site.recorder() as child:
        await child.reached(100)
    async with open_surreal(str(site.folder), tenant=TENANT) as store:
        await store.execute("REMOVE EVENT append_only ON event")
        await store.execute("UPDATE event:['s0', 98] SET raw = event:['s0', 97].raw")
    await write(site.bus, 21, 22)
    async with site.recorder() as child:
        assert await child.ended() == 1
    assert "position 98 was altered" in capfd.readouterr().err
    async with site.store() as store:
        assert await store.count("s0") == (1, 100, 100)
