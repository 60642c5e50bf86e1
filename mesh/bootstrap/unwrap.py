"""One error out of a task group, as the error that it is."""

from collections.abc import Generator
from contextlib import contextmanager

from mesh.errors import MeshError

__all__ = ["unwrapped"]


@contextmanager
def unwrapped() -> Generator[None]:
    """Raise the mesh's own error where a task group would raise a group around it.

    A group that holds anything else too is a bug and stays what it is.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        ours, others = group.split(MeshError)
        if ours is None or others is not None:
            raise
        first: BaseException = ours
        while isinstance(first, BaseExceptionGroup):
            # Its members are groups or mesh errors: `split` saw to that.
            first = first.exceptions[0]
        raise first from None
