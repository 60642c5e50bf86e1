"""A process whose event loop stood still must not take what it was sent meanwhile for fresh."""

import threading
import time
from pathlib import Path

import anyio
import pytest

from mesh.bus.jetstream import BusOptions, open_bus, open_nats
from mesh.testing.broker import open_broker
from tests.contract.bus_rig import Events, new_task, take

pytestmark = [pytest.mark.anyio, pytest.mark.live]
TENANT = "acme"
QUICK = BusOptions(ack_wait_s=1.0, beat_s=0.3, pull_s=5.0, heartbeat_s=0.4)


def submit_beside(url: str, tasks: list[str]) -> None:
    """Submit from a thread with a loop and a connection of its own."""

    async def submit() -> None:
        async with open_nats(url, "beside") as nc, open_bus(nc, tenant=TENANT) as bus:
            for task in tasks:
                await bus.append([Events(TENANT).submitted(task)], {task: 0})

    anyio.run(submit)


async def test_what_came_while_the_loop_stood_still_is_not_handed_out_as_fresh(
    tmp_path: Path,
) -> None:
    tasks = [new_task() for _ in range(3)]
    async with (
        open_broker(tmp_path) as broker,
        open_nats(broker.url, "test") as nc,
        open_bus(nc, tenant=TENANT, options=QUICK) as bus,
        bus.inbox("planner", max_held=8) as inbox,
    ):
        await anyio.wait_all_tasks_blocked()
        beside = threading.Thread(target=submit_beside, args=(broker.url, tasks))
        beside.start()
        # What is under test is a handler that blocks its loop, for longer than the lease.
        time.sleep(3.5 * QUICK.ack_wait_s)  # noqa: ASYNC251
        beside.join()
        for _ in tasks:
            delivery = await take(inbox)
            assert delivery.redelivered, "a stale delivery was handed out as a first one"
            assert delivery.lease_valid
            await delivery.ack()
