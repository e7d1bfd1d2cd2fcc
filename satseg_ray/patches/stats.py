"""Statistics of patches that workers add up: integers where the pixels are, so order-free."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from satseg_ray.classes import IGNORE
from satseg_ray.geo.raster import Mask, Pixels
from satseg_ray.patches.schema import Indexes, Patch, PatchStack

_FEW = 16
"""Up to so many classes are counted one by one, each faster than a histogram."""


@dataclass(frozen=True)
class SplitStats:
    """Counts and moments of the patches of one split; a monoid under :meth:`add`.

    ``pixels`` counts each class index, its last entry the unlabelled; ``sums`` and ``squares`` are
    per band over the ``valid`` pixels, exact integers for integer imagery.
    """

    patches: int
    pixels: tuple[int, ...]
    valid: int
    sums: tuple[float, ...]
    squares: tuple[float, ...]

    @classmethod
    def zero(cls, classes: int, bands: int) -> Self:
        """Return the statistics of no patch."""
        return cls(0, (0,) * (classes + 1), 0, (0,) * bands, (0,) * bands)

    @classmethod
    def of(cls, patch: Patch, classes: int) -> Self:
        """Return the statistics of one patch."""
        return cls.of_stack(PatchStack.of([patch]), classes)

    @classmethod
    def of_stack(cls, stack: PatchStack, classes: int, moments: bool = True) -> Self:
        """Return the statistics of patches together; without ``moments`` only what is counted."""
        counts = count_classes(stack.mask, classes)
        if not moments:
            none = (0,) * stack.image.shape[1]
            return cls(len(stack), counts, 0, none, none)
        valid = stack.mask.size if stack.valid is None else int(np.count_nonzero(stack.valid))
        sums, squares = zip(*_moments(stack.image, stack.valid), strict=True)
        return cls(len(stack), counts, valid, sums, squares)

    def add(self, other: Self) -> Self:
        """Return the statistics of both together."""
        return type(self)(
            self.patches + other.patches,
            _plus(self.pixels, other.pixels),
            self.valid + other.valid,
            _plus(self.sums, other.sums),
            _plus(self.squares, other.squares),
        )

    @classmethod
    def total(cls, parts: Iterable[Self], zero: Self) -> Self:
        """Return the sum of ``parts``, added in their order."""
        for part in parts:
            zero = zero.add(part)
        return zero

    def mean_and_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and standard deviation of each band; a constant band has deviation 1.

        What is below the rounding of the sums counts as constant.
        """
        count = max(self.valid, 1)
        means = tuple(total / count for total in self.sums)
        variances = (s / count - m * m for s, m in zip(self.squares, means, strict=True))
        pairs = zip(variances, means, strict=True)
        return means, tuple(math.sqrt(v) if v > 1e-12 * m * m else 1.0 for v, m in pairs)


def count_classes(mask: Indexes, classes: int) -> tuple[int, ...]:
    """Return the pixels of each class index in an array of any shape, then the unlabelled.

    >>> count_classes(np.array([[0, 2], [255, 2]], np.uint8), 3)
    (1, 0, 2, 1)
    """
    wanted = (*range(classes), IGNORE)
    if classes > _FEW:
        counts = np.bincount(mask.reshape(-1), minlength=IGNORE + 1)
        return tuple(int(counts[index]) for index in wanted)
    return tuple(int(np.count_nonzero(mask == index)) for index in wanted)


def _moments(image: Pixels, valid: Mask | None) -> list[tuple[Any, Any]]:
    """Return sum and sum of squares of each band of (n, bands, side, side) over valid pixels."""
    moments = _float_moments if image.dtype.kind == "f" else _whole_moments
    pixels = image.shape[-2] * image.shape[-1]
    run = min(pixels, 256 if image.dtype == np.uint8 else 1 << 16)
    values = np.zeros(
        (-(-pixels // run), run), np.float32 if image.dtype == np.uint8 else np.float64
    )
    flat = values.reshape(-1)[:pixels]
    totals: list[tuple[Any, Any]] = [(0, 0)] * image.shape[1]
    for position, patch in enumerate(image):
        for number, band in enumerate(patch):
            np.copyto(flat, band.reshape(-1))
            if valid is not None:
                flat[~valid[position].reshape(-1)] = 0
            totals[number] = _plus(totals[number], moments(values))
    return totals


def _whole_moments(values: npt.NDArray[Any]) -> tuple[int, int]:
    """Return exact moments: no sum over a row leaves the whole numbers that its float holds.

    256 squares of 8 bits stay below 2**24, 65536 of 16 bits below 2**53.
    """
    ones = np.ones(values.shape[1], values.dtype)
    sums, squares = values @ ones, np.vecdot(values, values)
    return int(sums.astype(np.int64).sum()), int(squares.astype(np.int64).sum())


def _float_moments(values: npt.NDArray[Any]) -> tuple[float, float]:
    return float(values.sum()), float((values * values).sum())


def _plus(left: tuple[Any, ...], right: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a + b for a, b in zip(left, right, strict=True))
