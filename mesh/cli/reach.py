"""The way from a command to the gateway of the mesh it means."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mesh.errors import Unavailable

if TYPE_CHECKING:
    from mesh.wire.v1.gateway_pb2_grpc import GatewayServiceAsyncStub

__all__ = ["gateway", "gateway_address"]


def gateway_address(data: Path) -> str:
    """HOST:PORT of the gateway: $MESH_GATEWAY, else that of the mesh on a data folder.

    Raises:
        Unavailable: No mesh runs there.
    """
    from mesh.bootstrap import config_from_environment
    from mesh.supervisor.runfile import find_run

    config = config_from_environment()
    if "gateway" in config.model_fields_set:
        return config.gateway
    run = find_run(data)
    if run is None:
        raise Unavailable(
            f"no mesh is running in {data}; `mesh up` starts one, --data DIR names another folder"
        )
    return run.gateway


@asynccontextmanager
async def gateway(data: Path) -> AsyncGenerator["GatewayServiceAsyncStub"]:
    """Calls to the gateway; their errors leave as mesh errors.

    Raises:
        Unavailable: No mesh runs on the data folder, or its gateway does not answer.
    """
    import grpc

    from mesh.wire.rpc import MESSAGE_BYTES, translated
    from mesh.wire.v1.gateway_pb2_grpc import GatewayServiceStub

    address = gateway_address(data)
    limits = [
        ("grpc.max_send_message_length", MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ]
    async with grpc.aio.insecure_channel(address, options=limits) as channel:
        try:
            with translated():
                yield GatewayServiceStub(channel)
        except Unavailable as e:
            if isinstance(e.__cause__, grpc.aio.AioRpcError) and "failed to connect" in str(e):
                raise Unavailable(
                    f"the gateway at {address} does not answer; `mesh status` shows what runs"
                ) from e
            raise
