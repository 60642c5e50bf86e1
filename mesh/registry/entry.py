"""Cards and presences as JSON bytes: what stands in a bucket."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import datetime
from typing import Any

from mesh.errors import HistoryCorrupt
from mesh.registry.port import Card, InputType, Presence

__all__ = ["decode_card", "decode_presence", "encode_card", "encode_presence"]


def encode_card(card: Card) -> bytes:
    """A card as JSON, the same bytes for equal cards."""
    return _encode(asdict(card))


def decode_card(raw: bytes) -> Card:
    """The card in the bytes; fields of a newer version are left out.

    Raises:
        HistoryCorrupt: They hold none.
    """
    try:
        found = _known(raw, Card)
        inputs: list[dict[str, str]] = found.pop("inputs", [])
        return Card(**found, inputs=tuple(InputType(**_of(InputType, i)) for i in inputs))
    except (ValueError, TypeError, AttributeError) as error:
        raise HistoryCorrupt(f"an agent's card is unreadable: {error}") from error


def encode_presence(presence: Presence) -> bytes:
    """A presence as JSON, the same bytes for equal presences."""
    return _encode(asdict(presence) | {"started_at": presence.started_at.isoformat()})


def decode_presence(raw: bytes) -> Presence:
    """The presence in the bytes; fields of a newer version are left out.

    Raises:
        HistoryCorrupt: They hold none.
    """
    try:
        found = _known(raw, Presence)
        found["started_at"] = datetime.fromisoformat(found["started_at"])
        return Presence(**found)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise HistoryCorrupt(f"an agent's presence is unreadable: {error}") from error


def _encode(values: Mapping[str, object]) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()


def _known(raw: bytes, kind: type[Card] | type[Presence]) -> dict[str, Any]:
    # Any: JSON values; the dataclass they go to is what gives them a type.
    return _of(kind, json.loads(raw))


def _of(
    kind: type[Card] | type[Presence] | type[InputType], values: dict[str, Any]
) -> dict[str, Any]:
    names = {f.name for f in fields(kind)}
    return {name: value for name, value in values.items() if name in names}
