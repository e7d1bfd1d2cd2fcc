"""How long a sweep may take, over all its starts."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

from ray.tune import Stopper

from satseg_ray.products import fresh_file

_SAVED = 5.0
"""Seconds between two writes of what was spent."""


@dataclass(frozen=True)
class SweepState:
    """What a sweep knows of itself between two starts; a file in its folder."""

    digest: str
    parent: str
    spent: float = 0.0
    done: bool = False

    def write(self, path: Path) -> None:
        """Write the state."""
        with fresh_file(path) as partial:
            partial.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> SweepState | None:
        """Return the state of a sweep that was begun."""
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


class Budget(Stopper):  # type: ignore[misc]  # Ray has no types for it
    """Ends a sweep after so many seconds of work, those of its earlier starts included."""

    def __init__(self, path: Path, seconds: float) -> None:
        self._path, self._seconds = path, seconds
        self._since = self._saved = monotonic()
        self._before = self._state().spent

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Go on in another process: its clock is another one."""
        self.__init__(state["_path"], state["_seconds"])  # type: ignore[misc]

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Stop no trial by itself."""
        return False

    @property
    def left(self) -> float:
        """The seconds that are left."""
        return self._seconds - self._before - (monotonic() - self._since)

    def stop_all(self) -> bool:
        """Tell whether the time is over; asked every now and then by Tune."""
        if monotonic() - self._saved > _SAVED:
            self.save()
        return self.left <= 0

    def save(self) -> None:
        """Write down what was spent."""
        self._saved = monotonic()
        spent = self._before + self._saved - self._since
        replace(self._state(), spent=spent).write(self._path)

    def _state(self) -> SweepState:
        return SweepState.read(self._path) or SweepState("", "")
