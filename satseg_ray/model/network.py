"""Networks from their spec: the only importer of segmentation_models."""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import Any, TypeAlias

import numpy as np

from satseg_ray.model.backbones import Architecture, check_network
from satseg_ray.model.environment import require_legacy_keras
from satseg_ray.model.spec import ModelSpec

Network: TypeAlias = Any
"""A ``tf.keras.Model``; Keras has no types of its own."""


def check_spec(spec: ModelSpec) -> Architecture:
    """Return the architecture of a spec that a network can be built from; without TensorFlow.

    Raises:
        ConfigError: unknown architecture or backbone, or a patch size that it does not take.
    """
    return check_network(spec.architecture, spec.backbone, spec.patch_size)


def build_network(spec: ModelSpec, seed: int) -> Network:
    """Return the untrained network of a spec: raw band values in, logits out.

    In: float32 (N, H, W, bands), H and W multiples of 32, or the patch size where the
    architecture fixes it; a value that is not finite counts as the mean of its band. Out:
    float32 (N, H, W, classes). The same seed gives the same weights; it also seeds the global
    generators of Python, NumPy and TensorFlow.

    Raises:
        ConfigError: see :func:`check_spec`, :func:`require_legacy_keras`.
    """
    architecture = check_spec(spec)
    builders = _segmentation_models()
    import tensorflow as tf

    tf.keras.utils.set_random_seed(seed)
    tf.keras.backend.reset_uids()  # a layer has the same name in every network of its kind
    side = None if architecture.any_size else spec.patch_size
    pixels = tf.keras.Input((side, side, len(spec.bands)), name="pixels")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This model usually expects 1 or 3 input channels")
        layers = getattr(builders, architecture.builder)(
            spec.backbone,
            input_shape=(side, side, len(spec.bands)),
            classes=len(spec.classes),
            activation="linear",
            encoder_weights=None,
        )
    network = tf.keras.Model(pixels, layers(_normalised(pixels, spec)))
    for layer in network.submodules:
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            layer.momentum = spec.batch_norm_momentum
    return network


def body(network: Network) -> Network:
    """Return the part of a network that holds the weights: encoder, decoder and head."""
    import tensorflow as tf

    return next(layer for layer in network.layers if isinstance(layer, tf.keras.Model))


def build_encoder(backbone: str, bands: int, weights: str | None = None) -> Network:
    """Return an encoder alone, its layers named as in the networks that have it.

    In: float32 (N, H, W, bands). ``weights`` is ``None`` for random ones, or "imagenet", which the
    library downloads unless it has done so before.
    """
    builders = _segmentation_models()
    import tensorflow as tf

    tf.keras.backend.reset_uids()
    build = builders.inject_global_submodules(builders.Backbones.get_backbone)
    with warnings.catch_warnings():  # of other bands than three, of sizes other than ImageNet's
        warnings.filterwarnings("ignore", category=UserWarning, module="keras_applications")
        return build(backbone, input_shape=(None, None, bands), weights=weights, include_top=False)


def _normalised(pixels: Any, spec: ModelSpec) -> Any:
    """Return what the body is fed: (pixels - mean) / std per band, scaled and shifted.

    A pixel that is not finite counts as the mean of its band; std 0 counts as 1.
    """
    import tensorflow as tf

    mean, std = np.array(spec.mean, np.float32), np.array(spec.std, np.float32)
    scaled = (pixels - mean) / np.where(std > 0, std, np.float32(1))
    finite = tf.where(tf.math.is_finite(scaled), scaled, tf.zeros_like(scaled))
    if (spec.input_scale, spec.input_offset) == (1, 0):
        return finite
    return finite * np.float32(spec.input_scale) + np.float32(spec.input_offset)


def _segmentation_models() -> Any:
    require_legacy_keras()
    with contextlib.redirect_stdout(io.StringIO()):  # it prints, and stdout is for results
        import segmentation_models
    return segmentation_models
