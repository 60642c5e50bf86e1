"""A place in a task's history, and the state there."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from mesh.core.envelope import Record
from mesh.core.fold import fold
from mesh.core.task import Task
from mesh.errors import Invalid

__all__ = ["Point", "state_at"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """At most one of the three; none is the head.

    `version` is 1-based, `position` the log's, `time` the broker's; the state there is the one
    after the last record that is not above it.
    """

    version: int | None = None
    position: int | None = None
    time: datetime | None = None


def state_at(records: Sequence[Record], point: Point) -> Task:
    """The state at a point of a whole history.

    Args:
        records: The history, ascending from its beginning, >= 1 record.
        point: Where.

    Raises:
        Invalid: The point is before the history, or a version that it has not.
    """
    first = records[0]
    if point.version is not None:
        if not 1 <= point.version <= len(records):
            raise Invalid(f"the task has versions 1 to {len(records)}, not {point.version}")
        return fold(records[: point.version])
    if point.position is not None:
        limit = point.position
        if limit < first.position:
            raise Invalid(f"the task begins at position {first.position}, after {limit}")
        return fold(record for record in records if record.position <= limit)
    if point.time is not None:
        time = point.time
        if time < first.stored_at:
            raise Invalid(f"the task begins at {first.stored_at}, after {time}")
        return fold(record for record in records if record.stored_at <= time)
    return fold(records)
