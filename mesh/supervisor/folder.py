"""The data folder of a mesh, made before anything is written there."""

import os
from pathlib import Path

from mesh.errors import ConfigError

__all__ = ["make_log_folder"]


def make_log_folder(data: Path) -> Path:
    """The folder of a mesh's logs; it and the data folder around it are made if need be.

    Raises:
        ConfigError: They cannot be made, or not be written to.
    """
    logs = data / "logs"
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ConfigError(
            f"cannot make the data folder {data}: {e.strerror}; --data DIR names another"
        ) from e
    for folder in (data, logs):
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ConfigError(f"cannot write to the data folder {folder}; --data DIR names another")
    return logs
