"""The folder of an embedded database: one process at a time, and nothing lost with the power."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mesh.errors import ConfigError, StoreLocked

__all__ = ["SYNC_VARIABLE", "check_synced", "folder_of", "is_ready", "locked", "make_ready"]

SYNC_VARIABLE = "SURREAL_SYNC_DATA"
"""What the engine reads, once, to decide whether it syncs its commits."""
_LOCK, _READY = "ledger.lock", "ledger.ready"


def folder_of(path: str) -> Path:
    """The folder, absolute.

    Raises:
        ConfigError: The text is another kind of URL, or holds what the engine takes for its name.
    """
    if "://" in path:
        raise ConfigError(
            f"store `{path}`: use a folder or `surrealkv://<folder>` for the embedded database,"
            " `ws://` or `wss://` for a server"
        )
    if "?" in path or not path:
        raise ConfigError(f"store `{path}` is no folder; the embedded database takes no options")
    return Path(path).absolute()


def check_synced() -> None:
    """Make sure that the engine, when it loads, will sync every commit.

    Raises:
        ConfigError: The variable is not set; the engine has no other switch.
    """
    # The one look at the environment outside of bootstrap: the engine reads this very variable,
    # so nothing that a caller passes could stand for it.
    if os.getenv(SYNC_VARIABLE) != "true":
        raise ConfigError(
            f"set {SYNC_VARIABLE}=true before the store is opened: without it the embedded"
            " database keeps commits in memory and loses them with the power"
        )


@contextmanager
def locked(folder: Path) -> Generator[None]:
    """Own the folder, made if it is not there.

    Raises:
        StoreLocked: Another process, or another part of this one, has it.
        ConfigError: It cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / _LOCK, timeout=0, thread_local=False, fallback_to_soft=False)
        lock.acquire()
    except Timeout as error:
        raise StoreLocked(
            f"store `{folder}` is open in another process; stop the mesh that runs on it"
            " (`mesh down`), or give this one another data folder"
        ) from error
    except OSError as error:
        raise ConfigError(f"store `{folder}` cannot be used: {error}") from error
    try:
        yield
    finally:
        lock.release()


def is_ready(folder: Path) -> bool:
    """Whether a database was made in it completely."""
    return (folder / _READY).exists()


def make_ready(folder: Path) -> None:
    """Sync every file and folder of a database that was just made, then mark it as made.

    Without it a power loss in the first seconds leaves a folder that does not open again.
    """
    for parent, _, names in os.walk(folder):
        for name in names:
            _sync(Path(parent) / name)
        _sync(Path(parent))
    (folder / _READY).write_text("Made and synced; the ledger may write.\n")
    for path in (folder / _READY, folder, folder.parent):
        _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
