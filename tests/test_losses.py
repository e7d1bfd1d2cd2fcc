"""The loss: what is left out, and that shares of a batch add up to the batch."""

from __future__ import annotations

import os

import numpy as np
import pytest

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
tf = pytest.importorskip("tensorflow")

from satseg_ray.model.losses import (  # noqa: E402
    class_weights,
    finish_loss,
    loss_sums,
    with_own_gradient,
)
from satseg_ray.model.training_spec import LossSpec  # noqa: E402

pytestmark = pytest.mark.tensorflow

WEIGHTS = (0.5, 2.0, 1.0)
SPECS = [
    LossSpec(cross_entropy=1, dice=0),
    LossSpec(cross_entropy=0, dice=1),
    LossSpec(cross_entropy=1, dice=1),
]


def _batch(seed: int = 0, count: int = 4):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, 5, 7, 3)).astype(np.float32)
    mask = rng.choice(np.array([0, 1, 2, 255], np.uint8), (count, 5, 7))
    return tf.constant(logits), tf.constant(mask)


def _loss_and_gradient(logits, mask, spec, weights=WEIGHTS):
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = finish_loss(loss_sums(logits, mask, weights), spec)
    return loss.numpy(), tape.gradient(loss, logits).numpy()


@pytest.mark.parametrize("spec", SPECS)
def test_unlabelled_pixels_get_exactly_zero_gradient(spec):
    logits, mask = _batch()
    _, gradient = _loss_and_gradient(logits, mask, spec)
    unlabelled = mask.numpy() == 255
    assert (gradient[unlabelled] == 0).all()
    assert (gradient[~unlabelled] != 0).any()


@pytest.mark.parametrize("spec", SPECS)
def test_unlabelled_pixels_do_not_change_the_loss(spec):
    logits, mask = _batch()
    changed = tf.where((mask == 255)[..., None], 50.0 - logits, logits)
    loss, _ = _loss_and_gradient(logits, mask, spec)
    assert _loss_and_gradient(changed, mask, spec)[0] == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("spec", SPECS)
def test_no_labelled_pixel_gives_zero_loss_and_zero_gradient(spec):
    logits, mask = _batch()
    loss, gradient = _loss_and_gradient(logits, tf.fill(mask.shape, np.uint8(255)), spec)
    assert loss == 0
    assert (gradient == 0).all()


def test_cross_entropy_is_the_mean_over_labelled_pixels():
    logits, mask = _batch()
    labelled = mask.numpy() != 255
    truth = mask.numpy()[labelled]
    expected = tf.keras.losses.sparse_categorical_crossentropy(
        truth, logits.numpy()[labelled], from_logits=True
    ).numpy()
    plain, _ = _loss_and_gradient(logits, mask, SPECS[0], None)
    assert plain == pytest.approx(expected.mean(), rel=1e-5)
    weighted, _ = _loss_and_gradient(logits, mask, SPECS[0])
    assert weighted == pytest.approx((expected * np.array(WEIGHTS)[truth]).mean(), rel=1e-5)


def test_dice_is_zero_when_right_and_leaves_out_absent_classes():
    mask = tf.constant(np.array([[[0, 0, 2, 255]]], np.uint8))
    right = 100.0 * tf.one_hot(tf.cast(mask, tf.int32), 3)
    assert _loss_and_gradient(right, mask, SPECS[1])[0] == pytest.approx(0, abs=1e-6)
    wrong = 100.0 * tf.one_hot(tf.fill(mask.shape, 1), 3)
    assert _loss_and_gradient(wrong, mask, SPECS[1])[0] == pytest.approx(1)


@pytest.mark.parametrize("spec", SPECS)
def test_gradients_of_uneven_shares_add_up_to_that_of_the_batch(spec):
    logits, mask = _batch(1)
    mask = tf.concat([mask[:1], tf.fill((1, 5, 7), np.uint8(255)), mask[2:]], 0)
    loss, expected = _loss_and_gradient(logits, mask, spec)
    shares = [slice(0, 1), slice(1, 2), slice(2, 4)]
    total = sum(loss_sums(logits[s], mask[s], WEIGHTS) for s in shares)
    for share in shares:
        with tf.GradientTape() as tape:
            own_logits = logits[share]
            tape.watch(own_logits)
            own = loss_sums(own_logits, mask[share], WEIGHTS)
            own_loss = finish_loss(with_own_gradient(own, total), spec)
        np.testing.assert_allclose(own_loss, loss, rtol=1e-6)
        gradient = tape.gradient(own_loss, own_logits)
        np.testing.assert_allclose(gradient, expected[share], rtol=1e-4, atol=1e-7)


def test_balanced_weights_even_out_the_classes():
    counts = (300, 100, 0)
    weights = class_weights(counts)
    assert weights[0] * counts[0] == pytest.approx(weights[1] * counts[1])
    assert weights[2] == 0
    assert sum(w * n for w, n in zip(weights, counts, strict=True)) == pytest.approx(sum(counts))
