"""The terms of a loss: each is finished from sums, so that shares of a batch add up to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import tensorflow as tf

from satseg_ray.model.losses.lovasz import lovasz_of_patches
from satseg_ray.model.losses.pixels import LabelledPixels, Tensor, bounded_power


class Term(Protocol):
    """One kind of loss, as a monoid: sums of a share of the batch, added, then finished."""

    def size(self, classes: int) -> int:
        """Return how many sums it needs."""

    def sums(self, pixels: LabelledPixels) -> Tensor:
        """Return its sums over some patches, float32 (size,)."""

    def finish(self, sums: Tensor, labelled: Tensor) -> Tensor:
        """Return the loss of all sums together and of the number of labelled pixels."""


@dataclass(frozen=True)
class PixelTerm:
    """Cross-entropy, or focal loss with ``gamma`` > 0: a mean over the labelled pixels.

    Lin et al. 2017, https://arxiv.org/abs/1708.02002: (1 - p) ** gamma times the cross-entropy,
    p being the probability of the true class. ``weights`` multiply the pixels of each class.
    """

    gamma: float = 0.0
    weights: tuple[float, ...] | None = None

    def size(self, classes: int) -> int:
        """Return 1: the sum over pixels."""
        return 1

    def sums(self, pixels: LabelledPixels) -> Tensor:
        """Return the weighted losses of all labelled pixels."""
        losses = pixels.surprise
        if self.gamma:
            losses *= bounded_power(-tf.math.expm1(-pixels.surprise), self.gamma)
        if self.weights is not None:
            losses *= tf.linalg.matvec(pixels.truth, tf.constant(self.weights, tf.float32))
        return tf.reduce_sum(losses)[tf.newaxis]

    def finish(self, sums: Tensor, labelled: Tensor) -> Tensor:
        """Return the mean; 0 without a labelled pixel."""
        return tf.math.divide_no_nan(sums[0], labelled)


@dataclass(frozen=True)
class OverlapTerm:
    """Tversky loss of the global batch: 1 - I / (I + alpha FP + beta FN), a mean over classes.

    I, FP and FN are the probability masses of hits, false positives and false negatives of a
    class; one that is labelled nowhere in the batch does not count. With 1/2 and 1/2 it is the
    soft Dice loss without squares. A ``gamma`` other than 1 is the exponent of the focal form.
    Salehi et al. 2017, https://arxiv.org/abs/1706.05721; Abraham and Khan 2018,
    https://arxiv.org/abs/1810.07842 (whose gamma is the inverse of this one).
    """

    alpha: float = 0.5
    beta: float = 0.5
    gamma: float = 1.0

    def size(self, classes: int) -> int:
        """Return 3 for each class: hits, predicted and labelled mass."""
        return 3 * classes

    def sums(self, pixels: LabelledPixels) -> Tensor:
        """Return hits, then predicted, then labelled mass of the classes."""
        axes = [0, 1, 2]
        return tf.concat(
            [
                tf.reduce_sum(pixels.probability * pixels.truth, axes),
                tf.reduce_sum(pixels.probability, axes),
                tf.reduce_sum(pixels.truth, axes),
            ],
            axis=0,
        )

    def finish(self, sums: Tensor, labelled: Tensor) -> Tensor:
        """Return the mean over the classes that are labelled; 0 without any."""
        hits, predicted, truth = tf.split(sums, 3)
        wrong = self.alpha * (predicted - hits) + self.beta * (truth - hits)
        losses = bounded_power(1.0 - tf.math.divide_no_nan(hits, hits + wrong), self.gamma)
        present = tf.cast(truth > 0, tf.float32)
        return tf.math.divide_no_nan(tf.reduce_sum(losses * present), tf.reduce_sum(present))


@dataclass(frozen=True)
class LovaszTerm:
    """Lovász-softmax loss of each patch, a mean over the patches that hold a label."""

    def size(self, classes: int) -> int:
        """Return 2: the sum of the patches' losses, and their number."""
        return 2

    def sums(self, pixels: LabelledPixels) -> Tensor:
        """Return the losses of the patches and how many hold a label."""
        counted = tf.reduce_max(pixels.labelled, axis=[1, 2])
        return tf.stack([tf.reduce_sum(lovasz_of_patches(pixels)), tf.reduce_sum(counted)])

    def finish(self, sums: Tensor, labelled: Tensor) -> Tensor:
        """Return the mean; 0 without a patch that holds a label."""
        return tf.math.divide_no_nan(sums[0], sums[1])
