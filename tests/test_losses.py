"""The loss: equal to its definition, blind to what is unlabelled, and a sum of shares."""

from __future__ import annotations

import os

import numpy as np
import pytest
from pydantic import ValidationError

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
tf = pytest.importorskip("tensorflow")

from satseg_ray.errors import ConfigError  # noqa: E402
from satseg_ray.model.class_weights import chosen_weights, class_weights  # noqa: E402
from satseg_ray.model.losses import Loss, with_own_gradient  # noqa: E402
from satseg_ray.model.training_spec import LossSpec  # noqa: E402
from tests.loss_reference import reference  # noqa: E402

pytestmark = pytest.mark.tensorflow

WEIGHTS = (0.5, 2.0, 1.0)
NONE = {"cross_entropy": 0.0, "dice": 0.0}


def _spec(**terms) -> LossSpec:
    return LossSpec(**NONE | terms)


SPECS = {
    "cross_entropy": _spec(cross_entropy=1),
    "focal": _spec(focal=1),
    "focal below 1": _spec(focal=1, focal_gamma=0.5),
    "dice": _spec(dice=1),
    "tversky": _spec(tversky=1),
    "focal tversky": _spec(tversky=1, tversky_alpha=0.6, tversky_beta=0.4, tversky_gamma=0.75),
    "lovasz": _spec(lovasz=1),
    "the default": LossSpec(),
    "a sum of all": _spec(cross_entropy=0.5, focal=2, dice=0.25, tversky=1, lovasz=0.7),
}
every_loss = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


def _batch(seed: int = 0, count: int = 4, spread: float = 1.0):
    """Return logits and masks; the second patch is unlabelled and the last lacks a class."""
    rng = np.random.default_rng(seed)
    logits = spread * rng.normal(size=(count, 5, 7, 3)).astype(np.float32)
    mask = rng.choice(np.array([0, 1, 2, 255], np.uint8), (count, 5, 7))
    mask[1], mask[-1][mask[-1] == 2] = 255, 0
    return tf.constant(logits), tf.constant(mask)


def _loss_and_gradient(logits, mask, spec, weights=WEIGHTS):
    loss_of = Loss.of(spec, logits.shape[-1], weights)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = loss_of.finish(loss_of.sums(logits, mask))
    return loss.numpy(), tape.gradient(loss, logits).numpy()


@every_loss
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spread", [0.1, 1.0, 6.0])
def test_loss_is_that_of_the_definition(spec, seed, spread):
    logits, mask = _batch(seed, spread=spread)
    expected = reference(logits.numpy().astype(np.float64), mask.numpy(), spec, np.array(WEIGHTS))
    assert _loss_and_gradient(logits, mask, spec)[0] == pytest.approx(expected, rel=2e-5)


@every_loss
def test_gradient_is_that_of_the_definition(spec):
    logits, mask = _batch(3, count=2)
    _, gradient = _loss_and_gradient(logits, mask, spec)
    exact, step = logits.numpy().astype(np.float64), 1e-6
    rng = np.random.default_rng(0)
    for place in zip(*(rng.integers(0, side, 12) for side in exact.shape), strict=True):
        values = []
        for sign in (1, -1):
            moved = exact.copy()
            moved[place] += sign * step
            values.append(reference(moved, mask.numpy(), spec, np.array(WEIGHTS)))
        slope = (values[0] - values[1]) / (2 * step)
        assert gradient[place] == pytest.approx(slope, rel=1e-3, abs=1e-6)


@every_loss
def test_unlabelled_pixels_get_exactly_zero_gradient(spec):
    logits, mask = _batch()
    _, gradient = _loss_and_gradient(logits, mask, spec)
    unlabelled = mask.numpy() == 255
    assert (gradient[unlabelled] == 0).all()
    assert (gradient[~unlabelled] != 0).any()


@every_loss
@pytest.mark.parametrize("other", [50.0, 1e30, np.nan, np.inf])
def test_unlabelled_pixels_do_not_change_the_loss(spec, other):
    logits, mask = _batch()
    changed = tf.where((mask == 255)[..., None], other - logits, logits)
    loss, gradient = _loss_and_gradient(logits, mask, spec)
    same, alike = _loss_and_gradient(changed, mask, spec)
    assert same == loss
    np.testing.assert_array_equal(alike, gradient)


@every_loss
def test_no_labelled_pixel_gives_zero_loss_and_zero_gradient(spec):
    logits, mask = _batch()
    loss, gradient = _loss_and_gradient(logits, tf.fill(mask.shape, np.uint8(255)), spec)
    assert loss == 0
    assert (gradient == 0).all()


@every_loss
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("size", [0.0, 30.0, 6e4])
@pytest.mark.parametrize("right", [True, False])
def test_saturated_logits_have_a_finite_loss_and_gradient(spec, dtype, size, right):
    _, mask = _batch()
    chosen = tf.cast(mask, tf.int32) if right else (tf.cast(mask, tf.int32) + 1) % 3
    logits = tf.cast(size * (2 * tf.one_hot(chosen, 3) - 1), dtype)
    loss, gradient = _loss_and_gradient(logits, mask, spec)
    assert np.isfinite(loss)
    assert np.isfinite(gradient.astype(np.float32)).all()
    assert loss >= 0
    if size and right:
        assert loss < 1e-3 * sum(value for _, value in spec if isinstance(value, float))


@every_loss
def test_half_precision_costs_no_more_than_the_rounding_of_the_logits(spec):
    logits, mask = _batch(2)
    half = tf.cast(logits, tf.float16)
    loss, gradient = _loss_and_gradient(half, mask, spec)
    exact, slope = _loss_and_gradient(tf.cast(half, tf.float32), mask, spec)
    assert loss == exact
    np.testing.assert_allclose(gradient, slope, rtol=1e-3, atol=1e-7)


@every_loss
def test_gradients_of_uneven_shares_add_up_to_that_of_the_batch(spec):
    logits, mask = _batch(1)
    loss, expected = _loss_and_gradient(logits, mask, spec)
    loss_of = Loss.of(spec, 3, WEIGHTS)
    shares = [slice(0, 1), slice(1, 2), slice(2, 4)]
    total = sum(loss_of.sums(logits[s], mask[s]) for s in shares)
    assert total.shape == (loss_of.size,)
    for share in shares:
        with tf.GradientTape() as tape:
            own_logits = logits[share]
            tape.watch(own_logits)
            own = loss_of.sums(own_logits, mask[share])
            own_loss = loss_of.finish(with_own_gradient(own, total))
        np.testing.assert_allclose(own_loss, loss, rtol=1e-6)
        gradient = tape.gradient(own_loss, own_logits)
        np.testing.assert_allclose(gradient, expected[share], rtol=1e-4, atol=1e-7)


def test_focal_without_gamma_is_cross_entropy_and_even_tversky_is_dice():
    logits, mask = _batch(4)
    pairs = [
        (_spec(focal=1, focal_gamma=0), SPECS["cross_entropy"]),
        (_spec(tversky=1, tversky_alpha=0.5, tversky_beta=0.5), SPECS["dice"]),
    ]
    for one, other in pairs:
        assert (
            _loss_and_gradient(logits, mask, one)[0] == _loss_and_gradient(logits, mask, other)[0]
        )


@pytest.mark.parametrize("name", ["dice", "tversky", "lovasz"])
def test_overlap_is_zero_when_right_one_when_wrong_and_leaves_out_absent_classes(name):
    mask = tf.constant(np.array([[[0, 0, 2, 255]]], np.uint8))
    right = 100.0 * tf.one_hot(tf.cast(mask, tf.int32), 3)
    assert _loss_and_gradient(right, mask, SPECS[name])[0] == pytest.approx(0, abs=1e-6)
    wrong = 100.0 * tf.one_hot(tf.fill(mask.shape, 1), 3)
    assert _loss_and_gradient(wrong, mask, SPECS[name])[0] == pytest.approx(1)


@every_loss
def test_a_network_of_mixed_precision_learns(spec):
    """A step of loss-scaled SGD in float16 lowers the loss, thirty times on the same batch."""
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        tf.keras.utils.set_random_seed(0)
        network = tf.keras.Sequential([tf.keras.Input((8, 8, 2)), tf.keras.layers.Conv2D(3, 1)])
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    optimizer = tf.keras.mixed_precision.LossScaleOptimizer(tf.keras.optimizers.SGD(0.5))
    rng, loss_of = np.random.default_rng(0), Loss.of(spec, 3, WEIGHTS)
    image = rng.normal(size=(4, 8, 8, 2)).astype(np.float32)
    mask = np.digitize(image[..., 0], [-0.5, 0.5]).astype(np.uint8)
    mask[0] = 255
    losses = []
    for _ in range(30):
        with tf.GradientTape() as tape:
            logits = network(image)
            loss = loss_of.finish(loss_of.sums(logits, tf.constant(mask)))
            scaled = optimizer.get_scaled_loss(loss)
        gradients = tape.gradient(scaled, network.trainable_variables)
        optimizer.apply_gradients(
            zip(
                optimizer.get_unscaled_gradients(gradients),
                network.trainable_variables,
                strict=True,
            )
        )
        losses.append(float(loss))
    assert logits.dtype == tf.float16
    assert loss.dtype == tf.float32
    assert losses[-1] < 0.9 * losses[0]


def test_balanced_weights_even_out_the_classes():
    counts = (300, 100, 0)
    weights = class_weights(counts)
    assert weights[0] * counts[0] == pytest.approx(weights[1] * counts[1])
    assert weights[2] == 0
    assert sum(w * n for w, n in zip(weights, counts, strict=True)) == pytest.approx(sum(counts))


def test_weights_are_none_balanced_or_by_name():
    names, counts = ("land", "water"), (300, 100)
    chosen = {
        kind: chosen_weights(LossSpec(class_weights=kind), names, counts)
        for kind in ("none", "balanced")
    }
    assert chosen == {"none": None, "balanced": class_weights(counts)}
    assert chosen_weights(LossSpec(class_weights={"water": 3}), names, counts) == (1.0, 3.0)
    with pytest.raises(ConfigError, match=r"'sea', there is none\. The classes are land, water"):
        chosen_weights(LossSpec(class_weights={"sea": 3}), names, counts)


def test_a_loss_without_a_term_is_refused():
    with pytest.raises(ValidationError, match="no term"):
        LossSpec(**NONE)
