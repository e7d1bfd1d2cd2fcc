"""From planned batches to arrays: reading, filling, augmenting, ahead of the training step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from satseg_ray.classes import IGNORE
from satseg_ray.model.segment import fill_values
from satseg_ray.model.spec import ModelSpec
from satseg_ray.model.training_spec import AugmentSpec
from satseg_ray.train.plan import Batch

Item = TypeVar("Item")
Made = TypeVar("Made")


class Patches(Protocol):
    """What a patch reader returns: arrays of the same N, H and W."""

    @property
    def image(self) -> NDArray[Any]:
        """Raw band values (N, H, W, B)."""

    @property
    def mask(self) -> NDArray[np.uint8]:
        """Class indexes (N, H, W), 255 where unlabelled or invalid."""

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Whether the pixel holds an observation (N, H, W)."""


class PatchReader(Protocol):
    """One split of a patch store: patches by id, safe to call from a thread."""

    def __len__(self) -> int: ...

    def read(self, ids: Sequence[int]) -> Patches:
        """Return the patches of these ids, in this order."""

    def key(self, position: int) -> tuple[str, int, int]:
        """Return scene, row and column of a patch."""


class Samples(NamedTuple):
    """What a step is fed: image float32 (N, H, W, B) in raw units, mask uint8 (N, H, W)."""

    image: NDArray[np.float32]
    mask: NDArray[np.uint8]


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


@dataclass(frozen=True)
class Augmenter:
    """The random changes of training patches, a function of (seed, epoch, position) alone."""

    spec: AugmentSpec
    bands: BandStatistics
    seed: int = 0

    def apply(self, samples: Samples, epoch: int, positions: Sequence[int]) -> Samples:
        """Return the changed samples; image and mask of one patch move alike.

        Patches are square. Invalid pixels change with the others, so they stay near the mean.
        """
        image, mask = np.empty_like(samples.image), np.empty_like(samples.mask)
        for i, position in enumerate(positions):
            rng = np.random.default_rng((self.seed, epoch, position))
            turn = int(rng.integers(8)) if self.spec.symmetries else 0
            image[i] = symmetry(samples.image[i], turn)
            mask[i] = symmetry(samples.mask[i], turn)
            if self.spec.gain or self.spec.bias:
                self._shift(image[i], rng)
        return Samples(image, mask)

    def _shift(self, image: NDArray[np.float32], rng: np.random.Generator) -> None:
        """Scale and shift the bands of one float32 (H, W, B) image in place, about their means."""
        mean, std = np.array(self.bands.mean), np.array(self.bands.std)
        gain = 1 + rng.uniform(-self.spec.gain, self.spec.gain)
        bias = std * rng.uniform(-self.spec.bias, self.spec.bias, len(mean))
        image *= np.float32(gain)
        image += (mean * (1 - gain) + bias).astype(np.float32)


def symmetry(array: NDArray[Any], turn: int) -> NDArray[Any]:
    """Return the ``turn``-th (0 to 7) symmetry of a square (H, W, ...) array, as a view.

    0 is the identity; the first four keep the orientation, the last four mirror it.
    """
    mirrored = array[:, ::-1] if turn >= 4 else array
    return np.rot90(mirrored, turn % 4)


def to_samples(patches: Patches, bands: BandStatistics) -> Samples:
    """Return patches as float32 samples, invalid pixels filled and unlabelled."""
    image = patches.image.astype(np.float32)
    image[~patches.valid] = np.array(bands.fill, np.float32)
    return Samples(image, np.where(patches.valid, patches.mask, np.uint8(IGNORE)))


def pad_samples(samples: Samples, count: int) -> Samples:
    """Return the samples followed by unlabelled zeros, ``count`` in all."""
    extra = [(0, count - len(samples.mask))]
    image = np.pad(samples.image, extra + [(0, 0)] * 3)
    return Samples(image, np.pad(samples.mask, extra + [(0, 0)] * 2, constant_values=IGNORE))


def ahead(make: Callable[[Item], Made], items: Iterable[Item], depth: int = 2) -> Generator[Made]:
    """Yield ``make(item)`` of each item in order, made by one thread up to ``depth`` ahead.

    At most ``depth + 1`` results exist at a time besides the caller's. An error of ``make`` is
    raised at its item; leaving the iterator early stops the thread after the item at hand.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
    waiting: deque[Future[Made]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(make, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class Ahead(Protocol):
    """Makes results ahead of their use, as :func:`ahead` does: in order, a bounded number."""

    def __call__(
        self, make: Callable[[Batch], Samples], items: Iterable[Batch]
    ) -> Iterator[Samples]:
        """Yield ``make(item)`` of each item in order."""


@dataclass(frozen=True)
class BatchSource:
    """The patches of one split as batches for a network."""

    reader: PatchReader
    bands: BandStatistics

    def training(
        self, plan: Sequence[Batch], augmenter: Augmenter, epoch: int, ahead: Ahead = ahead
    ) -> Iterator[Samples]:
        """Yield the augmented samples of each planned batch of an epoch."""

        def make(batch: Batch) -> Samples:
            samples = to_samples(self.reader.read(batch.ids), self.bands)
            return augmenter.apply(samples, epoch, batch.positions)

        return ahead(make, plan)

    def evaluation(self, plan: Sequence[Batch], batch_size: int) -> Iterator[Samples]:
        """Yield the samples of each planned batch, the last padded to ``batch_size``."""

        def make(batch: Batch) -> Samples:
            return pad_samples(to_samples(self.reader.read(batch.ids), self.bands), batch_size)

        return ahead(make, plan)
