"""What both sides of the benchmark share: the load, the watch on the log, the figures."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Protocol

import anyio
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from mesh.clock import SystemIds

PAYLOAD_BYTES = 256
IN_FLIGHT = 100
STUCK_S = 60.0
"""Longest that all that is open may take to arrive; then a relay was lost."""
_WARM_UP = 2 * IN_FLIGHT


class Landings:
    """Relays whose outcome stands on the log, and who waits for them."""

    def __init__(self) -> None:
        self._waiting: dict[str, anyio.Event] = {}
        self.strays: list[str] = []

    def expect(self, relay_id: str) -> anyio.Event:
        """Set when the outcome of this relay was delivered from the log."""
        event = self._waiting[relay_id] = anyio.Event()
        return event

    def land(self, relay_id: str) -> None:
        """An outcome came; one that nobody waits for came twice."""
        event = self._waiting.pop(relay_id, None)
        if event is None:
            self.strays.append(relay_id)
        else:
            event.set()


class Relay(Protocol):
    """Three agents in this process, and a way to give the first one something to hand on."""

    landings: Landings

    async def submit(self, relay_id: str, payload: bytes) -> None:
        """Put one in; the broker has it when this returns."""
        ...

    async def check(self, relay_ids: list[str]) -> int:
        """Assert that each of these went through all three agents, once, in their order.

        Returns:
            How many messages the log holds beside the four of each.
        """
        ...


OpenRelay = Callable[[str], AbstractAsyncContextManager[Relay]]
"""Opens one side on streams of its own; the name is theirs."""


@dataclass(frozen=True, slots=True)
class Load:
    """How many relays a run makes, and after how many seconds it opens no more."""

    relays: int
    limit_s: float


@dataclass(slots=True)
class Run:
    """One run's figures.

    Attributes:
        took_s: From the first submit to the last outcome, seconds.
        latencies: From before a submit to the arrival of its outcome, seconds.
        extra: Messages beside the four of each relay, those of the warm-up included.
    """

    took_s: float = 0.0
    latencies: list[float] = field(default_factory=list[float])
    extra: int = 0

    @property
    def rate(self) -> float:
        """Relays per second."""
        return len(self.latencies) / self.took_s

    @property
    def p50(self) -> float:
        """Half are quicker."""
        return median(self.latencies)

    @property
    def p99(self) -> float:
        """Of a hundred, one is slower."""
        return quantiles(self.latencies, n=100)[98]


async def measured(opened: OpenRelay, name: str, load: Load) -> Run:
    """Open one side, warm it up, load it, check that nothing was lost, and close it."""
    async with opened(name) as relay:
        warm, _ = await _drive(relay, Load(_WARM_UP, STUCK_S))
        ids, run = await _drive(relay, load)
        assert relay.landings.strays == []
        run.extra = await relay.check(warm + ids)
        return run


async def _drive(relay: Relay, load: Load) -> tuple[list[str], Run]:
    """Keep `IN_FLIGHT` relays open until all are made or the time is up, then let them land."""
    make_id = SystemIds().fresh
    ids = [make_id() for _ in range(load.relays)]
    left = iter(ids)
    run, made = Run(), list[str]()
    began = time.perf_counter()

    async def lane() -> None:
        for relay_id in left:
            landed = relay.landings.expect(relay_id)
            made.append(relay_id)
            opened_at = time.perf_counter()
            await relay.submit(relay_id, payload_of(relay_id))
            await landed.wait()
            run.latencies.append(time.perf_counter() - opened_at)
            if time.perf_counter() - began > load.limit_s:
                return

    with anyio.fail_after(load.limit_s + STUCK_S):
        async with anyio.create_task_group() as lanes:
            for _ in range(IN_FLIGHT):
                lanes.start_soon(lane)
    run.took_s = time.perf_counter() - began
    return made, run


def payload_of(relay_id: str) -> bytes:
    """256 bytes that begin with the id."""
    return relay_id.encode().ljust(PAYLOAD_BYTES, b".")


def id_in(payload: bytes) -> str:
    """The id a payload begins with."""
    return payload[:32].decode()


@asynccontextmanager
async def watched(
    client: Client, stream: str, subject: str, outcome: Callable[[Msg], str]
) -> AsyncGenerator[Landings]:
    """Have outcomes land as the broker delivers them from a stream: only what is stored counts.

    Both sides are watched in this same way, over a connection that is neither's.

    Args:
        client: That connection.
        stream: Where the outcomes are stored.
        subject: On which subjects.
        outcome: Id of the relay that a message ends, "" if it ends none.
    """
    landings = Landings()

    async def land(message: Msg) -> None:
        if relay_id := outcome(message):
            landings.land(relay_id)

    # nats-py leaves some of its options without types.
    subscription = await client.jetstream().subscribe(  # pyright: ignore[reportUnknownMemberType]
        subject,
        stream=stream,
        cb=land,
        manual_ack=True,
        config=ConsumerConfig(ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.NEW),
    )
    try:
        yield landings
    finally:
        await subscription.unsubscribe()
