"""Lines of a file that make one paragraph."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Span"]


@dataclass(frozen=True, slots=True)
class Span:
    """A paragraph by its lines, 1-based and inclusive.

    Attributes:
        first_line: Not blank.
        last_line: Not blank, >= `first_line`.
        about: Qualified name or heading it stands under; may be empty.
        weight: 1.0 for documentation, less for remarks beside code.
    """

    first_line: int
    last_line: int
    about: str = ""
    weight: float = 1.0
