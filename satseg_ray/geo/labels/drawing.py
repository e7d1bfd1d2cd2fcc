"""What all annotation formats share: collecting the shapes of an image, and their outlines."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from rasterio.features import shapes as outlines
from rasterio.transform import Affine
from shapely import affinity

from satseg_ray.errors import LabelsDoNotMatch
from satseg_ray.geo.labels.features import Features, Notes

Size = tuple[int, int]


BROKEN = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError)
"""What reading meets in JSON that is not of the kind it seems to be."""


class Undrawn(Exception):
    """A shape that gives no outline: the code of the finding, and what is wrong with it."""

    def __init__(self, code: str, problem: str) -> None:
        super().__init__(code, problem)
        self.code = code
        self.problem = problem


@dataclass
class Drawing:
    """The shapes of one image as they are collected."""

    path: str
    geometries: list[Any] = field(default_factory=list)
    labels: list[str | None] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    failed: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def draw(self, name: str, label: str | None, make: Callable[[], Sequence[Any]]) -> None:
        """Add what ``make`` gives, or note why it gives nothing."""
        try:
            made = make()
            if not all(isinstance(one, shapely.Geometry) for one in made):
                raise TypeError("lists where there should be numbers")
        except Undrawn as error:
            self.failed.setdefault((error.code, error.problem), []).append(name)
        except (*BROKEN, shapely.errors.ShapelyError):
            problem = "with points that are none"
            self.failed.setdefault(("bad-geometry", problem), []).append(name)
        else:
            self.geometries += made
            self.labels += [label] * len(made)
            self.ids += [name] * len(made)

    def features(self, size: Size | None, notes: Notes) -> Features:
        """Return all that was drawn, in the order of the file."""
        for (code, problem), ids in self.failed.items():
            notes.add(code, ids, problem)
        geometries = np.empty(len(self.geometries), object)
        geometries[:] = self.geometries
        return Features(
            geometries, self.labels, self.ids, pixels=True, size=size,
            findings=tuple(notes.findings),
        )  # fmt: skip


def chosen(names: Sequence[str], image_name: str | None, notes: Notes) -> int:
    """Return which of a file's images is meant: the only one, or the one of that name.

    Raises:
        LabelsDoNotMatch: there are several, and not one of that name.
    """
    path = notes.path
    if len(names) == 1:
        if image_name is not None and names[0] != image_name:
            notes.say("note", "other-image-name",
                      f"was made for {names[0]}, the scene is {image_name}", "Used.")  # fmt: skip
        return 0
    found = [at for at, name in enumerate(names) if name == image_name]
    if len(found) != 1:
        listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise LabelsDoNotMatch(
            path, f"speaks of {len(found)} images {image_name} among {len(names)} ({listed})",
            "Name the image as the labels do.",
        )  # fmt: skip
    return found[0]


def pairs(flat: Sequence[float]) -> npt.NDArray[np.float64]:
    """Return ``(x, y)`` rows of ``x, y, x, y ...``."""
    points = np.asarray(flat, np.float64)
    if points.ndim != 1 or len(points) % 2:
        raise Undrawn("bad-geometry", "with an odd number of coordinates")
    return points.reshape(-1, 2)


def polygon(points: Any) -> Any:
    """Return a polygon; fewer than three corners are none."""
    points = np.asarray(points, np.float64)
    if len(points) < 3:
        raise Undrawn("bad-geometry", "with fewer than three corners")
    return shapely.polygons(points)


def ellipse(center: Sequence[float], radii: Sequence[float], angle: float = 0.0) -> Any:
    """Return an ellipse, its outline within 0.01 pixels; ``angle`` in radians from x to y."""
    rx, ry = (float(r) for r in radii)
    if not (rx > 0 and ry > 0 and math.isfinite(rx) and math.isfinite(ry)):
        raise Undrawn("bad-geometry", "with a radius that is none")
    steps = min(4096, 8 + math.ceil(8 * math.sqrt(max(rx, ry))))
    disc = affinity.scale(shapely.Point(0, 0).buffer(1, quad_segs=steps), rx, ry, origin=(0, 0))
    turned = affinity.rotate(disc, angle, origin=(0, 0), use_radians=True)
    return affinity.translate(turned, float(center[0]), float(center[1]))


def mask_outlines(mask: npt.NDArray[np.uint8], col: int, row: int) -> list[Any]:
    """Return polygons along pixel edges: burnt, they give the mask (rows, columns) back."""
    place = Affine.translation(col, row)
    return [
        shapely.geometry.shape(body)
        for body, _ in outlines(mask, mask=mask.astype(np.bool_), transform=place)
    ]
