"""Options that several commands share, and how their text is read."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from mesh.core.event import KINDS
from mesh.errors import Invalid

__all__ = [
    "DATA_HELP",
    "FLAG",
    "Data",
    "Json",
    "OwnData",
    "TaskId",
    "budget",
    "checked_kind",
    "checked_task_id",
    "data_folder",
    "duration",
    "instant",
    "labels",
]

FLAG = ""
"""What stands in the help behind an option that takes no value."""
DATA_HELP = "Folder of the mesh; default $MESH_DATA, else ./.mesh."


def _or_before_command(context: typer.Context, given: Path | None) -> Path | None:
    """Both `mesh --data DIR status` and `mesh status --data DIR` are what people type."""
    before: Path | None = context.find_root().params.get("data")
    return given or before


Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help=DATA_HELP, callback=_or_before_command),
]
OwnData = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="Folder of the mesh that is started for it; default ./.mesh-demo.",
        callback=_or_before_command,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", metavar=FLAG, help="Print ProtoJSON instead of text.")
]

TaskId = Annotated[str, typer.Argument(metavar="TASK", help="Id of the task.")]

_INT64 = 2**63 - 1
_UNIT_S = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_TASK_ID = re.compile(r"[0-9a-f]{32}")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def data_folder(option: Path | None) -> Path:
    """The data folder: the option, $MESH_DATA, ./.mesh."""
    from mesh.bootstrap import config_from_environment

    return option or config_from_environment().data


def duration(text: str) -> timedelta | None:
    """A length such as `90s`, `15m`, `2h`, `1d`; None if it is none."""
    match = _DURATION.fullmatch(text)
    return timedelta(seconds=float(match[1]) * _UNIT_S[match[2]]) if match else None


def instant(text: str, option: str, *, direction: int) -> datetime:
    """A point in time: ISO 8601 (UTC unless it says otherwise), or a length from now.

    Args:
        text: What the user wrote.
        option: Where, for the message.
        direction: -1 if a length means the past, 1 if it means the future.

    Raises:
        Invalid: It is neither.
    """
    from mesh.clock import SystemClock

    length = duration(text)
    if length is not None:
        return SystemClock().now() + direction * length
    try:
        at = datetime.fromisoformat(text)
    except ValueError as e:
        raise Invalid(
            f"{option}: `{text}` is neither an instant (2026-01-31T12:00:00Z) nor a length"
            " (90s, 15m, 2h)"
        ) from e
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def checked_task_id(text: str, option: str) -> str:
    """An id that a new task may have, unchanged.

    Args:
        text: What the user wrote.
        option: Where, for the message.

    Raises:
        Invalid: It is none.
    """
    if not _TASK_ID.fullmatch(text):
        raise Invalid(f"{option}: `{text}` is not 32 lower-case hex digits")
    return text


def checked_kind(text: str) -> str:
    """A kind of event to look for, unchanged; "" is any.

    Raises:
        Invalid: There is no such kind; the text names those that are spelled alike, else all.
    """
    from difflib import get_close_matches

    from mesh.gateway.watch import UNREADABLE

    known = [*KINDS, UNREADABLE]
    if not text or text in known:
        return text
    near = get_close_matches(text, known, n=3, cutoff=0.75)
    # People leave out what all of them begin with.
    near += [kind for kind in known if kind == f"task.{text}" and kind not in near]
    if near:
        raise Invalid(f"--kind: there is no kind `{text}`; did you mean {_either(near)}?")
    raise Invalid(f"--kind: there is no kind `{text}`; known are {', '.join(known)}")


def _either(names: list[str]) -> str:
    return " or ".join(f"`{name}`" for name in names)


def labels(pairs: list[str]) -> dict[str, str]:
    """Labels from `KEY=VALUE` texts.

    Raises:
        Invalid: One has no `=`.
    """
    for pair in pairs:
        if "=" not in pair:
            raise Invalid(f"--label: `{pair}` is not KEY=VALUE")
    return {key: value for key, _, value in (pair.partition("=") for pair in pairs)}


def budget(pairs: list[str]) -> dict[str, int]:
    """Limits of counters from `COUNTER=LIMIT` texts.

    Raises:
        Invalid: One has no `=` or no whole number from 0 on behind it, or a counter stands twice.
    """
    limits: dict[str, int] = {}
    for pair in pairs:
        counter, _, limit = pair.partition("=")
        if not (limit.isascii() and limit.isdigit() and len(limit) < 20 and int(limit) <= _INT64):
            raise Invalid(f"--budget: `{pair}` is not COUNTER=LIMIT with a limit of 0 to {_INT64}")
        if counter in limits:
            raise Invalid(f"--budget: `{counter}` stands twice")
        limits[counter] = int(limit)
    return limits
