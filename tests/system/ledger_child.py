"""Processes that tests of the ledger kill: run as `python -m tests.system.ledger_child`."""

from __future__ import annotations

import os
import sys

import anyio
from surrealdb.connections.async_embedded import AsyncEmbeddedSurrealConnection

from mesh.blob.inproc import InprocBlobs
from mesh.bus.jetstream import open_bus, open_nats
from mesh.clock import SystemClock, SystemIds
from mesh.core import event as e
from mesh.ledger.check import stored_events
from mesh.ledger.recorder import Parts, Recorder
from mesh.store.port import Checkpoint, Commit, Row, StoredEvent
from mesh.store.surreal import open_surreal
from tests.make import TENANT, envelope, record


def say(text: str, to: int = 1) -> None:
    """Write a line at once: what a killed process has said is known."""
    os.write(to, f"{text}\n".encode())


def following(before: Checkpoint, number: int) -> tuple[list[StoredEvent], Checkpoint]:
    """The next `number` events after a checkpoint, and the checkpoint after them."""
    records = [
        record(n, envelope(e.ProgressReported(text=str(n)), event_id=f"{n:032x}"))
        for n in range(before.position + 1, before.position + 1 + number)
    ]
    events = stored_events("s0", before.chain, records)
    after = Checkpoint(
        shard="s0",
        first=1,
        position=records[-1].position,
        count=before.count + number,
        chain=events[-1].chain,
    )
    return events, after


async def commit_for_ever(folder: str, batch: int) -> None:
    """Commit batches as fast as they go; tell each position after its commit returned."""
    async with open_surreal(folder) as store:
        checkpoint = await store.checkpoint("s0")
        say("open")
        while True:
            events, after = following(checkpoint, batch)
            row = Row(projection="agent", key="k", state=str(after.position).encode())
            commit = Commit(events=events, rows=[row], checkpoint=after)
            await store.commit(commit, expected=checkpoint)
            checkpoint = after
            say(str(after.position))


async def commit_some(folder: str, commits: int) -> None:
    """Commit a few events, one by one, telling when; then wait for the end of the input."""
    async with open_surreal(folder) as store:
        checkpoint = await store.checkpoint("s0")
        for _ in range(commits):
            events, after = following(checkpoint, 1)
            say(f"begin {after.position}", to=2)
            await store.commit(
                Commit(events=events, rows=[], checkpoint=after), expected=checkpoint
            )
            say(f"acked {after.position}", to=2)
            checkpoint = after
        say("done")
        await anyio.to_thread.run_sync(sys.stdin.read)


async def commit_unsynced(folder: str, commits: int) -> None:
    """The same engine without what makes it sync: what a careless ledger would do."""
    db = AsyncEmbeddedSurrealConnection(f"surrealkv://{folder}")
    await db.connect()
    await db.use("mesh", "default")
    for _ in range(commits):
        await db.query_raw("CREATE event SET raw = $raw", {"raw": bytes(1000)})
    say("done")
    await anyio.to_thread.run_sync(sys.stdin.read)


async def record_for_ever(folder: str, url: str) -> None:
    """Record a log; tell each position after it was recorded."""
    async with (
        open_nats(url, "ledger") as connection,
        open_bus(connection, tenant=TENANT) as bus,
        open_surreal(folder, tenant=TENANT) as store,
        anyio.create_task_group() as tasks,
    ):
        blobs = InprocBlobs()
        recorder = Recorder(
            Parts(
                bus=bus,
                store=store,
                blobs_from=blobs,
                blobs_to=blobs,
                clock=SystemClock(),
                ids=SystemIds(),
                tenant=TENANT,
                instance=f"ledger-{os.getpid()}",
                batch=20,
            )
        )
        tasks.start_soon(recorder.run, "s0")
        position = 0
        while True:
            await recorder.wait_for(position + 1)
            position = recorder.position("s0")
            say(str(position))


def main() -> None:
    what, folder, argument = sys.argv[1:4]
    if what == "record":
        anyio.run(record_for_ever, folder, argument)
        return
    run = {"commit": commit_for_ever, "some": commit_some, "unsynced": commit_unsynced}[what]
    anyio.run(run, folder, int(argument))


if __name__ == "__main__":
    main()
