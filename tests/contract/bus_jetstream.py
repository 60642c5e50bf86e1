"""A rig on a real broker, and the clock of all rigs."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from itertools import count

import anyio

from mesh.bus.jetstream import BusOptions, open_bus, open_nats
from mesh.testing.clock import ManualClock
from tests.contract.bus_rig import SHARDS, Rig

_tenants = count(1)


class RunningClock(ManualClock):
    """The loop's clock, with jumps."""

    def monotonic(self) -> float:
        return super().monotonic() + anyio.current_time()


@asynccontextmanager
async def open_jetstream_rig(
    url: str, *, ack_wait_s: float = 1.0, replicas: int = 1
) -> AsyncGenerator[Rig]:
    tenant, clock = f"acme{next(_tenants)}", RunningClock()
    options = BusOptions(ack_wait_s=ack_wait_s, beat_s=ack_wait_s / 4)
    opened = partial(
        open_bus, tenant=tenant, shards=SHARDS, replicas=replicas, clock=clock, options=options
    )
    async with (
        open_nats(url, "one") as one,
        open_nats(url, "two") as two,
        opened(one) as bus,
        opened(two) as other,
    ):

        async def put(subject: str, raw: bytes) -> int:
            answer = await one.request(subject, raw, timeout=5)
            return int(json.loads(answer.data)["seq"])

        async def trim(shard: str, below: int) -> None:
            request = json.dumps({"seq": below}).encode()
            subject = f"$JS.API.STREAM.PURGE.MESH_{tenant}_{shard}"
            assert json.loads((await one.request(subject, request, timeout=5)).data)["success"]

        yield Rig(
            bus=bus,
            other=other,
            tenant=tenant,
            ack_wait_s=ack_wait_s,
            put=put,
            trim=trim,
            pause=lambda: clock.advance(2 * ack_wait_s),
        )
