"""The patches of one tile, read strip by strip: each row once, memory for one row of patches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from satseg_ray.geo.grid import Lattice, PatchBlock, Window
from satseg_ray.geo.raster import Pixels, SceneReader, Tile


@dataclass(frozen=True)
class Strip:
    """One row of lattice patches: the tile of its bounding box, and the rows not seen before."""

    tile: Tile
    fresh: Window


def read_strips(reader: SceneReader, lattice: Lattice, block: PatchBlock) -> Iterator[Strip]:
    """Yield the strips of a block from top to bottom; rows shared by two strips are read once."""
    bounds = lattice.bounds(block)
    before: Tile | None = None
    for row in block.rows:
        window = Window(lattice.rows.start(row), bounds.col, lattice.patch, bounds.width)
        fresh = window if before is None else _below(before.window, window)
        tile = reader.read(fresh)
        before = tile if before is None else _shifted(before, tile, window)
        yield Strip(before, fresh)


def _below(above: Window, window: Window) -> Window:
    return Window(above.row_stop, window.col, window.row_stop - above.row_stop, window.width)


def _shifted(before: Tile, fresh: Tile, window: Window) -> Tile:
    kept = window.height - fresh.window.height
    start = before.window.height - kept
    pixels = np.concatenate((before.pixels[:, start:], fresh.pixels), axis=1)
    valid = np.concatenate((before.valid[start:], fresh.valid), axis=0)
    return Tile(window, pixels, valid)


def cut_patches(strip: Strip, lattice: Lattice, cols: Sequence[int], fill: Pixels) -> list[Pixels]:
    """Return the patches (patch, patch, bands) of a strip from left to right, as views.

    ``fill`` (bands,) stands where a pixel is not valid.
    """
    image = np.moveaxis(strip.tile.filled(fill), 0, -1)
    left = strip.tile.window.col
    starts = (lattice.cols.start(col) - left for col in cols)
    return [image[:, start : start + lattice.patch] for start in starts]


def batched(patches: Iterator[Pixels], size: int) -> Iterator[Pixels]:
    """Yield arrays (n, patch, patch, bands) of ``size`` patches, the last maybe of fewer."""
    while group := list(islice(patches, size)):
        yield np.stack(group)
