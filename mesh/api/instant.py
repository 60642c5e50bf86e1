"""Instants as protobuf has them."""

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

__all__ = ["instant"]


def instant(at: datetime | None) -> Timestamp | None:
    """An instant, None for none."""
    if at is None:
        return None
    message = Timestamp()
    message.FromDatetime(at)
    return message
