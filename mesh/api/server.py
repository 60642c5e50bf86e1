"""gRPC servers of the mesh: one service each, with health and reflection.

Source: grpc.health.v1; gRPC server reflection v1alpha.
"""

# The stubs of the health and reflection packages leave their server untyped.
# pyright: reportUnknownVariableType=false

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import anyio
import grpc
from grpc_health.v1._async import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha._async import ReflectionServicer
from grpc_reflection.v1alpha.reflection_pb2_grpc import add_ServerReflectionServicer_to_server

from mesh.api.status import Reporter
from mesh.errors import ConfigError
from mesh.wire.rpc import MESSAGE_BYTES

__all__ = ["open_server"]

_GRACE_S = 1.0
_OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    # Otherwise two processes share a port, and half of the calls go astray without a word.
    ("grpc.so_reuseport", 0),
    # Clients that watch a quiet task ask whether we are still there.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
]


@asynccontextmanager
async def open_server(
    add: Callable[[grpc.aio.Server], None], service: str, address: str
) -> AsyncGenerator[str]:
    """Serve one service, with health and reflection beside it.

    Args:
        add: Adds the service to a server.
        service: Its full name, which health is asked about.
        address: Host and port to listen on; port 0 for a free one.

    Returns:
        The address that it listens on.

    Raises:
        ConfigError: The address cannot be listened on.
    """
    server = grpc.aio.server(interceptors=[Reporter()], options=_OPTIONS)
    add(server)
    healthy = HealthServicer()
    add_HealthServicer_to_server(healthy, server)
    names = (service, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection")
    described = ReflectionServicer(names)
    add_ServerReflectionServicer_to_server(described, server)  # type: ignore[no-untyped-call]
    host = address.rpartition(":")[0]
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise ConfigError(
            f"cannot listen on `{address}`: another process has this port, or it is no address of"
            " this machine; stop that process or choose another port"
        ) from error
    await server.start()
    await healthy.set(service, HealthCheckResponse.SERVING)
    try:
        yield f"{host}:{port}"
    finally:
        with anyio.move_on_after(2 * _GRACE_S, shield=True):
            await healthy.enter_graceful_shutdown()
            await server.stop(_GRACE_S)
