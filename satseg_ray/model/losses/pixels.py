"""What every loss starts from: probabilities and labels, nothing where there is no label."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import tensorflow as tf

from satseg_ray.classes import IGNORE

Tensor: TypeAlias = tf.Tensor

SMALLEST = 1e-6
"""The least base of a power: below it an exponent under 1 has a slope without bound."""


class LabelledPixels(NamedTuple):
    """A batch of N patches and C classes, all float32; an unlabelled pixel has zeros everywhere.

    ``labelled`` (N, H, W) is 1 or 0; ``truth`` (N, H, W, C) is one-hot; ``probability``
    (N, H, W, C); ``surprise`` (N, H, W) is the cross-entropy of each pixel.
    """

    labelled: Tensor
    truth: Tensor
    probability: Tensor
    surprise: Tensor


def labelled_pixels(logits: Tensor, mask: Tensor) -> LabelledPixels:
    """Return the pixels of logits (N, H, W, C), of any float type, and mask uint8 (N, H, W).

    Law: an unlabelled pixel's logits get the gradient zero, even where they are no numbers.
    """
    known = tf.not_equal(mask, IGNORE)
    labelled = tf.cast(known, tf.float32)
    truth = tf.one_hot(tf.cast(mask, tf.int32), logits.shape[-1], dtype=tf.float32)
    scores = tf.cast(logits, tf.float32)  # half precision ends here
    scores = tf.where(known[..., tf.newaxis], scores, tf.zeros_like(scores))
    log_probability = tf.nn.log_softmax(scores)
    return LabelledPixels(
        labelled,
        truth,
        tf.exp(log_probability) * labelled[..., tf.newaxis],
        -tf.reduce_sum(truth * log_probability, axis=-1),
    )


def bounded_power(base: Tensor, exponent: float) -> Tensor:
    """Return ``base ** exponent`` of a base from 0 on, with a finite slope everywhere."""
    return base if exponent == 1 else tf.pow(tf.maximum(base, SMALLEST), exponent)
