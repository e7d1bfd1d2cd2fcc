"""Reading every pixel of a raster once: damage is found, and the content gets a name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from math import lcm
from typing import Any

import numpy as np
from rasterio.enums import Interleaving
from rasterio.windows import Window as RasterioWindow

from satseg_ray.geo.formats import open_raster, reading
from satseg_ray.geo.grid import Window

CELL = 512
"""Side in pixels of the squares whose digests make that of the raster."""


def check_whole(path: str | os.PathLike[str], max_bytes: int = 32 << 20) -> str:
    """Read every pixel once, about ``max_bytes`` at a time, and return a digest of them.

    The digest (SHA-256 as hex) is of the pixel type, the shape and the pixels of all bands. Law:
    files of the same pixels have the same digest, however they are laid out and compressed.

    Raises:
        UnreadableRaster: some part of the file cannot be read.
    """
    with open_raster(path) as dataset, reading(path):
        shape = dataset.count, dataset.height, dataset.width
        total = hashlib.sha256(repr((dataset.dtypes, shape)).encode())
        bands = [_BandDigest(dataset.height) for _ in range(dataset.count)]
        for group in _read_together(dataset):
            for window in _whole_blocks(dataset, len(group), max_bytes):
                place = RasterioWindow(window.col, window.row, window.width, window.height)
                for band, pixels in zip(group, dataset.read(group, window=place), strict=True):
                    bands[band - 1].add(window, pixels)
    for band_digest in bands:
        total.update(band_digest.digest())
    return total.hexdigest()


class _BandDigest:
    """The digest of one band: of its rows of cells, each of the digests of its cells.

    Windows come in row-major order and are whole cells wide; a cell may come in several parts.
    """

    def __init__(self, height: int) -> None:
        self._height = height
        self._rows: dict[int, Any] = {}
        self._cells: dict[tuple[int, int], Any] = {}

    def add(self, window: Window, pixels: Any) -> None:
        """Take the pixels (rows, columns) of a window."""
        for top, stop in _cells(window.row, window.row_stop):
            rows = pixels[top - window.row : stop - window.row]
            for left, right in _cells(window.col, window.col_stop):
                place = top // CELL, left
                cell = self._cells.setdefault(place, hashlib.sha256())
                cell.update(np.ascontiguousarray(rows[:, left - window.col : right - window.col]))
                if stop % CELL == 0 or stop == self._height:
                    row = self._rows.setdefault(place[0], hashlib.sha256())
                    row.update(self._cells.pop(place).digest())

    def digest(self) -> bytes:
        """Return the digest of the whole band."""
        return hashlib.sha256(b"".join(row.digest() for row in self._rows.values())).digest()


def _cells(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yield the parts of ``start`` to ``stop`` that lie in one cell each."""
    while start < stop:
        end = min(stop, (start // CELL + 1) * CELL)
        yield start, end
        start = end


def _read_together(dataset: Any) -> list[list[int]]:
    """Return the bands in groups: those that a block holds together."""
    bands = list(range(1, dataset.count + 1))
    return [bands] if dataset.interleaving == Interleaving.pixel else [[band] for band in bands]


def _whole_blocks(dataset: Any, bands: int, max_bytes: int) -> Iterator[Window]:
    """Yield windows that partition a raster, so that no block is read twice.

    They are whole blocks high, and whole blocks and cells wide; where a block is as large as
    ``max_bytes`` they are parts of blocks, which GDAL keeps in memory.
    """
    rows, cols = dataset.block_shapes[0]
    unit = lcm(cols, CELL) if cols < dataset.width and lcm(cols, CELL) <= 8 * CELL else CELL
    pixels = max(1, max_bytes // (bands * np.dtype(dataset.dtypes[0]).itemsize))
    units = -(-dataset.width // unit)
    width = min(max(1, pixels // rows // unit), units) * unit
    height = pixels // min(width, dataset.width)
    height = height // rows * rows or max(1, height)
    yield from Window(0, 0, dataset.height, dataset.width).blocks(height, width)
