"""FastStream's side: the same three hops, with the same promise as near as it makes one.

Three subscribers on one JetStream stream (file, one replica), each with a durable pull consumer
and explicit acks. A subscriber publishes on and waits until the server has stored that, and only
then its input is acked: what was acknowledged to the submitter is never lost.

It can take a pulled batch in two ways, and both are measured: all of a batch side by side and then
the next batch (`workers=1`, the default), or through a queue to that many workers.
"""

# pyright: reportMissingImports=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUntypedFunctionDecorator=false, reportUnknownParameterType=false
# FastStream is there only after `make bench` has installed it; the type checks run without it.

from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from faststream import AckPolicy
from faststream.nats import JStream, NatsBroker, PullSub
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import StorageType

from tests.bench.drive import IN_FLIGHT, Landings, id_in, watched


class PeerRelay:
    """`Relay` on FastStream."""

    def __init__(
        self,
        broker: NatsBroker,
        stream: str,
        landings: Landings,
        seen: dict[str, list[str]],
        client: Client,
    ) -> None:
        self._broker, self._stream, self._seen = broker, stream, seen
        self._client = client
        self.landings = landings

    async def submit(self, relay_id: str, payload: bytes) -> None:
        """Publish to the first subscriber; the server has stored it when this returns."""
        assert id_in(payload) == relay_id
        await self._broker.publish(payload, f"{self._stream}.a", stream=self._stream)

    async def check(self, relay_ids: list[str]) -> int:
        """Every relay passed all three, in their order, and left four messages."""
        assert dict(self._seen) == {relay_id: ["a", "b", "c"] for relay_id in relay_ids}
        info = await self._client.jetstream().stream_info(self._stream)
        assert info.state.messages == 4 * len(relay_ids)
        return 0


@asynccontextmanager
async def open_peer_relay(
    name: str, *, url: str, watcher: Client, workers: int
) -> AsyncGenerator[PeerRelay]:
    """Three subscribers on a stream of their own."""
    seen: dict[str, list[str]] = defaultdict(list)
    broker = NatsBroker(url, logger=None)
    stream = JStream(name, subjects=[f"{name}.>"], storage=StorageType.FILE, num_replicas=1)

    def declare(agent: str, to: str) -> None:
        @broker.subscriber(
            f"{name}.{agent}",
            stream=stream,
            durable=f"{name}-{agent}",
            pull_sub=PullSub(batch_size=IN_FLIGHT, timeout=1.0),
            max_workers=workers,
            ack_policy=AckPolicy.NACK_ON_ERROR,
        )
        async def hop(payload: bytes) -> None:
            seen[id_in(payload)].append(agent)
            await broker.publish(payload, f"{name}.{to}", stream=name)

        assert hop

    for agent, to in (("a", "b"), ("b", "c"), ("c", "done")):
        declare(agent, to)
    async with broker:
        await broker.start()
        async with watched(watcher, name, f"{name}.done", _outcome) as landings:
            yield PeerRelay(broker, name, landings, seen, watcher)


def _outcome(message: Msg) -> str:
    return id_in(message.data)
