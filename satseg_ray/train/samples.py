"""What a training step is fed, and what of the bands it takes to change it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from satseg_ray.model.segment import fill_values
from satseg_ray.model.spec import ModelSpec

Image: TypeAlias = NDArray[np.float32]
"""Raw values of one patch (H, W, B)."""


class Samples(NamedTuple):
    """What a step is fed: image float32 (N, H, W, B) in raw units, mask uint8 (N, H, W)."""

    image: NDArray[np.float32]
    mask: NDArray[np.uint8]


class Sample(NamedTuple):
    """One patch: image float32 (H, W, B) in raw units, mask uint8 and valid bool (H, W)."""

    image: Image
    mask: NDArray[np.uint8]
    valid: NDArray[np.bool_]

    def every(self, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Sample:
        """Return all three arrays changed alike."""
        return Sample(change(self.image), change(self.mask), change(self.valid))


@dataclass(frozen=True)
class BandStatistics:
    """Mean, deviation and filling of each band in raw units, each of length B."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    fill: tuple[float, ...]

    @classmethod
    def of(cls, spec: ModelSpec) -> BandStatistics:
        """Return those of a model; an invalid pixel is fed as in prediction."""
        return cls(spec.mean, spec.std, tuple(fill_values(spec).tolist()))
