"""What a tile asks of a model; the real one is ``satseg_ray.model.segmenter.Segmenter``."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from satseg_ray.model.numerics import NumericsKey
from satseg_ray.model.spec import ModelSpec


class Model(Protocol):
    """A model that scores patches; ``batch_size`` is the shape it computes in."""

    @property
    def spec(self) -> ModelSpec:
        """The facts of the model."""
        ...

    @property
    def batch_size(self) -> int:
        """The number of patches computed at once."""
        ...

    def predict_proba(self, batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return probabilities (n, patch, patch, classes) for raw (n, patch, patch, bands)."""
        ...

    def numerics_key(self) -> NumericsKey:
        """Return what the bits of the probabilities depend on besides the pixels."""
        ...
