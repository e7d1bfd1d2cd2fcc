"""The loss as a monoid: sums over labelled pixels, added over replicas, then finished.

Each replica reduces its share of the batch to one short vector (:meth:`Loss.sums`), the vectors
are added, and every replica computes the same loss from the total (:meth:`Loss.finish`). The loss
is then that of the *global* batch, and the gradients of the replicas add up to its gradient,
whatever the number of replicas.
"""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

from satseg_ray.model.losses.pixels import Tensor, labelled_pixels
from satseg_ray.model.losses.terms import LovaszTerm, OverlapTerm, PixelTerm, Term
from satseg_ray.model.training_spec import LossSpec


@dataclass(frozen=True)
class Loss:
    """A weighted sum of terms over ``classes`` classes; terms of weight 0 cost nothing."""

    terms: tuple[tuple[float, Term], ...]
    classes: int

    @classmethod
    def of(cls, spec: LossSpec, classes: int, weights: tuple[float, ...] | None = None) -> Loss:
        """Return the loss of a spec; ``weights`` of the classes, for cross-entropy and focal."""
        terms: tuple[tuple[float, Term], ...] = (
            (spec.cross_entropy, PixelTerm(0.0, weights)),
            (spec.focal, PixelTerm(spec.focal_gamma, weights)),
            (spec.dice, OverlapTerm()),
            (spec.tversky, OverlapTerm(spec.tversky_alpha, spec.tversky_beta, spec.tversky_gamma)),
            (spec.lovasz, LovaszTerm()),
        )
        return cls(tuple((share, term) for share, term in terms if share), classes)

    @property
    def size(self) -> int:
        """The length of the vector of sums."""
        return 1 + sum(self._sizes)

    @property
    def _sizes(self) -> list[int]:
        return [term.size(self.classes) for _, term in self.terms]

    def sums(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Return the sums that the loss is made of, over the patches given.

        Args:
            logits: (N, H, W, classes) of any float type; all is computed in float32.
            mask: uint8 (N, H, W), class index, 255 where unlabelled: such a pixel adds exactly
                nothing, neither here nor to a gradient.

        Returns:
            float32 (size,): the labelled pixels, then the sums of each term.
        """
        pixels = labelled_pixels(logits, mask)
        count = tf.reduce_sum(pixels.labelled)[tf.newaxis]
        return tf.concat([count, *(term.sums(pixels) for _, term in self.terms)], axis=0)

    def finish(self, sums: Tensor) -> Tensor:
        """Return the scalar loss of the total of :meth:`sums`; 0 without a labelled pixel."""
        count, *parts = tf.split(sums, [1, *self._sizes])
        losses = (
            share * term.finish(part, count[0])
            for (share, term), part in zip(self.terms, parts, strict=True)
        )
        return tf.add_n(list(losses))


def with_own_gradient(own: Tensor, total: Tensor) -> Tensor:
    """Return the value of ``total`` with the gradient of ``own``.

    A loss of the total over replicas is nowhere differentiated through the exchange between
    them: by the chain rule each replica's gradient is its own summand of the whole gradient.
    """
    return own + tf.stop_gradient(total - own)
