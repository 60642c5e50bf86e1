"""A relay over three agents, 256 bytes, 100 in flight: Relay Mesh beside FastStream.

Both on one broker in one run, turn about, on streams of their own. Nothing here asserts a speed:
what is asserted is that every relay went through all three agents, once. The figures are printed.
"""

import time
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from statistics import median

import nats
import pytest
from nats.aio.client import Client

from mesh.testing.broker import open_broker
from tests.bench.drive import IN_FLIGHT, PAYLOAD_BYTES, Load, OpenRelay, Run, measured
from tests.bench.ours import open_mesh_relay
from tests.bench.peer import open_peer_relay

OURS, PEERS = "Relay Mesh", ("FastStream, batches", f"FastStream, {IN_FLIGHT} workers")
NOTES = """
Each relay leaves four messages on a JetStream stream (file, one replica), on either side: the
submit, two handoffs, the outcome. A latency runs from before the submit to the arrival of the
stored outcome at a consumer of the stream. All agents of a side share one process, one event loop
and one connection; each may hold 100 deliveries. The submitter runs in that process too.

Relay Mesh does besides, per relay: a fence on each of the four appends (nobody else moved the
task), an id on each that makes a repetition harmless, the task's history read back complete before
each of the two later hops, a relay packet built and carried with each handoff, a registry lookup
for each handoff, a confirmed ack (FastStream sends its ack and does not wait), four full envelopes
that fold to the task's state, a subject of its own for each task, presence of three agents renewed.
So it is exactly once on the log; FastStream is at least once, and keeps no history of a task.

Extra are claims: a run that takes longer than 0.25 s records that it began, and with 100 in flight
in one process the event loop's own delay can make it take that long.

Not in these figures: the gateway (submits go straight to the bus), telemetry (NoTelemetry), and,
where the row does not say so, the ledger: history is on the log, not yet in SurrealDB. With it, its
process shares the machine, and must have recorded everything before the run counts as good; the
time that takes after the last outcome is not in the rate.
"""


@pytest.fixture(scope="module", autouse=True)
def notes() -> Generator[None]:
    """Say once, below the figures, what they compare."""
    yield
    print(NOTES)


@asynccontextmanager
async def connected(url: str) -> AsyncGenerator[Client]:
    # nats-py leaves its options without types.
    client = await nats.connect(url)  # pyright: ignore[reportUnknownMemberType]
    try:
        yield client
    finally:
        await client.close()


async def publish_rate(client: Client, name: str, count: int) -> float:
    """Stored messages per second of a bare client, as many in flight as the relays have."""
    js = client.jetstream(  # pyright: ignore[reportUnknownMemberType]
        publish_async_max_pending=IN_FLIGHT
    )
    await js.add_stream(name=name, subjects=[name])  # pyright: ignore[reportUnknownMemberType]
    payload = bytes(PAYLOAD_BYTES)
    began = time.perf_counter()
    acks = [
        await js.publish_async(name, payload)  # pyright: ignore[reportUnknownMemberType]
        for _ in range(count)
    ]
    await js.publish_async_completed()
    took_s = time.perf_counter() - began
    assert [ack.result().seq for ack in acks] == list(range(1, count + 1))
    return count / took_s


def line(name: str, *cells: str) -> str:
    widths = (9, 12, 9, 9, 9, 7)
    return f"{name:<26}" + "".join(f"{c:>{w}}" for c, w in zip(cells, widths, strict=True))


def shown(name: str, runs: Sequence[Run]) -> str:
    rates = [run.rate for run in runs]
    return line(
        name,
        f"{median(rates):.0f}",
        f"{min(rates):.0f}-{max(rates):.0f}",
        f"{1000 * median(run.p50 for run in runs):.1f}",
        f"{1000 * median(run.p99 for run in runs):.1f}",
        f"{sum(len(run.latencies) for run in runs)}",
        f"{sum(run.extra for run in runs)}",
    )


def median_rate(runs: Sequence[Run]) -> float:
    return median(run.rate for run in runs)


@pytest.mark.live
@pytest.mark.parametrize("sync_always", [False, True], ids=["sync-default", "sync-always"])
async def test_every_relay_passes_all_three_agents_once_on_either_side(
    sync_always: bool, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    full = pytestconfig.getoption("bars")
    load, rounds = (Load(2000, 20.0), 5) if full else (Load(2000, 6.0), 3)
    runs: dict[str, list[Run]] = {}
    async with open_broker(tmp_path, sync_always=sync_always) as broker:
        url = broker.url
        async with connected(url) as watcher:
            baseline = [await publish_rate(watcher, "raw0", 5000)]
            mesh = partial(open_mesh_relay, url=url, watcher=watcher)
            peer = partial(open_peer_relay, url=url, watcher=watcher)
            sides: dict[str, OpenRelay] = {
                OURS: mesh,
                PEERS[0]: partial(peer, workers=1),
                PEERS[1]: partial(peer, workers=IN_FLIGHT),
            }
            for n in range(rounds):
                for place, (side, opened) in enumerate(sides.items()):
                    runs.setdefault(side, []).append(await measured(opened, f"r{n}-{place}", load))
            with_ledger = partial(mesh, ledger_data=tmp_path / "ledger")
            runs["Relay Mesh, ledger, 1 run"] = [await measured(with_ledger, "ledgered", load)]
            baseline.append(await publish_rate(watcher, "raw1", 5000))
    print(f"\n\n3-agent relay, {PAYLOAD_BYTES} bytes, {IN_FLIGHT} in flight, one nats-server,")
    print(f"sync_interval: {'always' if sync_always else 'default'}; medians of {rounds} runs\n")
    print(line("", "relays/s", "min-max", "p50 ms", "p99 ms", "relays", "extra"))
    for side, made in runs.items():
        print(shown(side, made))
    for side in PEERS:
        print(f"ratio {OURS} / {side}: {median_rate(runs[OURS]) / median_rate(runs[side]):.3f}")
    raw = f"{min(baseline):.0f}-{max(baseline):.0f}"
    print(f"bare nats-py, {IN_FLIGHT} async publishes in flight, stored messages/s: {raw}")
