"""Intervals over blocks: against a plain bootstrap, and by how often they cover the truth."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from satseg_ray.model.bootstrap import (
    Resampling,
    differences,
    estimates,
    figures,
)
from satseg_ray.model.metrics import Confusion

NAMES = ("a", "b", "c")
COUNTS = arrays(
    np.int64, st.tuples(st.integers(1, 8), st.just(3), st.just(3)), elements=st.integers(0, 50)
)


STUDENT = {5: 2.1318, 6: 2.0150, 7: 1.9432, 8: 1.8946}
"""Student's t at 0.95 of so many blocks, from a table."""


def plain_draws(blocks: np.ndarray, how: Resampling) -> list[Confusion]:
    """Resample by adding up whole matrices one by one."""
    rng = np.random.default_rng(how.seed)
    found = []
    for _ in range(how.resamples):
        total = Confusion.zero(3)
        for place in rng.integers(len(blocks), size=len(blocks)):
            total += Confusion(blocks[place])
        found.append(total)
    return found


@given(COUNTS)
def test_figures_of_many_matrices_are_those_of_each(blocks):
    found = figures(blocks, NAMES)
    for i, counts in enumerate(blocks):
        one = Confusion(counts)
        np.testing.assert_array_equal(found["mean_iou"][i], one.mean_iou)
        np.testing.assert_array_equal(found["mean_f1"][i], one.mean_f1)
        np.testing.assert_array_equal(found["accuracy"][i], one.accuracy)
        for k, name in enumerate(NAMES):
            np.testing.assert_array_equal(found[f"iou_{name}"][i], one.iou[k])
            np.testing.assert_array_equal(found[f"f1_{name}"][i], one.f1[k])


@given(COUNTS, st.integers(0, 5))
def test_intervals_are_those_of_a_plain_bootstrap(blocks, seed):
    how = Resampling(400, seed, 0.9)
    drawn = plain_draws(blocks, how)
    found = estimates(blocks, NAMES, how)
    assert found["mean_iou"].value == pytest.approx(
        Confusion(blocks.sum(axis=0)).mean_iou, nan_ok=True
    )
    if len(blocks) < 5:
        assert np.isnan(found["mean_iou"].low)
        return
    tail = 100 * NormalDist().cdf(-STUDENT[len(blocks)] * (len(blocks) / (len(blocks) - 1)) ** 0.5)
    for name, values in {
        "mean_iou": [draw.mean_iou for draw in drawn],
        "iou_b": [draw.iou[1] for draw in drawn],
        "f1_c": [draw.f1[2] for draw in drawn],
        "accuracy": [draw.accuracy for draw in drawn],
    }.items():
        known = [value for value in values if value == value]
        want = np.percentile(known, [tail, 100 - tail]) if known else [np.nan, np.nan]
        np.testing.assert_allclose([found[name].low, found[name].high], want, rtol=0, atol=2e-3)


def test_the_difference_is_of_the_same_draws():
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 90, (2, 12, 3, 3))
    how = Resampling(60, 3)
    mine, theirs = plain_draws(one, how), plain_draws(other, how)
    values = [a.mean_iou - b.mean_iou for a, b in zip(mine, theirs, strict=True)]
    found = differences(one, other, NAMES, how)["mean_iou"]
    ends = [100 * how.tail(12), 100 - 100 * how.tail(12)]
    assert [found.low, found.high] == pytest.approx(np.percentile(values, ends))
    back = differences(other, one, NAMES, how)["mean_iou"]
    assert (back.value, back.low, back.high) == pytest.approx(
        (-found.value, -found.high, -found.low)
    )


@given(COUNTS)
def test_a_model_is_not_better_than_itself(blocks):
    for found in differences(blocks, blocks, NAMES, Resampling(20)).values():
        assert found.value == 0 or np.isnan(found.value)
        assert found.low == found.high == 0 or np.isnan(found.low)


def hard_blocks(rng: np.random.Generator, share: np.ndarray) -> np.ndarray:
    """Blocks of 400 pixels of two classes, of which ``share`` (blocks,) are right."""
    right = rng.binomial(200, share[:, None], (len(share), 2))
    return np.stack([np.array([[a, 200 - a], [200 - b, b]]) for a, b in right])


@pytest.mark.parametrize("count", [6, 10, 40])
def test_intervals_cover_the_truth_about_as_often_as_they_say(count):
    """Blocks differ far more than their pixels do: an interval over pixels would miss."""
    rng = np.random.default_rng(1)
    truth = 0.7  # the mean of beta(7, 3)
    runs, hits, naive = 300, 0, 0
    for _ in range(runs):
        blocks = hard_blocks(rng, rng.beta(7, 3, count))
        found = estimates(blocks, ("a", "b"), Resampling(300))["accuracy"]
        hits += found.low <= truth <= found.high
        naive += abs(found.value - truth) < 1.96 * (0.21 / blocks.sum()) ** 0.5
    assert 0.89 <= hits / runs <= 0.98
    assert naive / runs < 0.6


def test_pairs_find_a_small_difference_that_the_intervals_of_each_hide():
    rng = np.random.default_rng(2)
    share = rng.beta(5, 3, 60) * 0.9
    one, other = hard_blocks(rng, share + 0.05), hard_blocks(rng, share)
    names = ("a", "b")
    how = Resampling(500)
    low = estimates(one, names, how)["mean_iou"].low
    assert low < estimates(other, names, how)["mean_iou"].high
    assert differences(one, other, names, how)["mean_iou"].low > 0


@pytest.mark.parametrize("count", [6, 10, 40])
def test_equal_models_are_called_better_about_as_rarely_as_the_level_says(count):
    rng = np.random.default_rng(3)
    better = 0
    for _ in range(200):
        share = rng.beta(7, 3, count)
        one, other = hard_blocks(rng, share), hard_blocks(rng, share)
        better += differences(one, other, ("a", "b"), Resampling(200))["mean_iou"].low > 0
    assert better / 200 < 0.055


def test_intervals_of_few_blocks_are_moved_outwards_as_students_t_says():
    for count, t in STUDENT.items():
        expanded = NormalDist().cdf(-t * (count / (count - 1)) ** 0.5)
        assert Resampling(level=0.9).tail(count) == pytest.approx(expanded, rel=0.01)
    assert Resampling().tail(10_000) == pytest.approx(0.025, rel=0.01)
    assert [Resampling(level=level).least for level in (0.75, 0.9, 0.95, 0.99)] == [3, 5, 6, 8]


def test_many_blocks_are_drawn_as_few_at_a_time(monkeypatch):
    blocks = np.random.default_rng(0).integers(0, 9, (30, 3, 3))
    whole = estimates(blocks, NAMES, Resampling(50))
    monkeypatch.setattr("satseg_ray.model.bootstrap._AT_ONCE", 64)
    assert estimates(blocks, NAMES, Resampling(50)) == whole
