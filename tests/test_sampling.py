"""Which training patches are used and how often: nested shares, rare classes, the store's masks."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from satseg_ray.classes import ClassDef, ClassTable
from satseg_ray.geo.grid import Window
from satseg_ray.model.training_spec import TrainingSpec
from satseg_ray.patches.schema import Patch, patch_schema
from satseg_ray.patches.split import PatchKey
from satseg_ray.patches.store import SplitReader, write_part
from satseg_ray.train.plan import EpochPlan, Worker, drawn_ids
from satseg_ray.train.sampling import ChosenPatches, chosen_ids, draw_chances

CLASSES = ClassTable(tuple(ClassDef(value, f"c{value}") for value in range(3)))
SIDE = 8

counted = st.integers(1, 12).flatmap(
    lambda n: arrays(np.int64, (n, 3), elements=st.integers(0, 500))
)
strengths = st.floats(0, 1)


def _masks(count: int) -> np.ndarray:
    """Return masks of which the last class is in every fifth alone."""
    rng = np.random.default_rng(0)
    masks = rng.choice(np.array([0, 1, 255], np.uint8), (count, SIDE, SIDE), p=[0.6, 0.2, 0.2])
    masks[::5, :2] = 2
    return masks


def _split(folder: Path, masks: np.ndarray) -> SplitReader:
    """Write patches whose image is their number, in two files."""
    schema = patch_schema(SIDE, 1, "uint8")
    patches = [
        Patch(
            PatchKey("train", "toy", Window(0, number * SIDE, SIDE, SIDE)),
            np.full((SIDE, SIDE, 1), number, np.uint8),
            mask,
            np.ones(mask.shape, np.bool_),
        )
        for number, mask in enumerate(masks)
    ]
    paths = [folder / "a.parquet", folder / "b.parquet"]
    for path, part in zip(paths, (patches[:7], patches[7:]), strict=True):
        write_part(path, part, schema)
    return SplitReader(paths)


@given(st.integers(1, 300), st.integers(0, 2**32), st.lists(st.floats(0.001, 1), min_size=2))
def test_a_smaller_share_is_part_of_a_larger(patches, seed, shares):
    chosen = [set(chosen_ids(patches, share, seed).tolist()) for share in sorted(shares)]
    assert all(small <= large for small, large in pairwise(chosen))
    for share, ids in zip(sorted(shares), chosen, strict=True):
        assert len(ids) == max(1, round(share * patches))
        assert ids <= set(range(patches))


def test_the_seed_chooses_the_share_and_all_are_all():
    assert chosen_ids(100, 0.1, 0).tolist() != chosen_ids(100, 0.1, 1).tolist()
    assert chosen_ids(100, 1.0, 5).tolist() == list(range(100))
    assert len(chosen_ids(0, 0.5, 0)) == 0


@given(counted, strengths)
def test_chances_are_a_mixture_and_add_up_to_one(counts, rare):
    chances = draw_chances(counts, rare)
    assert chances.sum() == pytest.approx(1)
    assert (chances >= (1 - rare) / len(counts) - 1e-12).all()
    even, by_class = draw_chances(counts, 0), draw_chances(counts, 1)
    np.testing.assert_allclose(even, 1 / len(counts))
    np.testing.assert_allclose(chances, (1 - rare) * even + rare * by_class, atol=1e-12)


def test_chances_by_class_are_those_of_drawing_a_class_then_a_pixel():
    counts = np.array([[90, 0, 0], [80, 10, 0], [0, 3, 0], [0, 0, 0]])
    rng, hits = np.random.default_rng(0), np.zeros(4)
    for _ in range(20000):
        kind = rng.integers(2)
        pixels = np.repeat(np.arange(4), counts[:, kind])
        hits[rng.choice(pixels)] += 1
    np.testing.assert_allclose(draw_chances(counts, 1.0), hits / 20000, atol=0.01)


@given(counted, strengths, st.integers(1, 200), st.integers(0, 99))
def test_a_patch_is_drawn_as_often_as_its_chance_says(counts, rare, count, seed):
    chances = draw_chances(counts, rare)
    ids = drawn_ids(chances, count, np.random.default_rng(seed))
    assert len(ids) == count
    times = np.bincount(ids, minlength=len(counts))
    assert (np.abs(times - count * chances) < 1 + 1e-6).all()


@given(counted, st.integers(1, 9), st.integers(0, 99), st.data())
def test_drawn_epochs_do_not_depend_on_the_number_of_workers(counts, batch_size, seed, data):
    workers = data.draw(st.integers(1, batch_size))
    steps = data.draw(st.none() | st.integers(1, 20))
    plan = EpochPlan(len(counts), batch_size, seed, draw_chances(counts, 0.5), steps)
    again = EpochPlan(len(counts), batch_size, seed, draw_chances(counts, 0.5), steps)
    whole = [batch.ids for batch in again.batches(4, Worker())]
    shares = [plan.batches(4, Worker(rank, workers)) for rank in range(workers)]
    assert [sum((b.ids for b in step), ()) for step in zip(*shares, strict=True)] == whole
    assert len(whole) == plan.steps == (steps or -(-len(counts) // batch_size))


def test_epochs_of_a_given_length_pass_over_all_patches_alike():
    plan = EpochPlan(10, 4, seed=1, epoch_steps=7)
    times = np.bincount(plan.order(0).ravel(), minlength=10)
    assert plan.order(0).shape == (7, 4)
    assert set(times.tolist()) <= {2, 3}
    assert (plan.order(0) != plan.order(1)).any()
    few = EpochPlan(10, 4, seed=1, epoch_steps=1)
    assert len({int(i) for epoch in range(9) for i in few.order(epoch).ravel()}) == 10


def test_patches_with_a_rare_class_come_more_often(tmp_path):
    masks = _masks(20)
    spec = TrainingSpec(rare_sampling=0.8)
    patches = ChosenPatches.of(_split(tmp_path, masks), spec, len(CLASSES))
    order = EpochPlan(20, 5, 0, patches.chances(spec)).order(0).ravel()
    assert (order % 5 == 0).mean() > 0.35
    shares = [(masks[order] == kind).mean() for kind in range(3)]
    assert shares[2] > 1.7 * (masks == 2).mean()


def test_counts_are_those_of_the_masks_in_files_of_any_layout(tmp_path):
    masks = _masks(20)
    expected = np.array([[(mask == kind).sum() for kind in range(3)] for mask in masks])
    spec = TrainingSpec(train_share=0.5, seed=3)
    for rewrite in (False, True):
        split = _split(tmp_path, masks)
        if rewrite:
            path = tmp_path / "a.parquet"
            pq.write_table(pq.read_table(path), path, compression="zstd")
            split = SplitReader(sorted(tmp_path.glob("*.parquet")))
        chosen = ChosenPatches.of(split, spec, 3)
        assert len(chosen) == 10
        np.testing.assert_array_equal(chosen.counts, expected[chosen.ids])
        read = chosen.read([4, 0])
        assert read.image[:, 0, 0, 0].tolist() == chosen.ids[[4, 0]].tolist()
        np.testing.assert_array_equal(read.mask, masks[chosen.ids[[4, 0]]])


def test_without_rare_sampling_no_mask_is_read():
    spec = TrainingSpec()
    assert ChosenPatches.of(SplitReader([]), spec, 3).chances(spec) is None
