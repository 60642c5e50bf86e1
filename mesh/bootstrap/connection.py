"""From a program to the mesh it means."""

from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mesh.bootstrap.environment import config_from_environment
from mesh.bootstrap.runfile import find_run
from mesh.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from mesh.client import BlockingMesh, Mesh

__all__ = ["connect", "connect_blocking", "gateway_address"]


def gateway_address(data: Path | None = None) -> str:
    """Where the gateway is: $MESH_GATEWAY, else what the mesh on a data folder says.

    Args:
        data: The folder; default $MESH_DATA, else ./.mesh.

    Raises:
        Unavailable: No mesh runs there.
        ConfigError: A setting in the environment is wrong.
    """
    config = config_from_environment()
    if data is None and "gateway" in config.model_fields_set:
        return config.gateway
    folder = data or config.data
    run = find_run(folder)
    if run is None:
        raise Unavailable(
            f"no mesh is running in {folder}; `mesh up` starts one, another data folder or"
            " $MESH_GATEWAY names one that runs elsewhere"
        )
    return run.gateway


@asynccontextmanager
async def connect(
    address: str | None = None, *, data: Path | str | None = None
) -> "AsyncGenerator[Mesh]":
    """Connect to a mesh.

    Args:
        address: HOST:PORT of its gateway; without one, `data`, $MESH_GATEWAY, $MESH_DATA and
            ./.mesh are asked in this order.
        data: Data folder of a mesh on this machine.

    Raises:
        Unavailable: No mesh runs there.
        ConfigError: A setting in the environment is wrong.
    """
    from mesh.client import open_mesh

    async with open_mesh(address or gateway_address(Path(data) if data else None)) as mesh:
        yield mesh


@contextmanager
def connect_blocking(
    address: str | None = None, *, data: Path | str | None = None
) -> "Generator[BlockingMesh]":
    """As `connect`, for programs without an event loop."""
    from mesh.client import connect_blocking as opened

    with opened(address or gateway_address(Path(data) if data else None)) as mesh:
        yield mesh
