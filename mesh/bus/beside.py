"""Tasks that run beside a block, and end with it."""

from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import cast

import anyio

__all__ = ["beside"]


@asynccontextmanager
async def beside(*tasks: Callable[[], Coroutine[object, object, None]]) -> AsyncGenerator[None]:
    """Run tasks until the block is left.

    An error of a task cancels the block, and one of the block cancels the tasks. Errors leave as
    themselves, not in a group, unless several kinds of them met; of one kind the first one leaves.
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
        single = list(_single(errors))
        if len({type(error) for error in single}) == 1:
            raise single[0] from None
        raise


def _single(error: BaseException) -> Iterator[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        yield error
        return
    # The type of what is in a group is lost by the test above.
    for each in cast("BaseExceptionGroup[BaseException]", error).exceptions:
        yield from _single(each)
