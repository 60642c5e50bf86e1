"""Tasks that run beside a block, and end with it."""

from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager

import anyio

__all__ = ["beside"]


@asynccontextmanager
async def beside(*tasks: Callable[[], Coroutine[object, object, None]]) -> AsyncGenerator[None]:
    """Run tasks until the block is left; a single error leaves as itself, not in a group.

    An error of a task cancels the block, and one of the block cancels the tasks.
    """
    try:
        async with anyio.create_task_group() as group:
            for task in tasks:
                group.start_soon(task)
            try:
                yield
            finally:
                group.cancel_scope.cancel()
    except BaseExceptionGroup as errors:
        if len(errors.exceptions) == 1:
            raise errors.exceptions[0] from None
        raise
