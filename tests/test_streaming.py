"""Batches through Ray Data are the bytes that a thread of the worker makes, in the same order."""

from __future__ import annotations

import numpy as np
import pytest

from satseg_ray.model.training_spec import AugmentSpec
from satseg_ray.patches.store import PatchStore
from satseg_ray.train.augment import Augmenter
from satseg_ray.train.batches import BatchSource
from satseg_ray.train.plan import EpochPlan, Worker
from satseg_ray.train.samples import BandStatistics
from tests.test_train_loop import make_task, write_patches

pytestmark = pytest.mark.ray


@pytest.mark.parametrize("readers", [1, 2])
def test_streamed_batches_have_the_bytes_of_a_thread(ray_cluster, tmp_path, readers):
    from satseg_ray.train.streaming import RayAhead

    directory = write_patches(tmp_path / "patches", train=11)
    bands = BandStatistics.of(make_task(directory, tmp_path / "model").spec)
    source = BatchSource(PatchStore.open(directory).split("train"), bands)
    augmenter = Augmenter(AugmentSpec(), bands, seed=1)
    batches = EpochPlan(11, 4, seed=2).batches(3, Worker(1, 2))
    streamed = list(source.training(batches, augmenter, 3, RayAhead(readers)))
    plain = list(source.training(batches, augmenter, 3))
    assert len(streamed) == len(plain) == 3
    for one, other in zip(streamed, plain, strict=True):
        assert one.image.dtype == np.float32
        assert one.mask.dtype == np.uint8
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.mask, other.mask)
