"""From an error to what people read and what scripts check; the only place that decides it."""

import os
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

from mesh.errors import (
    ConfigError,
    Contested,
    Invalid,
    MeshError,
    Refused,
    StoreLocked,
    Unavailable,
)

__all__ = ["FAILED", "REFUSED", "UNREACHABLE", "USAGE", "code_of", "reported", "run"]

FAILED, USAGE, UNREACHABLE, REFUSED = 1, 2, 3, 4
"""Exit codes: the task or check failed, wrong usage, mesh not reachable, refused."""
_INTERRUPTED = 130
_CODES: tuple[tuple[type[MeshError], int], ...] = (
    (Invalid, USAGE),
    (ConfigError, USAGE),
    (Unavailable, UNREACHABLE),
    (Refused, REFUSED),
    (Contested, REFUSED),
    (StoreLocked, REFUSED),
    (MeshError, FAILED),
)

T = TypeVar("T")


def code_of(error: MeshError) -> int:
    """The exit code of an error."""
    return next(code for kind, code in _CODES if isinstance(error, kind))


def reported(command: Callable[[], None]) -> int:
    """Run a command; print what went wrong in one sentence; returns the exit code."""
    try:
        command()
    except MeshError as e:
        print(f"mesh: {e}", file=sys.stderr)
        return code_of(e)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader had enough, as in `mesh events list | head`. What Python would still flush at
        # exit must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SystemExit as e:
        return e.code if isinstance(e.code, int) else int(e.code is not None)
    return 0


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Run the asynchronous part of a command.

    Raises:
        MeshError: What it raised, out of any task groups.
    """
    import anyio

    from mesh.bootstrap.unwrap import unwrapped

    with unwrapped():
        return anyio.run(work)
