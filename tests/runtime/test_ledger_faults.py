"""Log and store disagree: each way is detected, named and refused, and nothing is overwritten."""

from __future__ import annotations

import shutil
from base64 import b64encode
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import pytest

from mesh.bus.inproc import InprocBus
from mesh.core.task import State
from mesh.errors import CheckpointConflict, ConfigError, HistoryCorrupt, Unavailable
from mesh.ledger.check import stored_events, verify
from mesh.store.inproc import InprocStore
from mesh.store.port import Checkpoint, Commit, EventQuery, StoredEvent
from mesh.store.surreal import SurrealStore, open_surreal
from tests.make import TENANT
from tests.runtime.ledger_rig import Rig, relay, task_id

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from mesh.ledger.recorder import Recorder

EVENTS = 600
"""More than the part that is checked at start."""


@pytest.fixture(params=["inproc", pytest.param("surreal", marks=pytest.mark.live)])
async def rig(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[Rig]:
    """A rig whose log of `EVENTS` events is recorded."""
    if request.param == "inproc":
        made = Rig(store=InprocStore())
        await fill(made)
        yield made
        return
    monkeypatch.setenv("SURREAL_SYNC_DATA", "true")
    async with open_surreal(str(tmp_path / "store"), tenant=TENANT) as store:
        made = Rig(store=store)
        await fill(made)
        yield made


async def fill(rig: Rig) -> None:
    for number in range(1, EVENTS // 5 + 1):
        await rig.tell(*relay(number))
    await rig.record_all()


async def event_at(rig: Rig, position: int) -> StoredEvent:
    (event,) = await rig.store.events(EventQuery(first=position, last=position))
    return event


async def drop(rig: Rig, position: int) -> None:
    """Lose a stored event, as a broken disk would."""
    if isinstance(rig.store, InprocStore):
        rig.store.drop_event("s0", position)
    elif isinstance(rig.store, SurrealStore):
        await rig.store.execute("REMOVE EVENT append_only ON event")
        await rig.store.execute(f"DELETE event:['s0', {position}]")


async def alter(rig: Rig, position: int, *, kind: str = "", raw: bytes = b"") -> None:
    """Change a stored event, as somebody with the database in hand could."""
    if isinstance(rig.store, InprocStore):
        event = await event_at(rig, position)
        record = replace(event.record, raw=raw or event.record.raw)
        rig.store.replace_event(replace(event, record=record, kind=kind or event.kind))
    elif isinstance(rig.store, SurrealStore):
        await rig.store.execute("REMOVE EVENT append_only ON event")
        if kind:
            await rig.store.execute(f"UPDATE event:['s0', {position}] SET kind = '{kind}'")
        if raw:
            text = b64encode(raw).decode().rstrip("=")
            await rig.store.execute(
                f"UPDATE event:['s0', {position}] SET raw = encoding::base64::decode('{text}')"
            )


async def forged(rig: Rig, position: int) -> bytes:
    """An event's bytes with one letter changed: still an envelope, telling another story."""
    return (
        (await event_at(rig, position)).record.raw.replace(b"i1", b"i2").replace(b"short", b"shirt")
    )


async def refused(rig: Rig, match: str) -> None:
    before = await rig.store.checkpoint("s0"), await rig.store.count("s0")
    with anyio.fail_after(10), pytest.raises(HistoryCorrupt, match=match):
        await rig.recorder().run("s0")
    assert (await rig.store.checkpoint("s0"), await rig.store.count("s0")) == before


async def test_a_log_that_was_recreated(rig: Rig) -> None:
    rig.bus.recreate("s0")
    await refused(rig, "the log was recreated at")


async def test_a_log_that_was_recreated_and_grew_past_the_checkpoint(rig: Rig) -> None:
    rig.bus.recreate("s0")
    for number in range(1001, 1001 + EVENTS // 5 + 5):
        await rig.tell(*relay(number))
    await refused(rig, "the log was recreated at")


async def test_a_log_that_lost_its_end(rig: Rig) -> None:
    checkpoint = await rig.store.checkpoint("s0")
    (info,) = await rig.bus.info()
    behind = Rig(store=rig.store, bus=InprocBus(tenant=TENANT))
    await behind.tell(*relay(1))
    (other,) = await behind.bus.info()
    unsure = replace(checkpoint, log_created_at=other.created_at)
    await rig.store.commit(Commit(events=[], rows=[], checkpoint=unsure), expected=checkpoint)
    assert info.last == EVENTS
    await refused(behind, f"the log ends at position 5, the ledger has recorded up to {EVENTS}")


async def test_a_log_that_was_trimmed_before_it_was_recorded(rig: Rig) -> None:
    await rig.tell(*relay(901), *relay(902))
    rig.bus.trim("s0", below=EVENTS + 4)
    await refused(rig, f"positions {EVENTS + 1} to {EVENTS + 3} were trimmed")


async def test_a_log_trimmed_below_the_checkpoint_is_gone_on_with(rig: Rig) -> None:
    await rig.tell(*relay(901))
    rig.bus.trim("s0", below=EVENTS - 10)
    await rig.record_all()
    rig.bus.trim("s0", below=EVENTS + 6)
    position = await rig.tell(*relay(902))
    await rig.record_all()
    assert (await verify(rig.store, "s0")).position == position == EVENTS + 10


async def test_a_trimmed_log_and_an_empty_store(rig: Rig) -> None:
    rig.bus.trim("s0", below=7)
    fresh = Rig(store=InprocStore(), bus=rig.bus)
    await refused(fresh, "positions 1 to 6 were trimmed")


async def test_a_shard_that_the_bus_does_not_have(rig: Rig) -> None:
    with pytest.raises(ConfigError, match="no shard `s7`"):
        await rig.recorder().run("s7")


@pytest.mark.parametrize("position", [1, 5, 300, EVENTS - 1, EVENTS])
async def test_a_stored_event_that_is_missing(rig: Rig, position: int) -> None:
    await drop(rig, position)
    with pytest.raises(HistoryCorrupt, match=f"position {position} is missing in the store"):
        await verify(rig.store, "s0")
    await refused(rig, f"{EVENTS} events; the store has .* {EVENTS - 1} events")


async def test_a_stored_event_altered_near_the_end_is_named_at_start(rig: Rig) -> None:
    await alter(rig, EVENTS - 3, raw=await forged(rig, EVENTS - 3))
    await refused(rig, f"position {EVENTS - 3} was altered: its bytes")


async def test_a_stored_event_altered_long_ago_is_named_by_verify(rig: Rig) -> None:
    await alter(rig, 7, raw=await forged(rig, 7))
    with pytest.raises(HistoryCorrupt, match="position 7 was altered: its bytes"):
        await verify(rig.store, "s0")
    assert not (await rig.reader.rebuilt(task_id(2))).same


async def test_a_column_that_does_not_fit_its_envelope_is_named(rig: Rig) -> None:
    await alter(rig, EVENTS, kind="task.failed")
    with pytest.raises(HistoryCorrupt, match=f"position {EVENTS} was altered: its columns"):
        await verify(rig.store, "s0")
    await refused(rig, f"position {EVENTS} was altered: its columns")


async def test_an_event_that_is_another_one_in_the_log(rig: Rig) -> None:
    other = Rig(store=rig.store, bus=InprocBus(tenant=TENANT))
    for number in range(1, EVENTS // 5 + 1):
        await other.tell(*relay(number if number != EVENTS // 5 - 1 else 7777))
    checkpoint = await rig.store.checkpoint("s0")
    (info,) = await other.bus.info()
    await rig.store.commit(
        Commit(events=[], rows=[], checkpoint=replace(checkpoint, log_created_at=info.created_at)),
        expected=checkpoint,
    )
    await refused(other, f"position {EVENTS - 9} is one event in the log and another in the store")


async def test_events_above_the_checkpoint_are_kept_if_the_log_has_the_same(rig: Rig) -> None:
    await rig.tell(*relay(901))
    checkpoint = await rig.store.checkpoint("s0")
    torn = stored_events("s0", checkpoint.chain, (await rig.bus.history(task_id(901)))[:3])
    await rig.store.commit(Commit(events=torn, rows=[], checkpoint=checkpoint), expected=checkpoint)
    await rig.record_all()
    assert (await verify(rig.store, "s0")).position == EVENTS + 5
    assert (await rig.reader.rebuilt(task_id(901))).same


async def test_events_above_the_checkpoint_that_the_log_does_not_have(rig: Rig) -> None:
    await rig.tell(*relay(901)[:1])
    checkpoint = await rig.store.checkpoint("s0")
    records = await rig.bus.history(task_id(901))
    torn = stored_events("s0", bytes(32), records)
    await rig.store.commit(Commit(events=torn, rows=[], checkpoint=checkpoint), expected=checkpoint)
    await refused(rig, "events above its checkpoint 600 that are not what the log has there")
    fewer = Rig(store=rig.store, bus=rig.bus)
    more = [replace(records[0], position=EVENTS + 2)]
    torn = stored_events("s0", bytes(32), more)
    await rig.store.commit(Commit(events=torn, rows=[], checkpoint=checkpoint), expected=checkpoint)
    await refused(fewer, f"the store has position {EVENTS + 2}, above its checkpoint")


@pytest.mark.live
async def test_a_flipped_bit_is_repaired_from_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """The engine drops all that stands after the damage, even in the middle of a commit."""
    monkeypatch.setenv("SURREAL_SYNC_DATA", "true")
    whole, bus = tmp_path / "whole", InprocBus(tenant=TENANT)
    async with open_surreal(str(whole), tenant=TENANT) as store:
        rig = Rig(store=store, bus=bus)
        for number in range(1, 61):
            await rig.tell(*relay(number))
        await rig.record_all(batch=20)
    flips, lost = 60 if request.config.getoption("--bars") else 8, 0
    for flip in range(flips):
        broken = tmp_path / f"broken{flip}"
        flip_bit(whole, broken, where=(flip + 0.5) / flips)
        async with open_surreal(str(broken), tenant=TENANT) as store:
            lost += (await store.checkpoint("s0")).position < 300
            rig = Rig(store=store, bus=bus)
            await rig.record_all()
            assert (await verify(store, "s0")).count == 300
            for number in range(1, 61):
                assert (await rig.reader.rebuilt(task_id(number))).same
            assert len((await rig.reader.tasks(states=[State.COMPLETED]))[0]) == 60
            assert [a.received for a in await rig.reader.activity()] == [60, 60]
    assert lost > flips // 2


def flip_bit(whole: Path, broken: Path, *, where: float) -> None:
    """Copy a store, with one bit wrong at a fraction of its length."""
    shutil.copytree(whole, broken)
    log = max((broken / "clog").iterdir())
    data = bytearray(log.read_bytes())
    data[int(len(data) * where)] ^= 0x10
    log.write_bytes(data)


async def test_of_two_ledgers_one_stops(rig: Rig) -> None:
    recorders = [rig.recorder(), rig.recorder()]
    stopped: dict[Recorder, CheckpointConflict] = {}
    conflict, position = anyio.Event(), 0

    async def run(recorder: Recorder) -> None:
        try:
            await recorder.run("s0")
        except CheckpointConflict as error:
            stopped[recorder] = error
            conflict.set()

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for recorder in recorders:
                tasks.start_soon(run, recorder)
                await recorder.wait_for(EVENTS)
            await rig.tell(relay(901)[0])
            await conflict.wait()
            position = await rig.tell(*relay(902))
            (left,) = [recorder for recorder in recorders if recorder not in stopped]
            await left.wait_for(position)
            tasks.cancel_scope.cancel()
    assert "another ledger writes to this store" in str(*stopped.values())
    assert (await verify(rig.store, "s0")).position == position == EVENTS + 6


class Rivalled(InprocStore):
    """A store where another ledger records one event while this one's commit gets no answer."""

    def __init__(self) -> None:
        super().__init__()
        self.rival = False

    async def commit(self, commit: Commit, *, expected: Checkpoint) -> None:
        if not self.rival:
            await super().commit(commit, expected=expected)
            return
        first = commit.events[:1]
        self.rival = False
        after = replace(
            commit.checkpoint,
            position=first[0].record.position,
            count=expected.count + 1,
            chain=first[0].chain,
        )
        await super().commit(Commit(events=first, rows=[], checkpoint=after), expected=expected)
        raise Unavailable("no answer")


async def test_a_rival_is_noticed_though_the_commit_had_no_answer() -> None:
    store = Rivalled()
    rig = Rig(store=store)
    await rig.tell(*relay(1))
    await rig.record_all()
    store.rival = True
    await rig.tell(*relay(2))
    recorder = rig.recorder()
    with anyio.fail_after(10), pytest.raises(CheckpointConflict, match="checkpoint is 6"):
        await recorder.run("s0")
