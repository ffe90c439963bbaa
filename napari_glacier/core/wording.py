"""Numbers and lists as people read them."""

from collections.abc import Sequence


def counted(number: int, noun: str) -> str:
    """``1 tile``, ``3 tiles``."""
    return f"1 {noun}" if number == 1 else f"{number:,} {noun}s"


def listed(names: Sequence[str], most: int = 3) -> str:
    """``a, b, c and 4 more``."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
