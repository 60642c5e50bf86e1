"""How long the bus waits for what."""

from dataclasses import dataclass

__all__ = ["BusOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BusOptions:
    """Times and sizes of a bus.

    Attributes:
        timeout_s: Longest that one append, read or settlement takes, seconds.
        open_s: Longest that it may take until streams and consumers are there, seconds; leaders
            are elected meanwhile.
        ack_wait_s: How long a delivery is leased; the same for all replicas of an agent.
        beat_s: How often held deliveries are extended; well below `ack_wait_s`.
        pull_s: How long a pull request waits for messages.
        heartbeat_s: How often the server shows that it remembers one; at most half of `pull_s`.
        max_bytes: Size at which a new shard's log refuses events; -1 for none.
    """

    timeout_s: float = 5.0
    open_s: float = 30.0
    ack_wait_s: float = 10.0
    beat_s: float = 3.0
    pull_s: float = 30.0
    heartbeat_s: float = 2.0
    max_bytes: int = -1
