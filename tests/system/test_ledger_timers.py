"""Timers on a real log and a real store, with the ledger's own process, killed at will."""

from __future__ import annotations

import os
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from subprocess import DEVNULL
from typing import TYPE_CHECKING

import anyio
import grpc
import pytest

from mesh.bus.jetstream import open_bus, open_nats
from mesh.clock import SystemClock
from mesh.core import event as e
from mesh.ledger.reader import Reader
from mesh.ledger.row import TIMER
from mesh.store.surreal import open_surreal
from mesh.testing.broker import Broker, free_ports, open_broker
from mesh.wire.v1.ledger_pb2 import GetCheckpointRequest
from mesh.wire.v1.ledger_pb2_grpc import LedgerServiceStub
from tests.make import TENANT, TEXT, envelope
from tests.runtime.ledger_rig import task_id

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from anyio.abc import Process

    from mesh.bus.port import Bus
    from mesh.core.envelope import Envelope, Record

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]
TOGETHER = 150
"""Tasks of one append."""


def now() -> datetime:
    return SystemClock().now()


def asleep(number: int, due: datetime) -> list[Envelope]:
    """A task that sleeps until `due`, as its agent would have written it."""
    events: list[tuple[e.TaskEvent, str, str]] = [
        (e.TaskSubmitted(input=TEXT), "gateway", "sleeper"),
        (e.TimerSet(ordinal=1, timer_id=f"nap-{number}", fires_at=due), "sleeper", "log"),
        (e.Suspended(waits=(e.Wait(what="timer", id=f"nap-{number}"),)), "sleeper", "log"),
    ]
    return [envelope(event, sender=by, to=to, task_id=task_id(number)) for event, by, to in events]


@dataclass(frozen=True, kw_only=True)
class Site:
    """A broker, its log, and where the ledger keeps its data."""

    broker: Broker
    bus: Bus
    data: Path
    address: str

    async def sleep(self, due: dict[int, datetime]) -> None:
        """Put a sleeping task on the log for each number."""
        numbers = list(due)
        for start in range(0, len(numbers), TOGETHER):
            part = numbers[start : start + TOGETHER]
            events = [made for number in part for made in asleep(number, due[number])]
            await self.bus.append(events, {task_id(number): 0 for number in part})

    @asynccontextmanager
    async def ledger(self) -> AsyncGenerator[Process]:
        """The ledger's process, serving; killed at the end."""
        environment = {
            "PATH": os.defpath,
            "MESH_NATS_URL": self.broker.url,
            "MESH_TENANT": TENANT,
            "MESH_DATA": str(self.data),
            "MESH_LEDGER": self.address,
        }
        async with await anyio.open_process(
            [sys.executable, "-m", "services.ledger"],
            env=environment,
            cwd=ROOT,
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=None,
        ) as process:
            try:
                yield process
            finally:
                if process.returncode is None:
                    process.kill()

    async def recorded(self) -> int:
        """Wait until the ledger has all that stands on the log; gives the last position."""
        (info,) = await self.bus.info()
        async with grpc.aio.insecure_channel(self.address) as channel:
            ledger = LedgerServiceStub(channel)
            with anyio.fail_after(180):
                while True:
                    said = await ledger.GetCheckpoint(
                        GetCheckpointRequest(shard="s0"), wait_for_ready=True
                    )
                    if said.position >= info.last:
                        return info.last
                    await anyio.sleep(0.05)

    async def fired(self, *, count: int) -> list[Record]:
        """The first so many timers that fired, in their order; waits for them."""
        found: list[Record] = []
        with anyio.fail_after(180):
            async with self.bus.tail("s0", after=0) as batches:
                async for records in batches:
                    found += [r for r in records if r.envelope and _is_fired(r)]
                    if len(found) >= count:
                        return found
        raise AssertionError("unreachable")

    async def check_each_fired_once(self, due: dict[int, datetime]) -> list[float]:
        """One event for each timer, none early, and each task woken; gives how late, seconds."""
        found = await self.fired(count=len(due))
        named = {f"nap-{number}": at for number, at in due.items()}
        late = [(r.stored_at - named.pop(_timer_id(r))).total_seconds() for r in found]
        assert not named
        assert min(late) >= 0
        async with open_surreal(str(self.data / "ledger" / "store"), tenant=TENANT) as store:
            assert await store.rows(TIMER, tags={}) == []
            reader = Reader(store)
            for record in found:
                assert record.envelope is not None
                task = await reader.task(record.envelope.task_id)
                assert task is not None
                assert task.leg is not None
                assert task.turn is not None
                assert (task.leg.timers, task.leg.suspended) == ((), False)
                assert task.turn.delivery_id == record.envelope.event_id
        return sorted(late)


def _is_fired(record: Record) -> bool:
    return record.envelope is not None and isinstance(record.envelope.event, e.TimerFired)


def _timer_id(record: Record) -> str:
    assert record.envelope is not None
    assert isinstance(record.envelope.event, e.TimerFired)
    return record.envelope.event.timer_id


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Site]:
    monkeypatch.setenv("SURREAL_SYNC_DATA", "true")
    (port,) = free_ports(1)
    async with (
        open_broker(tmp_path) as broker,
        open_nats(broker.url, "test") as connection,
        open_bus(connection, tenant=TENANT) as bus,
    ):
        data = tmp_path / "data"
        yield Site(broker=broker, bus=bus, data=data, address=f"127.0.0.1:{port}")


async def ended(site: Site, process: Process) -> None:
    """Let it record everything, and end it as its supervisor would."""
    await site.recorded()
    process.terminate()
    with anyio.fail_after(20):
        assert await process.wait() == 0


async def test_sleepers_wake_on_time_though_ledger_and_broker_were_killed_meanwhile(
    site: Site, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    bars = request.config.getoption("--bars")
    count, ahead_s = (10_000, 75) if bars else (200, 10)
    began = now()
    first = began + timedelta(seconds=ahead_s)
    due = {n: first + timedelta(seconds=n / count) for n in range(1, count + 1)}
    async with site.ledger() as process:
        await site.sleep(due)
        await site.recorded()
        recorded_s = (now() - began).total_seconds()
        process.kill()
        await site.broker.kill()
    await site.broker.restart()
    async with site.ledger() as process:
        await site.recorded()
        assert now() < first, f"only just recorded, after {now() - began}: set the timers later"
        ready_s = (now() - began).total_seconds()
        await site.fired(count=count)
        await ended(site, process)
    late = await site.check_each_fired_once(due)
    with capsys.disabled():
        print(  # noqa: T201
            f"\n{count} timers within 1 s: recorded after {recorded_s:.1f} s, all back after"
            f" {ready_s:.1f} s, due after {ahead_s} s; stored late by {late[count // 2]:.3f} s in"
            f" the middle, {late[-1]:.3f} s at most"
        )
    if bars:
        assert late[-1] <= 2


async def test_a_ledger_killed_while_it_fires_leaves_nothing_out_and_nothing_twice(
    site: Site, request: pytest.FixtureRequest
) -> None:
    kills = 10 if request.config.getoption("--bars") else 3
    count = 100 * kills
    first = now() + timedelta(seconds=4)
    due = {n: first + timedelta(seconds=2 * n / count) for n in range(1, count + 1)}
    async with site.ledger():
        await site.sleep(due)
        await site.recorded()
    for kill in range(kills):
        async with site.ledger():  # killed in the midst of it
            await site.fired(count=count * (kill + 1) // (kills + 1))
    async with site.ledger() as process:
        await site.fired(count=count)
        await ended(site, process)
    await site.check_each_fired_once(due)


@pytest.mark.parametrize("away", ["killed", "hanging"])
async def test_timers_that_are_due_while_the_broker_is_away_fire_when_it_is_back(
    site: Site, away: str
) -> None:
    due = {n: now() + timedelta(seconds=4) for n in range(1, 21)}
    async with site.ledger() as process:
        await site.sleep(due)
        await site.recorded()
        if away == "killed":
            await site.broker.kill()
        else:
            site.broker.stop()
        # Only time makes them due; a broker that hangs is given up by what it does not answer.
        await anyio.sleep((due[1] - now()).total_seconds() + (0.5 if away == "killed" else 7))
        if away == "killed":
            await site.broker.restart()
        else:
            site.broker.cont()
        await site.fired(count=len(due))
        await ended(site, process)
    await site.check_each_fired_once(due)
