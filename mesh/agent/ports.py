"""What a running agent is connected to."""

from dataclasses import dataclass, field

from mesh.blob.port import BlobStore
from mesh.bus.port import Bus
from mesh.clock import Clock, IdSource
from mesh.core.backoff import Backoff
from mesh.errors import AgentUnknown
from mesh.registry.port import Registry
from mesh.telemetry.port import Telemetry

__all__ = ["Limits", "Ports"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """The outside world of one process.

    `instance` is unique and begins with the pid; `known_agents` remembers whose cards were seen.
    """

    bus: Bus
    blobs: BlobStore
    registry: Registry
    clock: Clock
    ids: IdSource
    telemetry: Telemetry
    instance: str
    known_agents: set[str] = field(default_factory=set[str])

    async def require_agent(self, name: str) -> None:
        """Whether an agent was ever registered.

        Raises:
            AgentUnknown: None of this name was.
            Unavailable: The registry does not answer.
        """
        # A card never expires, so what was seen once needs no second look.
        if name not in self.known_agents:
            if await self.registry.card(name) is None:
                raise AgentUnknown(name)
            self.known_agents.add(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How an agent's deliveries are run.

    Attributes:
        concurrency: Deliveries at a time in this process, >= 1.
        attempts: Runs of a handler without recorded progress before the delivery is
            dead-lettered, >= 1.
        claim_after_s: A handler that runs longer records that it started.
        drain_s: How long running handlers may finish after a stop; below the lease.
        backoff: Wait between attempts.
        hold_s: A pause before a retry that is longer than this is left to a timer of the ledger.
        wakes_apart_s: Least time between two reads of one task for what happened to it: what comes
            in a burst is read together.
        always_replay: Run every handler again over its record after each thing that came back:
            what does not always take the same way shows at once.
    """

    concurrency: int = 8
    attempts: int = 5
    claim_after_s: float = 0.25
    drain_s: float = 8.0
    backoff: Backoff = field(default_factory=Backoff)
    hold_s: float = 10.0
    wakes_apart_s: float = 0.02
    always_replay: bool = False
