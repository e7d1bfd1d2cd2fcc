"""Progress for a person, on stderr: what is done, how fast, and the time left."""

from __future__ import annotations

import sys
import time


class Progress:
    """Counts units of work and says how far it is, at most once in ``every`` seconds."""

    def __init__(self, what: str, total: float, unit: str, every: float = 2.0) -> None:
        self._what, self._total, self._unit, self._every = what, total, unit, every
        self._done = 0.0
        self._start = self._said = time.monotonic()

    def advance(self, amount: float, note: str = "") -> None:
        """Add finished work."""
        self._done += amount
        now = time.monotonic()
        if now - self._said >= self._every or self._done >= self._total:
            self._said = now
            say(self._line(now - self._start) + (f"  {note}" if note else ""))

    def _line(self, seconds: float) -> str:
        rate = self._done / max(seconds, 1e-9)
        left = (self._total - self._done) / max(rate, 1e-9)
        return (
            f"{self._what}: {self._done:.4g} of {self._total:.4g} {self._unit}, "
            f"{rate:.3g} {self._unit}/s, {clock(left)} left"
        )


def clock(seconds: float) -> str:
    """Return a duration as ``h:mm:ss`` or ``m:ss``.

    >>> clock(75), clock(3675)
    ('1:15', '1:01:15')
    """
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def say(text: str) -> None:
    """Print a line for a person on stderr."""
    print(text, file=sys.stderr, flush=True)
