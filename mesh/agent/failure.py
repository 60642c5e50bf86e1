"""An error as it is recorded: short enough, and text that can be sent."""

from typing import cast

from mesh.core.payload import Failure
from mesh.errors import MeshError, Verdict

__all__ = ["failure_of", "is_final", "not_ours", "only"]

_TEXT_CHARS = 8 * 1024
"""Most of an error's text that is recorded."""


def failure_of(error: Exception) -> Failure:
    """An error as it is recorded: short enough, and text that can be sent."""
    if isinstance(error, MeshError):
        details = {name: _plain(text) for name, text in error.details().items()}
        return Failure(code=error.code, message=_plain(str(error)), details=details)
    return Failure(code=f"python.{type(error).__name__}", message=_plain(_said(error)))


def _said(error: Exception) -> str:
    try:
        return str(error) or repr(error)
    except Exception:  # noqa: BLE001  # its author's code, which may raise anything
        return "(an error that cannot be shown)"


def _plain(text: str) -> str:
    """Half characters, as in a file's name that is no UTF-8, are written out."""
    if len(text) > _TEXT_CHARS:
        text = f"{text[:_TEXT_CHARS]}… ({len(text)} characters)"
    return text.encode(errors="backslashreplace").decode()


def only(error: Exception) -> Exception:
    """The error; of a group of one, the one."""
    if not isinstance(error, ExceptionGroup):
        return error
    # What a group is of cannot be checked; one that is an Exception holds nothing else.
    group = cast("ExceptionGroup[Exception]", error)
    return only(group.exceptions[0]) if len(group.exceptions) == 1 else group


def not_ours(error: BaseException) -> RuntimeError:
    """A cancellation that nobody of ours asked for: of a task that an author's code cancelled.

    Let through, it would end the worker in silence.
    """
    return RuntimeError(f"cancelled by its own code: {error!r}")


def is_final(error: Exception) -> bool:
    """Whether another attempt cannot help."""
    error = only(error)
    return isinstance(error, MeshError) and error.verdict is Verdict.NEVER
