"""Networks from their spec: the only importer of segmentation_models."""

from __future__ import annotations

import contextlib
import io
import warnings
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from satseg_ray.errors import ConfigError
from satseg_ray.model.environment import require_legacy_keras
from satseg_ray.model.spec import ModelSpec

Network: TypeAlias = Any
"""A ``tf.keras.Model``; Keras has no types of its own."""


@dataclass(frozen=True)
class Architecture:
    """One kind of network: its name in segmentation_models and the patches it takes.

    A patch size is a multiple of ``multiple``; with ``any_size`` one network takes all of them.
    """

    builder: str
    multiple: int
    any_size: bool


ARCHITECTURES = {
    "unet": Architecture("Unet", 32, any_size=True),
    "linknet": Architecture("Linknet", 32, any_size=True),
    "fpn": Architecture("FPN", 32, any_size=True),
    "pspnet": Architecture("PSPNet", 48, any_size=False),
}

BACKBONES = (
    *("mobilenet", "mobilenetv2"),
    *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
    *(f"seresnet{depth}" for depth in (18, 34)),
    *(f"efficientnetb{size}" for size in range(8)),
    *(f"densenet{depth}" for depth in (121, 169, 201)),
    *("vgg16", "vgg19"),
)


def check_spec(spec: ModelSpec) -> Architecture:
    """Return the architecture of a spec that a network can be built from; without TensorFlow.

    Raises:
        ConfigError: unknown architecture or backbone, or a patch size that it does not take.
    """
    architecture = ARCHITECTURES.get(spec.architecture)
    if architecture is None:
        raise _unknown("architecture", spec.architecture, tuple(ARCHITECTURES))
    if spec.backbone not in BACKBONES:
        raise _unknown("backbone", spec.backbone, BACKBONES)
    step = architecture.multiple
    if spec.patch_size < step or spec.patch_size % step:
        below = max(step, spec.patch_size // step * step)
        raise ConfigError(
            "patch_size",
            f"{spec.architecture} takes no patches of {spec.patch_size} pixels",
            f"Use a multiple of {step}, such as {below} or {below + step}.",
        )
    return architecture


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
    side = None if architecture.any_size else spec.patch_size
    pixels = tf.keras.Input((side, side, len(spec.bands)), name="pixels")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This model usually expects 1 or 3 input channels")
        body = getattr(builders, architecture.builder)(
            spec.backbone,
            input_shape=(side, side, len(spec.bands)),
            classes=len(spec.classes),
            activation="linear",
            encoder_weights=None,
        )
    network = tf.keras.Model(pixels, body(_normalised(pixels, spec)))
    for layer in network.submodules:
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            layer.momentum = spec.batch_norm_momentum
    return network


def _normalised(pixels: Any, spec: ModelSpec) -> Any:
    """Return (pixels - mean) / std per band, 0 where a pixel is not finite; std 0 counts as 1."""
    import tensorflow as tf

    mean, std = np.array(spec.mean, np.float32), np.array(spec.std, np.float32)
    scaled = (pixels - mean) / np.where(std > 0, std, np.float32(1))
    return tf.where(tf.math.is_finite(scaled), scaled, tf.zeros_like(scaled))


def _segmentation_models() -> Any:
    require_legacy_keras()
    with contextlib.redirect_stdout(io.StringIO()):  # it prints, and stdout is for results
        import segmentation_models
    return segmentation_models


def _unknown(what: str, value: str, accepted: tuple[str, ...]) -> ConfigError:
    return ConfigError(what, f"{value!r} is not known", f"Use one of {', '.join(accepted)}.")
