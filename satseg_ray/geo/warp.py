"""A raster seen on another grid, without a file in between."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.transform import Affine
from rasterio.warp import reproject, transform

from satseg_ray.geo.grid import Window
from satseg_ray.geo.info import RasterInfo
from satseg_ray.geo.layer import FileBands, Layer, Pixels

Method = Literal["nearest", "bilinear", "cubic", "average"]
Coordinates = npt.NDArray[np.float64]

BLOCK = 256
"""Side in pixels of the squares of a grid that are warped, each in one piece."""
MAX_SOURCE_BYTES = 64 << 20
"""Bytes of a file that are warped at once; where more are needed a square is halved."""
SMALL = 64
"""Pixels of a square that is not halved for the sake of a place that a CRS does not know."""


@dataclass(frozen=True)
class GridChange:
    """The way from the pixels of one georeferenced grid to those of another."""

    source: RasterInfo
    target: RasterInfo

    @cached_property
    def crs(self) -> tuple[CRS, CRS]:
        """The CRS of the source and of the target: one object where they are the same."""
        source, target = CRS.from_wkt(str(self.source.crs)), CRS.from_wkt(str(self.target.crs))
        return (target, target) if source == target else (source, target)

    @property
    def same_crs(self) -> bool:
        """Whether source and target have one CRS."""
        return self.crs[0] is self.crs[1]

    def to_source(self, cols: Coordinates, rows: Coordinates) -> tuple[Coordinates, Coordinates]:
        """Return where (n,) positions of the target lie in the source; inf where nowhere."""
        xs, ys = self.target.affine @ (cols, rows)
        if not self.same_crs:
            xs, ys = projected(self.crs[1], self.crs[0], xs, ys)
        with np.errstate(invalid="ignore"):
            cols, rows = ~self.source.affine @ (xs, ys)
        return cols, rows

    @cached_property
    def offset(self) -> tuple[int, int] | None:
        """The row and column of the target where the source's first pixel is; None if between."""
        if not self.same_crs:
            return None
        to_target = ~self.target.affine @ self.source.affine
        size = self.source.width, self.source.height
        col, row = (round(number) for number in to_target @ (0, 0))
        last = to_target @ size
        off = math.dist((col, row), to_target @ (0, 0))
        off = max(off, math.dist((col + size[0], row + size[1]), last))
        turned = max(abs(to_target.b) * size[1], abs(to_target.d) * size[0])
        return (row, col) if max(off, turned) < SAME_PLACE else None

    @cached_property
    def scale(self) -> tuple[float, float]:
        """The columns and rows of the source for one pixel in the middle of the target."""
        middle = np.array([self.target.width / 2, self.target.height / 2])
        at = middle + np.array([[-0.5, 0], [0.5, 0], [0, -0.5], [0, 0.5]])
        cols, rows = self.to_source(at[:, 0], at[:, 1])
        across = math.hypot(cols[1] - cols[0], cols[3] - cols[2])
        down = math.hypot(rows[1] - rows[0], rows[3] - rows[2])
        known = math.isfinite(across) and math.isfinite(down) and min(across, down) > 0
        return (across, down) if known else (1.0, 1.0)


SAME_PLACE = 0.001
"""Pixels by which two grids may differ anywhere and still be one."""


def projected(
    source: CRS, target: CRS, xs: Coordinates, ys: Coordinates
) -> tuple[Coordinates, Coordinates]:
    """Return coordinates (n,) in another CRS, infinite where they have no place in it."""
    try:
        moved = np.array(transform(source, target, xs, ys))
    except (CPLE_BaseError, RasterioError):  # one point is enough
        if len(xs) == 1:
            return np.array([np.inf]), np.array([np.inf])
        half = len(xs) // 2
        parts = (projected(source, target, xs[s], ys[s]) for s in (slice(half), slice(half, None)))
        moved = np.concatenate([np.array(part) for part in parts], axis=1)
    return moved[0], moved[1]


class WarpedBands:
    """Bands of one file on another grid.

    A pixel is valid where the file's pixel under its centre is, and by ``average`` where any of
    the file's pixels that it covers is. What is not valid in the file has no part in a valid pixel.
    Law: a pixel does not depend on the window that is read, since it is
    always warped in one and the same square.
    """

    def __init__(self, file: FileBands, onto: RasterInfo, method: Method) -> None:
        self._file, self._onto = file, onto
        self._change = GridChange(file.info, onto)
        self._method = Resampling[method]
        self._squares: dict[tuple[int, int], Layer] = {}

    def read(self, window: Window) -> Layer:
        """Return the layer of a window in the grid; the squares of the last one are kept."""
        layer = self._empty(window)
        kept: dict[tuple[int, int], Layer] = {}
        for square in self._squares_of(window):
            key = square.row, square.col
            kept[key] = self._squares.get(key) or self._warp(square)
            both = square.intersection(window)
            rows, cols = both.relative_to(square).slices()
            part = kept[key]
            layer.put(
                Layer(part.pixels[:, rows, cols], part.present[rows, cols], part.valid[rows, cols]),
                both.relative_to(window).slices(),
            )
        self._squares = kept
        return layer

    def _squares_of(self, window: Window) -> Iterator[Window]:
        first_row, first_col = window.row // BLOCK * BLOCK, window.col // BLOCK * BLOCK
        whole = Window(
            first_row, first_col, window.row_stop - first_row, window.col_stop - first_col
        )
        for block in whole.blocks(BLOCK, BLOCK):
            yield Window(block.row, block.col, BLOCK, BLOCK).intersection(self._onto.window)

    def _warp(self, window: Window) -> Layer:
        """Return the layer of a window that is small enough, or put it together from halves."""
        needed, sure = self._needed(window)
        size = needed.area * (len(self._file.bands) + 1) * np.dtype(self._file.info.dtype).itemsize
        if (size > MAX_SOURCE_BYTES or not sure) and window.area > 1:
            return self._joined(window)
        if needed.area:
            try:
                return self._resampled(self._file.read(needed), needed, window)
            except CPLE_BaseError:  # some of its pixels have no place in the file's CRS
                if window.area > SMALL:
                    return self._joined(window)
        return self._empty(window)

    def _joined(self, window: Window) -> Layer:
        layer = self._empty(window)
        for half in _halves(window):
            layer.put(self._warp(half), half.relative_to(window).slices())
        return layer

    def _empty(self, window: Window) -> Layer:
        return Layer.empty(len(self._file.bands), window.shape, self._file.info.dtype)

    def _needed(self, window: Window) -> tuple[Window, bool]:
        """Return the pixels of the file that a window needs, and whether they are all."""
        count = 9
        rows, cols = np.meshgrid(
            np.linspace(window.row, window.row_stop, count),
            np.linspace(window.col, window.col_stop, count),
        )
        xs, ys = self._change.to_source(cols.ravel(), rows.ravel())
        known = np.isfinite(xs) & np.isfinite(ys)
        if not known.any():
            return Window(0, 0, 0, 0), True
        left, right = _widened(xs[known], self._change.scale[0], self._file.info.width)
        top, bottom = _widened(ys[known], self._change.scale[1], self._file.info.height)
        needed = Window(top, left, bottom - top, right - left)
        return needed, bool(known.all()) or window.area <= SMALL

    def _resampled(self, layer: Layer, needed: Window, window: Window) -> Layer:
        values = np.concatenate((layer.pixels, layer.valid[None].astype(layer.pixels.dtype)))
        values[:, ~layer.valid] = 0
        out = self._reprojected(values, needed, window, self._method)
        valid = out[-1] > 0
        present = valid
        if layer.present is not layer.valid:
            mask = layer.present[None].astype(np.uint8).repeat(2, axis=0)
            present = self._reprojected(mask, needed, window, Resampling.nearest)[1] > 0
        pixels = out[:-1]
        nodata = self._file.nodata.value
        if present is not valid and nodata is not None:
            pixels[:, present & ~valid] = nodata
        return Layer(pixels, present, valid)

    def _reprojected(
        self, values: Pixels, needed: Window, window: Window, method: Resampling
    ) -> Pixels:
        """Warp bands (bands, rows, columns) of which the last is 1 where the others are valid."""
        change, last = self._change, len(values)
        out = np.zeros((last, *window.shape), values.dtype)
        across, down = change.scale
        reproject(
            values,
            out,
            src_crs=change.crs[0],
            dst_crs=change.crs[1],
            src_transform=change.source.affine @ Affine.translation(needed.col, needed.row),
            dst_transform=change.target.affine @ Affine.translation(window.col, window.row),
            src_alpha=last,
            dst_alpha=last,
            SRC_ALPHA_MAX="1",
            DST_ALPHA_MAX="1",
            resampling=method,
            init_dest_nodata=False,
            tolerance=0,
            XSCALE=repr(1 / across),  # else it would change a little from square to square
            YSCALE=repr(1 / down),
            warp_mem_limit=4 * MAX_SOURCE_BYTES >> 20,
        )
        return out


def _widened(at: Coordinates, scale: float, length: int) -> tuple[int, int]:
    """Return the pixels from the first to the last of positions, with what a kernel reaches."""
    low, high = float(at.min()), float(at.max())
    margin = 2 * max(1.0, scale) + 2 + (high - low) / 64
    start = min(max(0, math.floor(low - margin)), length)
    return start, max(start, min(length, math.ceil(high + margin)))


def _halves(window: Window) -> Iterator[Window]:
    """Yield the two halves of a window of more than one pixel, cut across its longer side."""
    if window.height >= window.width:
        half = window.height // 2
        yield Window(window.row, window.col, half, window.width)
        yield Window(window.row + half, window.col, window.height - half, window.width)
    else:
        half = window.width // 2
        yield Window(window.row, window.col, window.height, half)
        yield Window(window.row, window.col + half, window.height, window.width - half)
