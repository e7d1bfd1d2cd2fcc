"""Diagnostics: a monoid of integers; curves, calibration and extremes read from it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from satseg_ray.classes import IGNORE
from satseg_ray.model.diagnostics import (
    SCORE_BINS,
    Diagnostics,
    Extremes,
    PatchScore,
    flat_metrics,
    score_edges,
)

CLASSES = 3
SEEDS = st.integers(0, 2**32 - 1)


def made(seed: int, patches: int, side: int = 9, sharp: float = 2.0):
    """Return probabilities and labels of so many patches, some pixels unlabelled."""
    rng = np.random.default_rng(seed)
    mask = rng.choice([*range(CLASSES), IGNORE], size=(patches, side, side)).astype(np.uint8)
    logits = rng.normal(0, sharp, (patches, side, side, CLASSES))
    logits += sharp * (mask[..., None] == np.arange(CLASSES))
    weights = np.exp(logits)
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32), mask


@given(SEEDS, st.integers(0, 6), st.integers(0, 6), st.integers(0, 3))
def test_parts_add_to_the_whole_in_any_order(seed, patches, cut, kept):
    scores, mask = made(seed, patches)
    keys = list(np.random.default_rng(seed).permutation(100)[:patches])
    parts = [
        Diagnostics.of(scores[part], mask[part], keys[part], kept)
        for part in (slice(cut), slice(cut, None))
    ]
    whole = Diagnostics.of(scores, mask, keys, kept)
    assert parts[0] + parts[1] == whole == parts[1] + parts[0]
    assert whole + Diagnostics.zero(CLASSES, kept) == whole


@given(SEEDS, st.floats(0.1, 8))
def test_every_labelled_pixel_is_counted_once_in_each_table(seed, sharp):
    scores, mask = made(seed, 2, sharp=sharp)
    found = Diagnostics.of(scores, mask, (0, 1))
    labelled = int((mask != IGNORE).sum())
    assert found.confusion.pixels == labelled == found.sureness[..., 0].sum()
    np.testing.assert_array_equal(found.scores.sum(axis=(1, 2)), labelled)
    np.testing.assert_array_equal(found.scores[:, 1].sum(axis=1), found.confusion.counts.sum(1))
    np.testing.assert_array_equal(found.sureness[..., 1].sum(1), np.diag(found.confusion.counts))


def exact_average_precision(scores: Any, positive: Any) -> float:
    """Sum over the positives, by falling score, of the precision there; equal scores together."""
    total = 0.0
    for threshold in np.unique(scores[positive]):
        chosen = scores >= threshold
        share = (positive & (scores == threshold)).sum() / positive.sum()
        total += share * (positive & chosen).sum() / chosen.sum()
    return total


@given(SEEDS, st.floats(0.3, 4))
def test_curve_is_exact_at_the_edges_of_the_bins(seed, sharp):
    scores, mask = made(seed, 1, sharp=sharp)
    known = mask != IGNORE
    found = Diagnostics.of(scores, mask, (0,))
    for index, curve in enumerate(found.curves):
        own, positive = scores[known][:, index], mask[known] == index
        for threshold, precision, recall in zip(
            curve.threshold, curve.precision, curve.recall, strict=True
        ):
            chosen = own >= np.float32(threshold)
            assert precision == (chosen & positive).sum() / chosen.sum()
            if positive.any():
                assert recall == (chosen & positive).sum() / positive.sum()


def ranked_average_precision(positive: Any) -> float:
    """Return the mean precision at the positives of a sequence in order."""
    precisions = np.cumsum(positive) / np.arange(1, len(positive) + 1)
    return float(precisions[positive].mean())


@given(SEEDS)
def test_average_precision_is_the_exact_one_where_a_bin_holds_one_pixel(seed):
    rng = np.random.default_rng(seed)
    own = rng.choice(np.unique(score_edges()), 80, replace=False)
    scores = np.stack([own, 1 - own], axis=-1)[None, None]
    mask = rng.integers(0, 2, (1, 1, 80)).astype(np.uint8)
    found = Diagnostics.of(scores, mask, (0,)).average_precision[0]
    assert found == pytest.approx(exact_average_precision(own, mask.ravel() == 0), abs=1e-9)


@given(SEEDS, st.floats(0.2, 8))
def test_average_precision_lies_between_the_best_and_the_worst_order_in_the_bins(seed, sharp):
    scores, mask = made(seed, 1, side=20, sharp=sharp)
    known = mask != IGNORE
    own, positive = scores[known][:, 0], mask[known] == 0
    bins = np.searchsorted(score_edges(), own, side="right")
    best = positive[np.lexsort((~positive, -bins))]
    worst = positive[np.lexsort((positive, -bins))]
    found = Diagnostics.of(scores, mask, (0,)).average_precision[0]
    lowest, highest = ranked_average_precision(worst), ranked_average_precision(best)
    assert lowest - 1e-9 <= found <= highest + 1e-9
    assert lowest - 1e-9 <= exact_average_precision(own, positive) <= highest + 1e-9


def test_average_precision_is_that_of_the_mean_order_in_a_bin():
    rng = np.random.default_rng(0)
    positive = np.repeat([True, False], [7, 13])
    scores = np.broadcast_to(np.array([0.7, 0.3], np.float32), (1, 1, 20, 2))
    found = Diagnostics.of(scores, np.where(positive, 0, 1)[None, None], (0,))
    orders = [ranked_average_precision(rng.permutation(positive)) for _ in range(20_000)]
    assert found.average_precision[0] == pytest.approx(sum(orders) / len(orders), abs=2e-3)


@pytest.mark.parametrize("sharp", [0.5, 2.0, 6.0])
def test_average_precision_is_near_the_exact_one_on_any_scores(sharp):
    scores, mask = made(1, 1, side=70, sharp=sharp)
    known = mask != IGNORE
    found = Diagnostics.of(scores, mask, (0,)).average_precision
    for index in range(CLASSES):
        exact = exact_average_precision(scores[known][:, index], mask[known] == index)
        assert found[index] == pytest.approx(exact, abs=0.002)


def test_a_class_without_a_label_has_no_average_precision_and_no_metric():
    scores, mask = made(3, 1)
    mask[mask == 2] = IGNORE
    found = Diagnostics.of(scores, mask, (0,))
    assert math.isnan(found.average_precision[2])
    named = flat_metrics(found, ("a", "b", "c"))
    assert "average_precision_c" not in named
    assert {"mean_iou", "ece", "iou_a", "f1_b", "average_precision_b", "ece_c"} <= set(named)
    assert found.to_dict(("a", "b", "c"))["average_precision"]["c"] is None


@given(SEEDS, st.floats(0.3, 5))
def test_calibration_error_is_that_of_the_definition(seed, sharp):
    scores, mask = made(seed, 1, side=20, sharp=sharp)
    known = mask != IGNORE
    sure, right = scores[known].max(-1), scores[known].argmax(-1) == mask[known]
    bins = np.minimum((sure * 20).astype(int), 19)
    expected = sum(
        (bins == b).mean() * abs(right[bins == b].mean() - sure[bins == b].mean())
        for b in np.unique(bins)
    )
    found = Diagnostics.of(scores, mask, (0,))
    assert found.ece == pytest.approx(expected, abs=0.01)  # a pixel at an edge may change its bin


def test_probabilities_that_are_as_often_right_as_they_say_have_no_error():
    mask = np.zeros((1, 10, 10), np.uint8)
    mask[0, :2] = 1
    scores = np.broadcast_to(np.array([0.8, 0.2]), (1, 10, 10, 2))
    assert Diagnostics.of(scores, mask, (0,)).ece == pytest.approx(0, abs=1e-5)


@given(st.lists(st.floats(0, 9), max_size=12), SEEDS)
def test_extremes_do_not_depend_on_the_order(losses, seed):
    scores = [PatchScore(k, loss, 1 - loss / 9, True, True) for k, loss in enumerate(losses)]
    shuffled = [scores[i] for i in np.random.default_rng(seed).permutation(len(scores))]
    whole = sum((Extremes.of([score], 3) for score in shuffled), Extremes(3))
    assert whole == Extremes.of(scores, 3)
    ious = sorted((1 - loss / 9 for loss in losses), reverse=True)
    assert [s.mean_iou for s in whole.best] == ious[:3]
    assert [s.loss for s in whole.worst] == sorted(losses, reverse=True)[:3]


def test_patches_with_little_to_show_come_last():
    full = PatchScore(0, 1.0, 0.5, telling=True, varied=True)
    one_class = PatchScore(1, 0.1, 1.0, telling=True, varied=False)
    specks = PatchScore(2, 5.0, 0.0, telling=False, varied=True)
    found = Extremes.of([full, one_class, specks], 3)
    assert [s.key for s in found.best] == [0, 1, 2]
    assert [s.key for s in found.worst] == [0, 1, 2]


def test_an_unlabelled_patch_is_neither_best_nor_worst():
    scores, mask = made(5, 2)
    mask[1] = IGNORE
    found = Diagnostics.of(scores, mask, (7, 8))
    assert [s.key for s in found.patches.best] == [7] == [s.key for s in found.patches.worst]
    assert found.confusion.unlabelled > mask[1].size


def test_a_probability_that_is_no_number_is_refused_with_its_patch():
    scores, mask = made(5, 2)
    scores[1, :, :, 0] = np.nan
    with pytest.raises(ValueError, match="patch 8"):
        Diagnostics.of(scores, mask, (7, 8))


def test_shapes_that_do_not_fit_are_refused():
    scores, mask = made(5, 2)
    with pytest.raises(ValueError, match="same patches"):
        Diagnostics.of(scores, mask, (1,))
    with pytest.raises(ValueError, match="add up"):
        Diagnostics.zero(2, 3) + Diagnostics.zero(2, 4)


def _of(seed: int) -> Diagnostics:
    scores, mask = made(seed, 1)
    return Diagnostics.of(scores, mask, (seed,), 2)


def test_size_does_not_grow_with_the_split():
    one = _of(0)
    many = sum((_of(seed) for seed in range(20)), Diagnostics.zero(CLASSES, 2))
    assert many.scores.nbytes == one.scores.nbytes == CLASSES * 2 * SCORE_BINS * 8
    assert len(many.patches.best) == len(many.patches.worst) == 2
