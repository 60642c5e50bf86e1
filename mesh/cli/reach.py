"""The way from a command to the gateway of the mesh it means."""

from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mesh.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from mesh.client.line import Line

__all__ = ["gateway", "gateway_address", "line_to"]

PATIENCE_S = 30.0
"""How long a gateway may be gone: a supervisor restarts one within seconds."""
_BRIEF_S = 2.0


def gateway_address(data: Path) -> tuple[str, float]:
    """HOST:PORT of the gateway, and how patient to be with it, seconds.

    $MESH_GATEWAY counts, else the mesh on the data folder.

    Raises:
        Unavailable: No mesh runs there.
    """
    from mesh.bootstrap import config_from_environment
    from mesh.supervisor.runfile import find_run

    config = config_from_environment()
    if "gateway" in config.model_fields_set:
        return config.gateway, _BRIEF_S
    run = find_run(data)
    if run is None:
        raise Unavailable(
            f"no mesh is running in {data}; `mesh up` starts one, --data DIR names another folder"
        )
    return run.gateway, PATIENCE_S


@asynccontextmanager
async def gateway(data: Path) -> "AsyncGenerator[Line]":
    """Calls to the gateway; their errors leave as mesh errors.

    Raises:
        Unavailable: No mesh runs on the data folder.
    """
    address, patience_s = gateway_address(data)
    async with line_to(address, patience_s=patience_s) as line:
        yield line


@asynccontextmanager
async def line_to(address: str, *, patience_s: float = PATIENCE_S) -> "AsyncGenerator[Line]":
    """Calls to the gateway at an address."""
    import grpc

    from mesh.client.line import CHANNEL_OPTIONS, Line
    from mesh.clock import SystemIds

    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        yield Line(channel, address, patience_s=patience_s, ids=SystemIds(), carrier=dict)
