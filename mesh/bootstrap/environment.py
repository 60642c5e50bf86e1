"""The one place that reads the environment."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mesh.config import Config

__all__ = ["config_from_environment", "environment"]


def environment() -> dict[str, str]:
    """A copy of the process's environment."""
    return dict(os.environ)


def config_from_environment() -> "Config":
    """The settings of this process.

    Raises:
        ConfigError: A `MESH_*` name that is no setting, or a value that is not allowed.
    """
    # Late, so that `mesh --help` does not pay for pydantic.
    from mesh.config import Config

    return Config.from_env(environment())
