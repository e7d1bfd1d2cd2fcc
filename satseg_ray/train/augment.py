"""Random changes of training patches of any band count and depth, in raw units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from satseg_ray.model.training_spec import AugmentSpec
from satseg_ray.train.geometry import between, flat_bands, magnified, symmetry
from satseg_ray.train.samples import BandStatistics, Image, Sample, Samples

Rng: TypeAlias = np.random.Generator

_BRIGHT = 3.0
"""How many deviations above its mean a band is under dense haze."""
_COARSE = 4
"""Nodes a side between which the density of haze is interpolated."""


@dataclass(frozen=True)
class Augmenter:
    """The random changes of training patches, a function of (seed, epoch, position) alone.

    Geometry (symmetries, zoom) moves image, mask and validity alike; the rest changes the image
    alone. Symmetries, gain and bias draw from one stream and each other kind from its own: to
    switch one of these on leaves the rest as they were.

    Law: with everything off the samples are those that were given, bit for bit.
    """

    spec: AugmentSpec
    bands: BandStatistics
    seed: int = 0

    def apply(
        self, samples: Samples, valid: NDArray[np.bool_], epoch: int, positions: Sequence[int]
    ) -> Samples:
        """Return the changed samples; invalid pixels are the bands' filling, as in prediction.

        ``valid`` (N, H, W) are the pixels of the samples that hold an observation; patches are
        square.
        """
        image, mask = np.empty(samples.image.shape, np.float32), np.empty_like(samples.mask)
        for i, position in enumerate(positions):
            pixels = np.ascontiguousarray(samples.image[i])  # stored patches have their bands first
            sample = Sample(pixels, samples.mask[i], valid[i])
            streams = _Streams((self.seed, epoch, position))
            moved = self._moved(sample, streams)
            _pixels(image[i])[...] = _pixels(moved.image)
            mask[i] = moved.mask
            self._recolour(image[i], streams)
            if not moved.valid.all():
                image[i][~moved.valid] = self.bands.fill
        return Samples(image, mask)

    def _moved(self, sample: Sample, streams: _Streams) -> Sample:
        """Return a sample under one zoom and one symmetry."""
        if self.spec.zoom:
            sample = _zoomed(sample, self.spec.zoom, streams.of(1), self.bands)
        turn = int(streams.common.integers(8)) if self.spec.symmetries else 0
        return sample.every(lambda array: symmetry(array, turn))

    def _recolour(self, image: Image, streams: _Streams) -> None:
        """Change the values of one float32 (H, W, B) image in place."""
        spec, bands = self.spec, self.bands
        if spec.gain or spec.bias:
            _shift(image, spec, streams.common, bands)
        for number, (amount, change) in enumerate(
            ((spec.haze, _veil), (spec.noise, _roughen), (spec.band_dropout, _drop_bands)), 2
        ):
            if amount:
                change(image, amount, streams.of(number), bands)


class _Streams:
    """The random numbers of one patch."""

    def __init__(self, key: tuple[int, int, int]) -> None:
        self._key = key
        self.common = np.random.default_rng(key)

    def of(self, kind: int) -> Rng:
        return np.random.default_rng((*self._key, kind))


def _zoomed(sample: Sample, zoom: float, rng: Rng, bands: BandStatistics) -> Sample:
    factor = float(np.exp(rng.uniform(-1, 1) * np.log1p(zoom)))
    return magnified(sample, factor, (rng.random(), rng.random()), bands.fill)


def _pixels(image: Image) -> NDArray[np.void]:
    """Return (H, W, B) as (H, W), a view that is copied pixel by pixel, not band by band."""
    return image.view(np.dtype((np.void, image.shape[-1] * image.itemsize)))[..., 0]


def _along(values: NDArray[Any], image: Image) -> Image:
    """Return a value for each band (B,) for a row of :func:`flat_bands` (W B,)."""
    return np.tile(values.astype(np.float32), image.shape[1])


def _shift(image: Image, spec: AugmentSpec, rng: Rng, bands: BandStatistics) -> None:
    """Scale and shift the bands about their means."""
    mean, std = np.array(bands.mean), np.array(bands.std)
    gain = 1 + rng.uniform(-spec.gain, spec.gain)
    bias = std * rng.uniform(-spec.bias, spec.bias, len(mean))
    flat = flat_bands(image)
    flat *= np.float32(gain)
    flat += _along(mean * (1 - gain) + bias, image)


def _veil(image: Image, most: float, rng: Rng, bands: BandStatistics) -> None:
    """Draw the bands towards a bright value, some further than others, more here and less there."""
    depth = rng.uniform(0, most) * rng.uniform(0.5, 1, len(bands.mean))
    bright = np.array(bands.mean) + _BRIGHT * np.array(bands.std)
    flat, share = flat_bands(image), _density(image, depth, rng)
    flat *= 1 - share
    share *= _along(bright, image)
    flat += share


def _density(image: Image, depth: NDArray[np.float64], rng: Rng) -> Image:
    """Return shares (H, W B) of up to ``depth`` (B,) that change slowly from place to place."""
    nodes = rng.random((_COARSE, _COARSE), np.float32)
    places = np.linspace(0, _COARSE - 1, len(image), dtype=np.float32)
    lower = np.minimum(places.astype(np.intp), _COARSE - 2)
    weight = places - lower.astype(np.float32)
    across = between(nodes[:, lower], nodes[:, lower + 1], weight)
    whole = np.repeat(across, len(depth), axis=1) * _along(depth, image)
    return between(whole[lower], whole[lower + 1], weight[:, np.newaxis])


def _roughen(image: Image, most: float, rng: Rng, bands: BandStatistics) -> None:
    """Add noise to every value: how many of 32 random bits are set, which is nearly normal."""
    draws: Any = rng.bit_generator  # random_raw has no type of its own
    bits = draws.random_raw(-(-image.size // 2)).view(np.uint32)[: image.size]
    noise = flat_bands(np.bitwise_count(bits).astype(np.float32).reshape(image.shape))
    noise -= np.float32(16)
    noise *= _along(rng.uniform(0, most) / np.sqrt(8) * np.array(bands.std), image)
    flat = flat_bands(image)
    flat += noise


def _drop_bands(image: Image, chance: float, rng: Rng, bands: BandStatistics) -> None:
    """Set some bands to their means, never all."""
    draws = rng.random(len(bands.mean))
    dropped = draws < chance
    dropped[np.argmax(draws)] = False
    image[..., dropped] = np.array(bands.mean, np.float32)[dropped]
