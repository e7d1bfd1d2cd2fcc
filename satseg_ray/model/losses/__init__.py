"""Losses that add up over workers; importing this imports TensorFlow."""

from satseg_ray.model.losses.loss import Loss, with_own_gradient

__all__ = ["Loss", "with_own_gradient"]
