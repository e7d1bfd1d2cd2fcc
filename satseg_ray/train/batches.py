"""From planned batches to arrays: reading, filling, augmenting, ahead of the training step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from satseg_ray.classes import IGNORE
from satseg_ray.patches.crop import PatchArrays, anywhere, centred, cropped
from satseg_ray.train.augment import Augmenter
from satseg_ray.train.plan import Batch
from satseg_ray.train.samples import BandStatistics, Samples

Item = TypeVar("Item")
Made = TypeVar("Made")


class PatchReader(Protocol):
    """One split of a patch store: patches by id, safe to call from a thread."""

    def __len__(self) -> int: ...

    def read(self, ids: Sequence[int]) -> PatchArrays:
        """Return the patches of these ids, in this order."""

    def key(self, position: int) -> tuple[str, int, int]:
        """Return scene, row and column of a patch."""


def to_samples(patches: PatchArrays, bands: BandStatistics) -> Samples:
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
    """The patches of one split as batches for a network that takes ``side`` pixels.

    ``None`` takes them as they are stored. Training crops larger ones at a random place, a
    function of (seed, epoch, position); evaluation keeps the centre.
    """

    reader: PatchReader
    bands: BandStatistics
    side: int | None = None

    def training(
        self, plan: Sequence[Batch], augmenter: Augmenter, epoch: int, ahead: Ahead = ahead
    ) -> Iterator[Samples]:
        """Yield the augmented samples of each planned batch of an epoch."""

        def make(batch: Batch) -> Samples:
            keys = [(augmenter.seed, epoch, position) for position in batch.positions]
            patches = self._somewhere(batch.ids, keys)
            samples = to_samples(patches, self.bands)
            return augmenter.apply(samples, patches.valid, epoch, batch.positions)

        return ahead(make, plan)

    def evaluation(self, plan: Sequence[Batch], batch_size: int) -> Iterator[Samples]:
        """Yield the samples of each planned batch, the last padded to ``batch_size``."""

        def make(batch: Batch) -> Samples:
            return pad_samples(self.middle(batch.ids), batch_size)

        return ahead(make, plan)

    def middle(self, ids: Sequence[int]) -> Samples:
        """Return the samples of patches as a network is evaluated on them: of their centre."""
        patches = self.reader.read(ids)
        return to_samples(centred(patches, self.side) if self.side else patches, self.bands)

    def _somewhere(self, ids: Sequence[int], keys: Sequence[tuple[int, ...]]) -> PatchArrays:
        patches = self.reader.read(ids)
        stored = patches.mask.shape[1]
        side = self.side or stored
        return cropped(patches, side, [anywhere(stored, side, key) for key in keys])
