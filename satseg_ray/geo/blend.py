"""Blending overlapping patches in a fixed order, with memory for one row of patches."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from satseg_ray.geo.grid import Lattice, PatchBlock, Window

Scores = npt.NDArray[np.float32]

_TAPER_FLOOR = 1e-3


@lru_cache(maxsize=4)
def taper(patch: int) -> Scores:
    """Return the weight (patch, patch) float32 of each pixel in a patch, above zero everywhere.

    A squared sine on each axis: patches fade into each other, and a pixel seen by one patch alone
    keeps that patch's answer.
    """
    axis = np.sin(np.pi * (np.arange(patch) + 0.5) / patch) ** 2
    axis = np.maximum(axis, _TAPER_FLOOR)
    weights = np.outer(axis, axis).astype(np.float32)
    weights.setflags(write=False)
    return weights


class RowBlender:
    """Adds the patches of a tile in row-major order and hands out the rows that are finished.

    The accumulator is one patch high. Each pixel's sum is float32 in the lattice's row-major
    order, so it is the same in every tile that holds the pixel, bit for bit.
    """

    def __init__(self, lattice: Lattice, block: PatchBlock, classes: int) -> None:
        bounds = lattice.bounds(block)
        self._lattice = lattice
        self._block = block
        self._col = bounds.col
        self._row = bounds.row
        self._classes = classes
        self._weights = np.repeat(taper(lattice.patch), classes, axis=1)
        self._sums: Scores = np.zeros((lattice.patch, bounds.width * classes), np.float32)
        self._positions = ((r, c) for r in block.rows for c in block.cols)
        self._product: Scores = np.empty_like(self._weights)

    def add(self, scores: Scores) -> Iterator[tuple[Window, Scores]]:
        """Add the scores (n, patch, patch, classes) of the next ``n`` patches.

        Yields ``(window, sums)`` for the rows that are complete; ``sums`` is
        (rows, columns, classes) and only valid until the next step.
        """
        for patch in scores:
            row, col = next(self._positions)
            self._accumulate(col, patch)
            if col == self._block.cols[-1]:
                last = row == self._block.rows[-1]
                yield from self._flush(self._lattice.patch if last else self._lattice.rows.stride)

    def _accumulate(self, col: int, patch: Scores) -> None:
        size = self._lattice.patch
        start = (self._lattice.cols.start(col) - self._col) * self._classes
        np.multiply(patch.reshape(size, -1), self._weights, out=self._product)
        self._sums[:, start : start + size * self._classes] += self._product

    def _flush(self, rows: int) -> Iterator[tuple[Window, Scores]]:
        width = self._sums.shape[1] // self._classes
        window = Window(self._row, self._col, rows, width)
        yield window, self._sums[:rows].reshape(rows, width, self._classes)
        self._sums[:-rows] = self._sums[rows:]
        self._sums[len(self._sums) - rows :] = 0
        self._row += rows


def best_class(sums: Scores) -> npt.NDArray[np.uint8]:
    """Return the index of the highest score of each pixel (...); the first one wins a tie.

    ``sums`` is (..., classes) float32. As ``argmax`` over the last axis, which is
    several times slower for few classes.
    """
    best = np.zeros(sums.shape[:-1], np.uint8)
    highest = sums[..., 0].copy()
    for index in range(1, sums.shape[-1]):
        scores = sums[..., index]
        np.copyto(best, np.uint8(index), where=scores > highest)
        np.maximum(highest, scores, out=highest)
    return best
