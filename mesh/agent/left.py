"""Why a run of a handler ended before the handler did."""

from enum import Enum

__all__ = ["Left"]


class Left(Enum):
    """Why a run ended before its handler did, when it is not for the log's verdict."""

    OVERDUE = "overdue"
    """The task's deadline has passed."""
    PARKED = "parked"
    """It asked for something else than its history recorded."""
    AGAIN = "again"
    """It is to run once more over its record."""
    COLLECTED = "collected"
    """All that is known came back, and no more was wanted."""
