"""Options that several commands share, and how their text is read."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from mesh.errors import Invalid

__all__ = ["DATA_HELP", "Data", "Json", "data_folder", "duration", "instant", "labels"]

DATA_HELP = "Folder of the mesh; default $MESH_DATA, else ./.mesh."


def _or_before_command(context: typer.Context, given: Path | None) -> Path | None:
    """Both `mesh --data DIR status` and `mesh status --data DIR` are what people type."""
    before: Path | None = context.find_root().params.get("data")
    return given or before


Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help=DATA_HELP, callback=_or_before_command),
]
Json = Annotated[bool, typer.Option("--json", help="Print ProtoJSON instead of text.")]

_UNIT_S = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
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


def labels(pairs: list[str]) -> dict[str, str]:
    """Labels from `KEY=VALUE` texts.

    Raises:
        Invalid: One has no `=`.
    """
    for pair in pairs:
        if "=" not in pair:
            raise Invalid(f"--label: `{pair}` is not KEY=VALUE")
    return {key: value for key, _, value in (pair.partition("=") for pair in pairs)}
