"""Geometry of training patches: image, mask and validity move alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from satseg_ray.classes import IGNORE
from satseg_ray.train.samples import Image, Sample


def symmetry(array: NDArray[Any], turn: int) -> NDArray[Any]:
    """Return the ``turn``-th (0 to 7) symmetry of a square (H, W, ...) array, as a view.

    0 is the identity; the first four keep the orientation, the last four mirror it.
    """
    mirrored = array[:, ::-1] if turn >= 4 else array
    return np.rot90(mirrored, turn % 4)


def magnified(
    sample: Sample, factor: float, place: tuple[float, float], fill: Sequence[float]
) -> Sample:
    """Return a square sample magnified, of the same size: a part of it, or it within emptiness.

    ``place`` (0 to 1 on each axis) says where the part lies within the patch, or the patch within
    the result. The image is bilinear between valid pixels, mask and validity are those of the
    nearest pixel; beyond the patch pixels are ``fill``, unlabelled and invalid. Below a factor of
    1/2 pixels are skipped.

    Law: the factor 1 gives the sample itself, bit for bit.
    """
    side = len(sample.mask)
    rows, cols = (_Axis.of(side, factor, at) for at in place)
    inside = rows.inside[:, np.newaxis] & cols.inside
    near = np.ix_(rows.nearest, cols.nearest)
    mask = np.where(inside, sample.mask[near], np.uint8(IGNORE))
    valid = inside & sample.valid[near]
    image = _bilinear_of_valid(sample, rows, cols)
    image[~valid] = fill
    return Sample(image, mask, valid)


@dataclass(frozen=True)
class _Axis:
    """For each new pixel of an axis: the nearest old one, the two about it, the second's weight."""

    nearest: NDArray[np.intp]
    lower: NDArray[np.intp]
    upper: NDArray[np.intp]
    weight: NDArray[np.float32]
    inside: NDArray[np.bool_]

    @classmethod
    def of(cls, side: int, factor: float, place: float) -> _Axis:
        """Return the axis of ``side`` pixels magnified by ``factor``; see :func:`magnified`."""
        centres = place * (side - side / factor) + (np.arange(side) + 0.5) / factor
        below = np.floor(centres - 0.5)
        lower, upper, nearest = (
            np.clip(pixels, 0, side - 1).astype(np.intp)
            for pixels in (below, below + 1, np.floor(centres))
        )
        weight = (centres - 0.5 - below).astype(np.float32)
        return cls(nearest, lower, upper, weight, (centres >= 0) & (centres < side))


def _bilinear_of_valid(sample: Sample, rows: _Axis, cols: _Axis) -> Image:
    """Return the image at new rows and columns, each value a mean of valid neighbours alone."""
    if sample.valid.all():
        return _bilinear(sample.image, rows, cols)
    known = sample.valid[..., np.newaxis]
    share = _bilinear(known.astype(np.float32), rows, cols)
    mean = _bilinear(np.where(known, sample.image, np.float32(0)), rows, cols)
    mean /= np.maximum(share, np.finfo(np.float32).tiny)
    return mean


def _bilinear(image: Image, rows: _Axis, cols: _Axis) -> Image:
    """Return an image (H, W, B) at new rows and columns."""
    flat, bands = flat_bands(image), image.shape[-1]
    lines = between(flat[rows.lower], flat[rows.upper], rows.weight[:, np.newaxis])
    pixels = lines.reshape(image.shape)
    left, right = (flat_bands(np.take(pixels, at, 1)) for at in (cols.lower, cols.upper))
    return between(left, right, np.repeat(cols.weight, bands)).reshape(image.shape)


def between(first: Image, second: Image, weight: Image) -> Image:
    """Return ``first`` where ``weight`` is 0, ``second`` where it is 1; changes ``second``."""
    second -= first
    second *= weight
    second += first
    return second


def flat_bands(image: Image) -> Image:
    """Return (H, W, B) as (H, W B), a view: numpy is slow where the last axis is short."""
    return image.reshape(len(image), -1)
