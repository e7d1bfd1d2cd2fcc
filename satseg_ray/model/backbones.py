"""Which networks there are, and the patches that they take: plain names and numbers."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from satseg_ray.errors import ConfigError


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
    *(f"resnext{depth}" for depth in (50, 101)),
    *(f"seresnet{depth}" for depth in (18, 34, 50, 101, 152)),
    *(f"seresnext{depth}" for depth in (50, 101)),
    "senet154",
    *(f"efficientnetb{size}" for size in range(8)),
    *(f"densenet{depth}" for depth in (121, 169, 201)),
    *("inceptionv3", "inceptionresnetv2"),
    *("vgg16", "vgg19"),
)
"""All that segmentation_models 1.0.1 has; docs/models.md is the table of what each pair takes."""

_SMALLEST = {"inceptionv3": 75, "inceptionresnetv2": 75}
"""Pixels that the library asks for at least, of a network that is built for one size."""


def check_pair(architecture: str, backbone: str) -> Architecture:
    """Return the architecture of a pair that a network can be built from: all known ones.

    Raises:
        ConfigError: either is not known; the near names are listed.
    """
    if architecture not in ARCHITECTURES:
        raise _unknown("architecture", architecture, tuple(ARCHITECTURES))
    if backbone not in BACKBONES:
        raise _unknown("backbone", backbone, BACKBONES)
    return ARCHITECTURES[architecture]


def accepted_size(architecture: str, stored: int) -> int:
    """Return the largest patch size up to ``stored`` pixels that an architecture takes.

    Stored patches are cropped to it. Law: the answer is a multiple of the architecture's own
    number, at most ``stored``, and the next multiple is larger than ``stored``.

    >>> accepted_size("unet", 256), accepted_size("pspnet", 256)
    (256, 240)

    Raises:
        ConfigError: the architecture is not known, or takes no patch that small.
    """
    if architecture not in ARCHITECTURES:
        raise _unknown("architecture", architecture, tuple(ARCHITECTURES))
    multiple = ARCHITECTURES[architecture].multiple
    if stored < multiple:
        raise ConfigError(
            "patch_size",
            f"{architecture} takes no patch of {stored} pixels or less",
            f"Tile the data set with a patch size of {multiple} or more.",
        )
    return stored // multiple * multiple


def check_size(architecture: str, patch_size: int) -> None:
    """Refuse a patch size that an architecture does not take.

    Raises:
        ConfigError: it is no positive multiple of the architecture's own number.
    """
    multiple = ARCHITECTURES[architecture].multiple
    if patch_size < multiple or patch_size % multiple:
        below = max(multiple, patch_size // multiple * multiple)
        raise ConfigError(
            "patch_size",
            f"{architecture} takes no patches of {patch_size} pixels",
            f"Use a multiple of {multiple}, such as {below} or {below + multiple}.",
        )


def smallest_size(architecture: str, backbone: str) -> int:
    """Return the smallest patch size that a network of these takes.

    >>> smallest_size("pspnet", "resnet18"), smallest_size("pspnet", "inceptionv3")
    (48, 96)
    """
    kind = ARCHITECTURES[architecture]
    least = 1 if kind.any_size else _SMALLEST.get(backbone, 1)
    return -(-least // kind.multiple) * kind.multiple


def check_network(architecture: str, backbone: str, patch_size: int) -> Architecture:
    """Return the architecture of a network that can be built for this patch size.

    Raises:
        ConfigError: unknown architecture or backbone, or a patch size that it does not take.
    """
    found = check_pair(architecture, backbone)
    check_size(architecture, patch_size)
    least = smallest_size(architecture, backbone)
    if patch_size < least:
        raise ConfigError(
            "patch_size",
            f"{architecture} with {backbone} takes no patches of {patch_size} pixels",
            f"Use {least} or more.",
        )
    return found


def nearest(name: str, known: Sequence[str], count: int = 5) -> list[str]:
    """Return the known names most like ``name``, the nearest first; at least one.

    >>> nearest("resnet-34", ("vgg16", "resnet18", "resnet34"), 2)
    ['resnet34', 'resnet18']
    """
    folded = name.lower().replace("-", "").replace("_", "")
    return difflib.get_close_matches(folded, known, count, cutoff=0.5) or list(known[:count])


def _unknown(what: str, value: str, accepted: tuple[str, ...]) -> ConfigError:
    near = ", ".join(nearest(value, accepted))
    return ConfigError(
        what, f"{value!r} is not known", f"Near it: {near}. All: {', '.join(accepted)}."
    )
