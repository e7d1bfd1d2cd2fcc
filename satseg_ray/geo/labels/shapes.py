"""Shapes in a scene's pixels, burnt window by window."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from rasterio.features import rasterize
from rasterio.transform import Affine

from satseg_ray.classes import IGNORE
from satseg_ray.findings import Finding
from satseg_ray.geo.grid import Window
from satseg_ray.geo.labels.rule import Indexes

Geometries = npt.NDArray[Any]
"""Shapely geometries, an array of objects."""
Coordinates = npt.NDArray[np.float64]


SNAP = 1 << 16
"""Corners are burnt on whole parts of a pixel, so that a window's offset changes none of them."""


@dataclass(frozen=True)
class Shapes:
    """Polygons in pixels of a scene of ``height`` x ``width`` (x columns, y rows, from the corner).

    ``values`` (shapes,) uint8 are their class indexes, in the order in which they are burnt;
    ``fill`` is that of pixels outside all.
    """

    height: int
    width: int
    polygons: Geometries
    values: Indexes
    fill: int = IGNORE


class Burner:
    """Windows of shapes as class indexes.

    A pixel belongs to a shape when its centre lies inside; where shapes overlap, the later one
    wins. Law: a window has the pixels that it has in the whole scene, whatever the blocks.
    """

    def __init__(self, shapes: Shapes) -> None:
        self._shapes = shapes
        self._polygons: Geometries = shapely.transform(
            shapes.polygons, lambda corners: np.rint(corners * SNAP) / SNAP
        )

    @cached_property
    def _tree(self) -> Any:
        return shapely.STRtree(self._polygons)

    def burn(self, window: Window) -> Indexes:
        """Return the class indexes (rows, columns) of a window; ``fill`` outside all shapes."""
        near = self._tree.query(
            shapely.box(window.col, window.row, window.col_stop, window.row_stop)
        )
        if not len(near):
            return np.full(window.shape, self._shapes.fill, np.uint8)
        pairs = ((self._polygons[i], int(self._shapes.values[i])) for i in np.sort(near))
        burnt: Indexes = rasterize(
            pairs,
            out_shape=window.shape,
            transform=Affine.translation(window.col, window.row),
            fill=self._shapes.fill,
            dtype=np.uint8,
        )
        return burnt


@dataclass(frozen=True)
class BurntLabels:
    """Labels made of shapes."""

    shapes: Shapes
    findings: tuple[Finding, ...] = field(default=())

    def blocks(self) -> Iterator[tuple[Window, Indexes]]:
        """Yield the scene in row-major blocks as ``(window, indexes)``."""
        burner = Burner(self.shapes)
        for window in Window(0, 0, self.shapes.height, self.shapes.width).blocks():
            yield window, burner.burn(window)
