"""A label raster seen on another grid: each pixel is the nearest one of the raster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj

from satseg_ray.classes import IGNORE
from satseg_ray.findings import Finding
from satseg_ray.geo.grid import Window
from satseg_ray.geo.labels.place import grid_of, same_crs, transformer
from satseg_ray.geo.labels.rasters import LabelReader
from satseg_ray.geo.labels.rule import Indexes
from satseg_ray.geo.raster import RasterInfo

Positions = npt.NDArray[np.int64]

MOST_PIXELS = 1 << 22
"""Pixels of the raster that are read at once; where a window needs more, it is halved."""


@dataclass(frozen=True)
class NearestLabels:
    """The labels of ``reader`` on the grid of ``scene``; ``fill`` where they do not reach.

    The pixel that a centre lies in is taken, and each centre is carried exactly, so that no pixel
    depends on the window that is read.
    """

    reader: LabelReader
    info: RasterInfo
    scene: RasterInfo
    fill: int = IGNORE
    findings: tuple[Finding, ...] = ()

    def blocks(self) -> Iterator[tuple[Window, Indexes]]:
        """Yield the scene in row-major blocks as ``(window, indexes)``."""
        for window in self.scene.window.blocks():
            yield window, self.read(window)

    def read(self, window: Window) -> Indexes:
        """Return the class indexes (rows, columns) of a window of the scene.

        Raises:
            UnknownClassValue, UnreadableRaster: as of the reader.
        """
        out = np.full(window.shape, self.fill, np.uint8)
        self._read_into(out, window)
        return out

    def _read_into(self, out: Indexes, window: Window) -> None:
        rows, cols = self._positions(window)
        inside = (rows >= 0) & (rows < self.info.height) & (cols >= 0) & (cols < self.info.width)
        if not inside.any():
            return
        row, col = int(rows[inside].min()), int(cols[inside].min())
        need = Window(
            row, col, int(rows[inside].max()) - row + 1, int(cols[inside].max()) - col + 1
        )
        if need.area > MOST_PIXELS and window.area > 1:
            for half in halves(window):
                self._read_into(out[half.relative_to(window).slices()], half)
            return
        out[inside] = self.reader.read(need)[rows[inside] - row, cols[inside] - col]

    def _positions(self, window: Window) -> tuple[Positions, Positions]:
        """Return the row and column of the raster that each centre of a window lies in."""
        rows, cols = np.mgrid[window.row : window.row_stop, window.col : window.col_stop] + 0.5
        to_crs, to_raster = grid_of(self.scene), ~grid_of(self.info)
        x = to_crs.a * cols + to_crs.b * rows + to_crs.c
        y = to_crs.d * cols + to_crs.e * rows + to_crs.f
        if self._change is not None:
            x, y = self._change(x, y)
        nowhere = ~(np.isfinite(x) & np.isfinite(y))
        x[nowhere] = y[nowhere] = 0
        col = np.floor(to_raster.a * x + to_raster.b * y + to_raster.c)
        row = np.floor(to_raster.d * x + to_raster.e * y + to_raster.f)
        row[nowhere] = -1
        limit = 1 << 40
        return (
            np.clip(row, -1, limit).astype(np.int64),
            np.clip(col, -1, limit).astype(np.int64),
        )

    @cached_property
    def _change(self) -> Callable[..., Any] | None:
        source, target = (pyproj.CRS.from_wkt(str(i.crs)) for i in (self.info, self.scene))
        if same_crs(source, target):
            return None
        return transformer(target.to_wkt(), source.to_wkt())


def halves(window: Window) -> tuple[Window, Window]:
    """Return a window of at least two pixels cut across its longer side.

    >>> halves(Window(0, 0, 3, 2))
    (Window(row=0, col=0, height=1, width=2), Window(row=1, col=0, height=2, width=2))
    """
    if window.height >= window.width:
        first = window.height // 2
        top = Window(window.row, window.col, first, window.width)
        return top, Window(top.row_stop, window.col, window.height - first, window.width)
    first = window.width // 2
    left = Window(window.row, window.col, window.height, first)
    return left, Window(window.row, left.col_stop, window.height, window.width - first)
