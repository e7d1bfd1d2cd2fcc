"""The Lovász-softmax loss of single patches."""

from __future__ import annotations

import tensorflow as tf

from satseg_ray.model.losses.pixels import LabelledPixels, Tensor


def lovasz_of_patches(pixels: LabelledPixels) -> Tensor:
    """Return the loss of each patch, float32 (N,): the mean over the classes labelled in it.

    For one class it is the piecewise linear extension of 1 - IoU to the errors of the labelled
    pixels (Berman et al. 2018, https://arxiv.org/abs/1705.08790, algorithm 1). It sorts, so it is
    no sum over pixels; a patch is never shared among workers, so its loss is the same on any.
    0 for a patch without a label.
    """
    errors = tf.abs(_by_class(pixels.truth) - _by_class(pixels.probability))
    truth = _by_class(pixels.truth)
    known = tf.cast(_by_class(pixels.labelled[..., tf.newaxis]), tf.bool)
    keys = tf.where(known, errors, -tf.ones_like(errors))  # what is unlabelled comes last
    ordered, places = tf.math.top_k(keys, k=tf.shape(keys)[-1])
    slopes = tf.stop_gradient(_slopes(tf.gather(truth, places, batch_dims=2), ordered >= 0))
    present = tf.reduce_max(truth, axis=-1)
    losses = tf.reduce_sum(ordered * slopes, axis=-1) * present
    return tf.math.divide_no_nan(tf.reduce_sum(losses, axis=-1), tf.reduce_sum(present, axis=-1))


def _slopes(truth: Tensor, labelled: Tensor) -> Tensor:
    """Return by how much 1 - IoU grows with each further wrong pixel (..., pixels).

    ``truth`` is 1 at the class's pixels; both arrays are in the order of falling error. Exactly 0
    for the unlabelled at the end.
    """
    hits = tf.cumsum(truth, axis=-1)
    others = tf.cumsum(tf.cast(labelled, tf.float32) - truth, axis=-1)
    total = hits[..., -1:]
    jaccard = 1.0 - tf.math.divide_no_nan(total - hits, total + others)
    return tf.concat([jaccard[..., :1], jaccard[..., 1:] - jaccard[..., :-1]], axis=-1)


def _by_class(values: Tensor) -> Tensor:
    """Return (N, H, W, C) as (N, C, H W)."""
    shape = tf.shape(values)
    flat = tf.reshape(values, (shape[0], shape[1] * shape[2], shape[3]))
    return tf.transpose(flat, (0, 2, 1))
