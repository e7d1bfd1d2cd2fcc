"""The loss as a monoid: sums over labelled pixels, added over replicas, then finished.

Each replica reduces its share of the batch to one short vector (:func:`loss_sums`), the vectors
are added, and every replica computes the same loss from the total (:func:`finish_loss`). Cross
entropy and soft Dice are then those of the *global* batch, and the gradients of the replicas add
up to its gradient, whatever the number of replicas.
"""

from __future__ import annotations

from typing import TypeAlias

import tensorflow as tf

from satseg_ray.classes import IGNORE
from satseg_ray.model.training_spec import LossSpec

Tensor: TypeAlias = tf.Tensor


def class_weights(counts: tuple[int, ...]) -> tuple[float, ...]:
    """Return the weight of each class that balances the pixel ``counts``; 0 for an absent one.

    The weighted counts are equal, and the mean weight of a pixel is 1.

    >>> class_weights((300, 100, 0))
    (0.6666666666666666, 2.0, 0.0)
    """
    present = sum(count > 0 for count in counts)
    return tuple(sum(counts) / (present * count) if count else 0.0 for count in counts)


def loss_sums(logits: Tensor, mask: Tensor, weights: tuple[float, ...] | None = None) -> Tensor:
    """Return the sums that the loss is made of, over the labelled pixels given.

    Args:
        logits: float32 (N, H, W, C).
        mask: uint8 (N, H, W), class index, 255 where unlabelled: such a pixel adds exactly
            nothing, neither here nor to a gradient.
        weights: weight of each class in the cross-entropy; ``None`` for 1.

    Returns:
        float32 (2 + 3 C): labelled pixels, cross-entropy, then for each class the intersection
        of prediction and label, the predicted and the labelled mass.
    """
    classes = logits.shape[-1]
    labelled = tf.cast(tf.not_equal(mask, IGNORE), tf.float32)
    truth = tf.one_hot(tf.cast(mask, tf.int32), classes, dtype=tf.float32)
    log_probability = tf.nn.log_softmax(logits)
    probability = tf.exp(log_probability) * labelled[..., tf.newaxis]
    surprise = -truth * log_probability
    if weights is not None:
        surprise *= tf.constant(weights, tf.float32)
    pixels = [0, 1, 2]
    return tf.concat(
        [
            [tf.reduce_sum(labelled), tf.reduce_sum(surprise)],
            tf.reduce_sum(probability * truth, pixels),
            tf.reduce_sum(probability, pixels),
            tf.reduce_sum(truth, pixels),
        ],
        axis=0,
    )


def finish_loss(sums: Tensor, spec: LossSpec) -> Tensor:
    """Return the scalar loss of the float32 (2 + 3 C) total of :func:`loss_sums`.

    Cross-entropy is the mean over labelled pixels; soft Dice is 1 - 2 I / (P + T), averaged over
    the classes that are labelled at all (Milletari et al. 2016, https://arxiv.org/abs/1606.04797,
    in the form without squares). Without a labelled pixel the loss is 0.
    """
    cross_entropy = tf.math.divide_no_nan(sums[1], sums[0])
    intersection, predicted, labelled = tf.split(sums[2:], 3)
    present = tf.cast(labelled > 0, tf.float32)
    dice = 1.0 - tf.math.divide_no_nan(2.0 * intersection, predicted + labelled)
    mean_dice = tf.math.divide_no_nan(tf.reduce_sum(dice * present), tf.reduce_sum(present))
    return spec.cross_entropy * cross_entropy + spec.dice * mean_dice


def with_own_gradient(own: Tensor, total: Tensor) -> Tensor:
    """Return the value of ``total`` with the gradient of ``own``.

    A loss of the total over replicas is nowhere differentiated through the exchange between
    them: by the chain rule each replica's gradient is its own summand of the whole gradient.
    """
    return own + tf.stop_gradient(total - own)
