"""From an error to what people read and what scripts check; the only place that decides it."""

import os
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

from mesh.cli.output import busy
from mesh.errors import (
    AnswerInvalid,
    ConfigError,
    Contested,
    Invalid,
    LogFull,
    MeshError,
    Refused,
    StoreLocked,
    Unavailable,
)

__all__ = ["FAILED", "REFUSED", "UNREACHABLE", "USAGE", "WAITING", "code_of", "reported", "run"]

FAILED, USAGE, UNREACHABLE, REFUSED = 1, 2, 3, 4
"""Exit codes: the task or check failed, wrong usage, mesh not reachable, refused."""
WAITING = "asking the mesh …"
_INTERRUPTED = 130
_LATE_S = 1.0
_CODES: tuple[tuple[type[MeshError], int], ...] = (
    (AnswerInvalid, REFUSED),  # the command is well formed; the question does not take it
    (Invalid, USAGE),
    (ConfigError, USAGE),
    (LogFull, REFUSED),
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


def run(work: Callable[[], Awaitable[T]], *, waiting: str = "") -> T:
    """Run the asynchronous part of a command.

    Args:
        work: It.
        waiting: What a terminal shows while it takes longer than a second; "" for nothing.

    Raises:
        MeshError: What it raised, out of any task groups.
    """
    import anyio

    from mesh.bootstrap.unwrap import unwrapped

    async def watched() -> T:
        results: list[T] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_show_late, waiting)
            results.append(await work())
            tasks.cancel_scope.cancel()
        return results[0]

    with unwrapped():
        return anyio.run(watched if waiting else work)


async def _show_late(text: str) -> None:
    import anyio

    await anyio.sleep(_LATE_S)
    with busy(text):
        await anyio.sleep_forever()
