"""A process that announces an agent until it is killed: `announcer URL SECONDS`."""

# pyright: reportUnknownMemberType=false
# nats-py leaves its keyword parameters without types.

import os
import sys
from datetime import UTC, datetime

import anyio

from mesh.registry.nats_kv import nats_registry
from mesh.registry.port import Card, Presence
from tests.contract.nats_client import connected


async def announce(url: str, presence_s: float) -> None:
    card = Card(name="reader", behaviour_version="1.0.0")
    presence = Presence(
        agent="reader",
        instance=f"{os.getpid()}-x",
        behaviour_version="1.0.0",
        host="here",
        pid=os.getpid(),
        concurrency=1,
        started_at=datetime(2026, 11, 22, tzinfo=UTC),
    )
    async with connected(url) as client:
        registry = await nats_registry(client.jetstream(), tenant="t", presence_s=presence_s)
        async with registry.announce(card, presence):
            sys.stdout.write("announced\n")
            sys.stdout.flush()
            await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(announce, sys.argv[1], float(sys.argv[2]))
