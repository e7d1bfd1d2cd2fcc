"""Batch normalisation when a batch is shared by several workers: whose statistics it uses."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, TypeAlias

import tensorflow as tf

Tensor: TypeAlias = tf.Tensor


def set_batch_norm(network: Any, mode: Literal["local", "synchronised", "frozen"]) -> None:
    """Choose the statistics that a network's batch normalisation uses in training.

    ``local`` leaves each worker its own share of the batch, ``synchronised`` takes the moments of
    the whole batch, and ``frozen`` those that the weights came with, which then never change; nor
    do scale and offset. Call it before the network is first called to train.

    Law: with ``synchronised`` or ``frozen`` a layer computes the same on any number of workers.
    """
    for layer in network.submodules:
        if not isinstance(layer, tf.keras.layers.BatchNormalization):
            continue
        if mode == "frozen":
            layer.trainable = False
        elif mode == "synchronised":
            # Keras' own way exchanges thrice a layer, and adds up bfloat16 in bfloat16
            layer.synchronized, layer.fused = True, False
            layer._calculate_mean_and_var = partial(_global_moments, layer)


def total(own: Any) -> Any:
    """Return the sum of a tensor, or of each of a list, over all replicas; differentiable."""
    replicas = tf.distribute.get_replica_context()
    if replicas.num_replicas_in_sync == 1:
        return own
    # identity: the exchange asks for a tensor with a device, an argument of a function has none
    return replicas.all_reduce(tf.distribute.ReduceOp.SUM, tf.nest.map_structure(tf.identity, own))


def _global_moments(
    layer: Any, inputs: Tensor, axes: list[int], keep_dims: bool, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return mean and variance of each channel, the last axis, over the batches of all replicas.

    In float32 and about the moving mean, so that a mean far from zero costs no digits.
    """
    if mask is not None or keep_dims:
        raise NotImplementedError("masked or unsqueezed moments")
    centre = tf.stop_gradient(tf.cast(layer.moving_mean, tf.float32))
    values = tf.cast(inputs, tf.float32) - centre
    pixels = tf.cast(tf.size(values) / tf.shape(values)[-1], tf.float32)
    own = tf.stack([tf.reduce_sum(values, axes), tf.reduce_sum(tf.square(values), axes)])
    sums = total(tf.concat([own, tf.fill([1, tf.shape(own)[1]], pixels)], axis=0))
    mean, square = sums[0] / sums[2], sums[1] / sums[2]
    variance = tf.maximum(square - tf.square(mean), 0.0)
    return tf.cast(mean + centre, inputs.dtype), tf.cast(variance, inputs.dtype)
