"""What a label file of shapes holds, and what was met in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from satseg_ray.findings import Finding, Level
from satseg_ray.geo.labels.shapes import Coordinates, Geometries


@dataclass(frozen=True)
class Features:
    """What a label file holds, before it is placed on a scene.

    ``geometries``, ``labels`` (None: it has none), ``ids`` and ``order`` (None: file order) have
    one entry for each feature. ``crs`` is what the file declares, ``default_crs`` what its format
    means where it says nothing; ``pixels`` are coordinates in the image (x columns, y rows, from
    the top left corner), whose (height, width) the file knows as ``size``.
    """

    geometries: Geometries
    labels: Sequence[str | None]
    ids: Sequence[str]
    crs: str | None = None
    default_crs: str | None = None
    pixels: bool = False
    order: Sequence[Any] | None = None
    size: tuple[int, int] | None = None
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Sound:
    """The shapes of a file that can be placed: valid polygons, and lines that get a width.

    ``rows`` says which feature each of ``shapes`` comes from, ``bounds`` (shapes, 4) where it lies
    in the file's coordinates: left, bottom, right, top. ``findings`` tell of what is left out.
    """

    shapes: Geometries
    rows: npt.NDArray[np.intp]
    bounds: Coordinates
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class ShapeFile:
    """A file of shapes as it is read once for all scenes that share it."""

    path: str
    features: Features
    sound: Sound


@dataclass
class Notes:
    """Counts what was met while features are placed; one finding for each kind."""

    path: str
    findings: list[Finding] = field(default_factory=list)

    def add(self, code: str, ids: Sequence[str], problem: str, action: str = "Left out.") -> None:
        """Say that the features ``ids``, if any, have a problem."""
        if ids:
            self.say("warning", code, f"{some(ids)} {problem}", action)

    def say(self, level: Level, code: str, problem: str, action: str) -> None:
        """Add a finding about the file."""
        self.findings.append(Finding(level, code, self.path, problem, action))


def some(ids: Sequence[str]) -> str:
    """Return how many features there are, and the first few of them.

    >>> some(["3", "8"])
    '2 shapes (3, 8)'
    """
    names = ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")
    return f"{len(ids)} shape{'s' * (len(ids) != 1)} ({names})"
