"""An error as it is recorded: short enough, and text that can be sent."""

from math import inf
from typing import cast

import anyio

from mesh.core.payload import Failure
from mesh.errors import MeshError, Verdict

__all__ = ["caught", "failure_of", "is_final", "only"]

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
    """The error; of a group the only one, or the first that no attempt can mend."""
    if not isinstance(error, ExceptionGroup):
        return error
    # What a group is of cannot be checked; one that is an Exception holds nothing else.
    group = cast("ExceptionGroup[Exception]", error)
    found = [only(each) for each in group.exceptions]
    return next((each for each in found if is_final(each)), found[0] if len(found) == 1 else group)


def caught(error: BaseException) -> Exception:
    """What an author's code raised, as an error of its attempt; raises again what is ours.

    A cancellation that nobody of ours asked for, let through, would end the worker in silence; so
    would an attempt to end the process, or it would hang it.
    """
    if isinstance(error, anyio.get_cancelled_exc_class()):
        if anyio.current_effective_deadline() == -inf:
            raise error
        return RuntimeError(f"cancelled by its own code: {error!r}")
    if isinstance(error, SystemExit | KeyboardInterrupt):
        return RuntimeError(f"raised {type(error).__name__}({error})")
    if isinstance(error, Exception):
        return error
    raise error


def is_final(error: Exception) -> bool:
    """Whether another attempt cannot help."""
    if isinstance(error, ExceptionGroup):
        error = only(cast("ExceptionGroup[Exception]", error))
    return isinstance(error, MeshError) and error.verdict is Verdict.NEVER
