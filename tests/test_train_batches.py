"""Batches: what augmentation keeps, what a step is fed, how far ahead is read."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import pytest

from satseg_ray.model.training_spec import AugmentSpec
from satseg_ray.train.augment import Augmenter
from satseg_ray.train.batches import BatchSource, ahead, pad_samples, to_samples
from satseg_ray.train.geometry import symmetry
from satseg_ray.train.plan import EpochPlan, Worker, validation_batches
from satseg_ray.train.samples import BandStatistics, Samples

BANDS = BandStatistics(mean=(100.4, 50.0), std=(10.0, 5.0), fill=(100.0, 50.0))


@dataclass
class FakePatches:
    image: np.ndarray
    mask: np.ndarray
    valid: np.ndarray


class FakeReader:
    """Patches whose mask is a function of the first band, so that both must move alike."""

    def __init__(self, count: int, side: int = 6) -> None:
        rng = np.random.default_rng(5)
        self.image = rng.integers(0, 200, (count, side, side, 2)).astype(np.uint16)
        self.mask = (self.image[..., 0] % 3).astype(np.uint8)

    def __len__(self) -> int:
        return len(self.image)

    def key(self, position):
        return "toy", 0, position

    def read(self, ids):
        chosen = list(ids)
        valid = np.ones(self.mask[chosen].shape, np.bool_)
        return FakePatches(self.image[chosen], self.mask[chosen], valid)


def _augmenter(**spec) -> Augmenter:
    return Augmenter(AugmentSpec(**{"gain": 0.0, "bias": 0.0} | spec), BANDS, seed=3)


def _epoch(workers: int, augmenter: Augmenter) -> list[Samples]:
    """Return the steps of one epoch, the workers' samples put together."""
    reader, plan = FakeReader(11), EpochPlan(11, 4, seed=2)
    shares = [
        list(BatchSource(reader, BANDS).training(plan.batches(1, Worker(r, workers)), augmenter, 1))
        for r in range(workers)
    ]
    return [
        Samples(np.concatenate([s.image for s in step]), np.concatenate([s.mask for s in step]))
        for step in zip(*shares, strict=True)
    ]


def test_symmetries_are_the_eight_of_the_square():
    square = np.arange(9).reshape(3, 3)
    assert len({symmetry(square, turn).tobytes() for turn in range(8)}) == 8
    assert (symmetry(square, 0) == square).all()


def test_image_and_mask_move_alike_and_some_do_move():
    plain, moved = (_epoch(1, _augmenter(symmetries=on)) for on in (False, True))
    assert all((s.image[..., 0] % 3 == s.mask).all() for s in moved)
    assert any((a.mask != b.mask).any() for a, b in zip(plain, moved, strict=True))


@pytest.mark.parametrize("workers", [2, 3, 4])
def test_samples_do_not_depend_on_the_number_of_workers(workers):
    augmenter = _augmenter(gain=0.2, bias=0.3)
    for one, many in zip(_epoch(1, augmenter), _epoch(workers, augmenter), strict=True):
        np.testing.assert_array_equal(one.image, many.image)
        np.testing.assert_array_equal(one.mask, many.mask)


def test_augmentation_differs_between_epochs_and_leaves_its_input_alone():
    samples = to_samples(FakeReader(4).read(range(4)), BANDS)
    before = samples.image.copy()
    augmenter = _augmenter(gain=0.2, bias=0.3)
    first, second = (
        augmenter.apply(samples, np.ones((4, 6, 6), bool), epoch, range(4)) for epoch in (0, 1)
    )
    assert (first.image != second.image).any()
    np.testing.assert_array_equal(samples.image, before)


def test_gain_and_bias_stay_within_their_spec():
    flat = Samples(
        np.tile(np.array(BANDS.mean, np.float32), (64, 4, 4, 1)), np.zeros((64, 4, 4), np.uint8)
    )
    shifted = _augmenter(gain=0.5, bias=0.2).apply(flat, flat.mask == 0, 0, range(64))
    shift = (shifted.image - flat.image) / np.array(BANDS.std)
    assert 0.1 < np.abs(shift).max() <= 0.2001


def test_invalid_pixels_are_the_rounded_mean_and_unlabelled():
    patches = FakeReader(1).read([0])
    patches.valid[0, 2, 3] = False
    samples = to_samples(patches, BANDS)
    assert samples.image[0, 2, 3].tolist() == [100.0, 50.0]
    assert samples.mask[0, 2, 3] == 255
    assert (samples.mask == 255).sum() == 1


def test_last_validation_batch_is_padded_with_unlabelled_patches():
    plan = validation_batches(5, 4, Worker())
    batches = list(BatchSource(FakeReader(5), BANDS).evaluation(plan, 4))
    assert [b.image.shape[0] for b in batches] == [4, 4]
    assert (batches[1].mask[1:] == 255).all()
    assert (pad_samples(batches[0], 4).image == batches[0].image).all()


def test_ahead_keeps_order_and_is_bounded():
    made: list[int] = []

    def make(item: int) -> int:
        made.append(item)
        return item

    results = ahead(make, range(100), depth=3)
    assert next(results) == 0
    assert len(made) <= 4
    assert list(results) == list(range(1, 100))


def test_ahead_raises_at_the_item_that_failed():
    def make(item: int) -> int:
        if item == 2:
            raise OSError("damaged")
        return item

    results = ahead(make, range(5))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(OSError, match="damaged"):
        next(results)


def test_leaving_early_stops_the_thread():
    results = ahead(lambda i: i, range(1000))
    next(results)
    results.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("batches")]
