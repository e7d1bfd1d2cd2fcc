"""What is in each patch-sized cell of a scene's labels: the counts that the plan weighs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from satseg_ray.classes import IGNORE
from satseg_ray.geo.grid import Lattice, Window
from satseg_ray.geo.labels import IndexRaster
from satseg_ray.geo.raster import RasterInfo, inspect_raster
from satseg_ray.patches.ground import SOMEWHERE, Footprint
from satseg_ray.patches.sample import Sampling
from satseg_ray.patches.split import Anchor, Counts, SceneSize

_PIECE = 64 << 20
"""Most pixels that are counted at once, in bands of whole cells; one row of cells always is."""
_BLOCK_ROWS, _BLOCK_COLS = 512, 4096
_FEW = 20
"""Up to so many classes comparing is faster than a histogram."""


@dataclass(frozen=True)
class Counting:
    """How cells are counted: their side, the number of classes, and the sample's rare ones."""

    patch: int
    classes: int
    sampling: Sampling


@dataclass(frozen=True)
class Band:
    """The rows of cells ``first`` to ``stop - 1`` of a scene."""

    scene: str
    first: int
    stop: int


@dataclass(frozen=True)
class BandCounts:
    """``classes`` int64 (rows, columns, classes + 1) of a band's cells, and rare pixels in them."""

    band: Band
    classes: Counts
    anchors: tuple[Anchor, ...]
    footprint: Footprint | None

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as JSON values."""
        place = self.footprint
        return {
            "band": [self.band.scene, self.band.first, self.band.stop],
            "classes": self.classes.tolist(),
            "anchors": self.anchors,
            "footprint": place and [place.crs, place.transform],
        }

    @classmethod
    def from_dict(cls, body: Any) -> Self:
        """Return the counts that :meth:`to_dict` gave."""
        place = body["footprint"]
        return cls(
            Band(*body["band"]),
            np.array(body["classes"], np.int64),
            tuple((int(row), int(col)) for row, col in body["anchors"]),
            place and Footprint(place[0], tuple(place[1])),
        )


def bands(scene: str, height: int, width: int, patch: int) -> Iterator[Band]:
    """Yield the bands of a scene, each of bounded size, that partition its rows of cells."""
    cells = Lattice.of(height, width, patch, patch)
    rows = max(1, _PIECE // (patch * patch * cells.cols.count))
    for first in range(0, cells.rows.count, rows):
        yield Band(scene, first, min(first + rows, cells.rows.count))


def pieces(sizes: Mapping[str, tuple[int, int]], patch: int) -> list[list[Band]]:
    """Return the bands of scenes of (height, width) in pieces of work: small ones together."""
    found: list[list[Band]] = []
    left = 0
    for scene, (height, width) in sizes.items():
        for band in bands(scene, height, width, patch):
            area = (band.stop - band.first) * patch * width
            if area > left:
                found.append([])
                left = _PIECE
            found[-1].append(band)
            left -= area
    return found


def count_band(path: Path, band: Band, counting: Counting) -> BandCounts:
    """Count the classes in the cells of a band of the label raster at ``path``, block by block.

    Raises:
        UnreadableRaster: the file is damaged.
    """
    patch = counting.patch
    anchors: list[Anchor] = []
    with IndexRaster(path) as labels:
        info = labels.info
        cols = Lattice.of(info.height, info.width, patch, patch).cols.count
        area = Window(band.first * patch, 0, (band.stop - band.first) * patch, cols * patch)
        counts = np.zeros((band.stop - band.first, cols, counting.classes + 1), np.int64)
        for block, indexes in _blocks(labels, area, patch):
            for part in block.blocks(patch, patch):
                cell = np.ascontiguousarray(indexes[part.relative_to(block).slices()])
                place = part.row // patch - band.first, part.col // patch
                counts[place] = class_counts(cell, counting.classes)
                anchors += counting.sampling.anchors(cell, band.scene, (part.row, part.col))
    return BandCounts(band, counts, tuple(anchors), _footprint(info))


def _blocks(
    labels: IndexRaster, area: Window, patch: int
) -> Iterator[tuple[Window, npt.NDArray[np.uint8]]]:
    """Yield an area in blocks of whole cells; the array is used again for the next block."""
    height, width = _whole(_BLOCK_ROWS, patch), _whole(_BLOCK_COLS, patch)
    array = np.empty((min(height, area.height), min(width, area.width)), np.uint8)
    for block in area.blocks(height, width):
        yield block, labels.read(block, array[: block.height, : block.width])


def _whole(pixels: int, patch: int) -> int:
    return max(1, pixels // patch) * patch


def footprint_of(path: Path) -> Footprint | None:
    """Return where a raster lies, None where it does not say so in full."""
    return _footprint(inspect_raster(path))


def _footprint(info: RasterInfo) -> Footprint | None:
    return Footprint(info.crs or SOMEWHERE, info.transform) if info.transform else None


def uncounted(path: Path, band: Band, counting: Counting) -> BandCounts:
    """Return a band without counts, for a plan that does not weigh them."""
    info = inspect_raster(path)
    cols = Lattice.of(info.height, info.width, counting.patch, counting.patch).cols.count
    zeros = np.zeros((band.stop - band.first, cols, counting.classes + 1), np.int64)
    return BandCounts(band, zeros, (), _footprint(info))


def class_counts(cell: npt.NDArray[np.uint8], classes: int) -> Counts:
    """Return the pixels of each class index, int64 (classes + 1,), at last those of no class."""
    counts = np.zeros(classes + 1, np.int64)
    if classes > _FEW:
        found = np.bincount(cell.reshape(-1), minlength=IGNORE + 1)
        counts[:classes] = found[:classes]
    else:
        least, most = int(cell.min()), int(cell.max())
        for index in range(least, min(most, classes - 1) + 1):
            counts[index] = cell.size if least == most else np.count_nonzero(cell == index)
    counts[classes] = cell.size - counts.sum()
    return counts


def whole_scene(parts: Sequence[BandCounts], height: int, width: int) -> SceneSize:
    """Return a scene of its bands, in any order."""
    ordered = sorted(parts, key=lambda part: part.band.first)
    return SceneSize(
        ordered[0].band.scene,
        height,
        width,
        np.concatenate([part.classes for part in ordered]),
        ordered[0].footprint,
        tuple(sorted(anchor for part in ordered for anchor in part.anchors)),
    )
