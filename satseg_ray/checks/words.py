"""Numbers and lists in sentences: short, however many there are."""

from __future__ import annotations

from collections.abc import Sequence


def counted(count: int, what: str) -> str:
    """Return a count with its noun.

    >>> counted(1, "scene"), counted(24, "scene")
    ('1 scene', '24 scenes')
    """
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def listed(items: Sequence[str], most: int = 3) -> str:
    """Return the first of ``items``, and how many there are besides.

    >>> listed(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    rest = len(items) - most
    return ", ".join(items[:most]) + (f" and {rest} more" if rest > 0 else "")


def percent(share: float) -> str:
    """Return a share as a percentage that is never rounded to nothing, nor to everything.

    >>> percent(0.5), percent(0.00001), percent(0.99999)
    ('50%', '<0.1%', '>99.9%')
    """
    if 0 < share < 0.001:
        return "<0.1%"
    if 0.999 < share < 1:
        return ">99.9%"
    return f"{100 * share:.3g}%"


def number(value: float) -> str:
    """Return a pixel value as it is written: a whole number without a point."""
    return f"{int(value)}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.6g}"
