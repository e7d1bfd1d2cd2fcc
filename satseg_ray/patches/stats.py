"""Statistics of patches that workers add up: integers where the pixels are, so order-free."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from satseg_ray.classes import IGNORE
from satseg_ray.patches.schema import Patch


@dataclass(frozen=True)
class SplitStats:
    """Counts and moments of the patches of one split; a monoid under :meth:`add`.

    ``pixels`` counts each class index, its last entry the unlabelled; ``sums`` and ``squares`` are
    per band over the valid pixels, exact integers for integer imagery.
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
        counts = np.bincount(patch.mask.reshape(-1), minlength=IGNORE + 1)
        values = patch.image[patch.valid].astype(_exact(patch.image.dtype))
        return cls(
            patches=1,
            pixels=(*counts[:classes].tolist(), int(counts[IGNORE])),
            valid=int(patch.valid.sum()),
            sums=tuple(values.sum(axis=0).tolist()),
            squares=tuple((values * values).sum(axis=0).tolist()),
        )

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


def _exact(dtype: np.dtype[Any]) -> type[np.int64] | type[np.float64]:
    return np.float64 if dtype.kind == "f" else np.int64


def _plus(left: tuple[Any, ...], right: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a + b for a, b in zip(left, right, strict=True))
