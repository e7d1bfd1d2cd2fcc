"""The temperature of a model and its reliability, in numpy alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from satseg_ray.classes import IGNORE
from satseg_ray.model.calibration import (
    BINS,
    COLDEST,
    HOTTEST,
    LogitSample,
    Reliability,
    evenly,
    fit_temperature,
)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def labelled(logits: np.ndarray, seed: int) -> LogitSample:
    """Logits with labels drawn from their own probabilities: calibrated as they are."""
    rng = np.random.default_rng(seed)
    chances = softmax(logits).cumsum(axis=1)
    truth = (rng.random((len(logits), 1)) > chances).sum(axis=1)
    return LogitSample(logits.astype(np.float32), truth.astype(np.uint8))


@pytest.mark.parametrize("true", [0.4, 1.0, 3.0])
def test_the_temperature_that_was_put_in_comes_out(true):
    logits = np.random.default_rng(0).normal(0, 2, (40_000, 4))
    sample = labelled(logits, 1)
    found = fit_temperature(LogitSample((logits * true).astype(np.float32), sample.truth))
    assert found == pytest.approx(true, rel=0.04)


@given(st.integers(0, 50), st.floats(0.3, 4), st.integers(2, 6))
def test_it_is_the_minimum_of_all_temperatures(seed, spread, classes):
    rng = np.random.default_rng(seed)
    sample = labelled(rng.normal(0, spread, (500, classes)), seed)
    scaled = LogitSample(sample.logits * np.float32(2), sample.truth)

    def nll(temperature: float) -> float:
        chances = softmax(scaled.logits.astype(float) / temperature)
        return -np.log(chances[np.arange(500), scaled.truth]).mean()

    found = fit_temperature(scaled)
    assert nll(found) <= min(map(nll, np.geomspace(COLDEST, HOTTEST, 60))) + 1e-9


def test_the_bounds_hold_where_a_sample_has_no_error_or_nothing_but_errors():
    logits = np.array([[3.0, 0], [0, 3]], np.float32)
    assert fit_temperature(LogitSample(logits, np.array([0, 1], np.uint8))) == COLDEST
    assert fit_temperature(LogitSample(logits, np.array([1, 0], np.uint8))) == HOTTEST


def test_without_labels_or_with_logits_that_are_no_numbers_it_is_one():
    empty = LogitSample.of([(np.zeros((1, 2, 2, 3), np.float32), np.full((1, 2, 2), IGNORE))], 9)
    assert len(empty.truth) == 0
    assert fit_temperature(empty) == 1
    bad = LogitSample(np.array([[np.nan, 1]], np.float32), np.zeros(1, np.uint8))
    assert fit_temperature(bad) == 1


def test_a_sample_takes_labelled_pixels_of_each_patch_evenly():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 8, 8, 2)).astype(np.float32)
    mask = rng.integers(0, 2, (3, 8, 8)).astype(np.uint8)
    mask[0, :4] = IGNORE
    mask[2] = IGNORE
    sample = LogitSample.of([(logits[:2], mask[:2]), (logits[2:], mask[2:])], 20)
    assert len(sample.truth) == 40
    rows = logits.reshape(-1, 2)[(mask != IGNORE).reshape(-1)]
    np.testing.assert_array_equal(sample.logits[:20], rows[:32][evenly(32, 20)])
    np.testing.assert_array_equal(sample.truth[20:], mask[1].reshape(-1)[evenly(64, 20)])


@given(st.integers(0, 200), st.integers(1, 50))
def test_even_positions_are_as_many_as_asked_for_and_rise(count, most):
    found = evenly(count, most)
    assert len(found) == min(count, most)
    assert (np.diff(found) > 0).all()
    assert not len(found) or (found[0] >= 0 and found[-1] < count)


def cases(seed: int, count: int = 5000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    confidence = rng.random(count).astype(np.float32)
    truth = np.zeros(count, np.uint8)
    predicted = (rng.random(count) > confidence).astype(np.uint8)
    truth[rng.random(count) < 0.1] = IGNORE
    return truth, predicted, confidence


def test_the_error_is_that_of_a_plain_computation():
    truth, predicted, confidence = cases(0)
    known = truth != IGNORE
    total = 0.0
    for low in range(BINS):
        inside = known & (np.floor(np.rint(confidence * 65536.0) * BINS / 65536.0) == low)
        if inside.any():
            right = (truth == predicted)[inside].mean()
            total += inside.sum() * abs(right - confidence[inside].mean())
    table = Reliability.of(truth, predicted, confidence)
    assert table.error == pytest.approx(total / known.sum(), abs=1e-5)
    assert sum(row["pixels"] for row in table.rows()) == known.sum()


@given(st.integers(0, 5000), st.integers(0, 20))
def test_the_table_of_the_parts_is_that_of_the_whole(cut, seed):
    case = cases(seed)
    parts = [Reliability.of(*(a[p] for a in case)) for p in (slice(0, cut), slice(cut, None))]
    whole = Reliability.total([part.table.tolist() for part in parts])
    np.testing.assert_array_equal(whole.table, Reliability.of(*case).table)


def test_a_right_temperature_lowers_the_error():
    logits = np.random.default_rng(0).normal(0, 2, (20_000, 3))
    sample = labelled(logits, 4)
    hot = LogitSample(sample.logits * np.float32(3), sample.truth)

    def error(temperature: float) -> float:
        chances = softmax(hot.logits / temperature)
        return Reliability.of(hot.truth, chances.argmax(axis=1), chances.max(axis=1)).error

    assert error(fit_temperature(hot)) < 0.02 < 0.1 < error(1.0)


def test_a_probability_that_is_no_number_counts_as_none():
    found = Reliability.of(np.zeros(2, np.uint8), np.zeros(2, np.uint8), np.array([np.nan, 1]))
    assert [row["pixels"] for row in found.rows()] == [1, 1]
    assert found.rows()[0]["confidence"] == 0


def test_certain_pixels_and_none_at_all():
    certain = Reliability.of(np.zeros(3, np.uint8), np.zeros(3, np.uint8), np.ones(3))
    assert certain.error == 0
    assert [row["to"] for row in certain.rows()] == [1]
    assert np.isnan(Reliability.zero().error)
    assert Reliability.zero().rows() == []
