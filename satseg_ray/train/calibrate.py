"""The temperature of a trained network, from its validation split: in numpy but for the network.

Importing this module imports TensorFlow; only train workers do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from satseg_ray.model.calibration import SAMPLED, LogitSample, evenly, fit_temperature
from satseg_ray.model.network import Network
from satseg_ray.model.spec import ModelSpec
from satseg_ray.patches.store import SplitReader
from satseg_ray.train.batches import BatchSource
from satseg_ray.train.samples import BandStatistics

_MOST_PATCHES = 2048
_BATCH = 4


def calibrated(spec: ModelSpec, network: Network, validation: SplitReader) -> ModelSpec:
    """Return the spec with the temperature that suits the network's logits on validation patches.

    At most 2048 patches and 2**18 labelled pixels of them are looked at, evenly spaced. The same
    weights and patches give the same temperature; 1 where there is nothing to fit it on.
    """
    places = evenly(len(validation), _MOST_PATCHES)
    if not len(places):
        return replace(spec, temperature=1.0)
    most = max(1, SAMPLED // len(places))
    sample = LogitSample.of(_scored(spec, network, validation, places.tolist()), most)
    return replace(spec, temperature=fit_temperature(sample))


def _scored(
    spec: ModelSpec, network: Network, validation: SplitReader, places: Sequence[int]
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.uint8]]]:
    """Yield logits and class indexes of the patches at these places, in batches."""
    source = BatchSource(validation, BandStatistics.of(spec), spec.patch_size)

    def scores(image: Any) -> Any:
        return network(image, training=False)

    score = tf.function(scores, autograph=False, reduce_retracing=True)
    for start in range(0, len(places), _BATCH):
        samples = source.middle(places[start : start + _BATCH])
        yield score(tf.constant(samples.image)).numpy(), samples.mask
