"""Squares cut out of stored patches, for networks that do not take the stored size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Corner: TypeAlias = tuple[int, int]
"""Row and column of a crop's first pixel in its patch."""


class PatchArrays(Protocol):
    """Patches as arrays of the same N, H and W."""

    @property
    def image(self) -> NDArray[Any]:
        """Raw band values (N, H, W, B)."""

    @property
    def mask(self) -> NDArray[np.uint8]:
        """Class indexes (N, H, W), 255 where unlabelled or invalid."""

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Whether the pixel holds an observation (N, H, W)."""


@dataclass(frozen=True)
class CroppedPatches:
    """Crops of patches: ``image`` (n, side, side, bands), ``mask`` uint8 and ``valid`` bool."""

    image: NDArray[Any]
    mask: NDArray[np.uint8]
    valid: NDArray[np.bool_]


def centre(stored: int, side: int) -> Corner:
    """Return the corner of the crop of ``side`` pixels in the middle of a patch.

    >>> centre(256, 240)
    (8, 8)
    """
    start = (stored - side) // 2
    return start, start


def anywhere(stored: int, side: int, key: Sequence[int]) -> Corner:
    """Return the corner of a crop at a random place, a function of the sizes and ``key`` alone."""
    row, col = np.random.default_rng((*key, side)).integers(0, stored - side, 2, endpoint=True)
    return int(row), int(col)


def cropped(patches: PatchArrays, side: int, corners: Sequence[Corner]) -> PatchArrays:
    """Return the crop of ``side`` pixels at the corner of each patch; the patches if all fit.

    Image, mask and validity of a patch are cut alike.
    """
    if patches.mask.shape[1] == side:
        return patches

    def cut(array: NDArray[Any]) -> NDArray[Any]:
        places = enumerate(corners)
        return np.stack([array[i, r : r + side, c : c + side] for i, (r, c) in places])

    return CroppedPatches(cut(patches.image), cut(patches.mask), cut(patches.valid))


def centred(patches: PatchArrays, side: int) -> PatchArrays:
    """Return the middle ``side`` pixels of each patch."""
    corner = centre(patches.mask.shape[1], side)
    return cropped(patches, side, [corner] * len(patches.mask))
