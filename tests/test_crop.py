"""Crops of stored patches: image, mask and validity alike, random ones keyed, centres centred."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from satseg_ray.model.training_spec import AugmentSpec
from satseg_ray.patches.crop import anywhere, centre, centred, cropped
from satseg_ray.patches.store import PatchBatch
from satseg_ray.train.augment import Augmenter
from satseg_ray.train.batches import BatchSource
from satseg_ray.train.plan import EpochPlan, Worker, validation_batches
from satseg_ray.train.samples import BandStatistics

STORED, SIDE = 56, 48
BANDS = BandStatistics((0.0, 0.0), (1.0, 1.0), (0.0, 0.0))


def numbered(count: int) -> PatchBatch:
    """Patches whose pixels say where they are, in image and mask alike."""
    place = np.arange(count * STORED * STORED).reshape(count, STORED, STORED)
    image = np.stack([place, place + 1], axis=-1).astype(np.int32)
    return PatchBatch(image, (place % 251).astype(np.uint8), place % 7 > 0)


class Reader:
    def __len__(self) -> int:
        return 10

    def read(self, ids) -> PatchBatch:
        patches = numbered(10)
        chosen = list(ids)
        return PatchBatch(patches.image[chosen], patches.mask[chosen], patches.valid[chosen])

    def key(self, position: int) -> tuple[str, int, int]:
        return "scene", position, 0


sizes = st.integers(1, 300).flatmap(lambda side: st.tuples(st.integers(side, 400), st.just(side)))


@given(sizes, st.lists(st.integers(0, 99), min_size=1, max_size=3))
def test_a_crop_lies_inside_its_patch(pair, key):
    stored, side = pair
    for row, col in (anywhere(stored, side, key), centre(stored, side)):
        assert 0 <= row <= stored - side
        assert 0 <= col <= stored - side


def test_random_corners_are_keyed_and_reach_every_place():
    corners = [anywhere(9, 6, (1, 2, position)) for position in range(400)]
    assert corners == [anywhere(9, 6, (1, 2, position)) for position in range(400)]
    assert set(corners) == {(row, col) for row in range(4) for col in range(4)}
    assert corners != [anywhere(9, 6, (1, 3, position)) for position in range(400)]


def test_image_mask_and_validity_are_cut_alike():
    patches = numbered(3)
    cut = cropped(patches, 40, [(0, 0), (16, 3), (5, 16)])
    assert cut.image.shape == (3, 40, 40, 2)
    for i, (row, col) in enumerate([(0, 0), (16, 3), (5, 16)]):
        assert cut.image[i, 0, 0, 0] == patches.image[i, row, col, 0]
    assert np.array_equal(cut.mask, cut.image[..., 0] % 251)
    assert np.array_equal(cut.valid, cut.image[..., 0] % 7 > 0)


def test_patches_of_the_right_size_are_not_copied():
    patches = numbered(2)
    assert centred(patches, STORED) is patches


def test_training_crops_elsewhere_in_each_epoch_and_evaluation_in_the_middle():
    source = BatchSource(Reader(), BANDS, SIDE)
    augmenter = Augmenter(AugmentSpec(symmetries=False, gain=0, bias=0), BANDS, seed=3)
    plan = EpochPlan(10, 5)

    def corners(epoch: int) -> list[float]:
        batches = source.training(plan.batches(0, Worker()), augmenter, epoch)
        return [float(image[0, 0, 1]) for samples in batches for image in samples.image]

    assert corners(0) == corners(0) != corners(1)
    [middle, *_] = source.evaluation(validation_batches(10, 4, Worker()), 4)
    assert middle.image.shape == (4, SIDE, SIDE, 2)
    assert middle.image[0, 0, 0, 1] == numbered(1).image[0, 4, 4, 1]


def test_workers_crop_as_one_worker_does():
    source = BatchSource(Reader(), BANDS, SIDE)
    augmenter = Augmenter(AugmentSpec(), BANDS, seed=3)
    plan = EpochPlan(10, 5)
    alone = list(source.training(plan.batches(2, Worker()), augmenter, 2))
    shares = [source.training(plan.batches(2, Worker(r, 2)), augmenter, 2) for r in range(2)]
    for whole, *parts in zip(alone, *shares, strict=True):
        assert np.array_equal(whole.image, np.concatenate([p.image for p in parts]))
        assert np.array_equal(whole.mask, np.concatenate([p.mask for p in parts]))
