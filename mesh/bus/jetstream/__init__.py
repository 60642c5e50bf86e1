"""The bus on NATS JetStream: one stream per shard."""

from mesh.bus.jetstream.bus import BusOptions, JetStreamBus, open_bus
from mesh.bus.jetstream.connection import Connection, open_nats

__all__ = ["BusOptions", "Connection", "JetStreamBus", "open_bus", "open_nats"]
