"""Shapes drawn on images, in pixels: COCO, LabelMe, and the VGG Image Annotator (1, 2 and 3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from satseg_ray.errors import UnreadableLabels
from satseg_ray.geo.labels.coco import coco_features, coco_images
from satseg_ray.geo.labels.documents import Document
from satseg_ray.geo.labels.drawing import (
    BROKEN,
)
from satseg_ray.geo.labels.features import Features
from satseg_ray.geo.labels.labelme import labelme_features, labelme_images
from satseg_ray.geo.labels.rule import LabelRule
from satseg_ray.geo.labels.via import via3_features, via3_images, via_features, via_images

Reader = Callable[[str, Document, LabelRule, str | None], Features]
READERS: Mapping[str, tuple[Callable[[Document], list[str]], Reader]] = {
    "coco": (coco_images, coco_features),
    "labelme": (labelme_images, labelme_features),
    "via": (via_images, via_features),
    "via3": (via3_images, via3_features),
}


def _broken(path: str, error: Exception) -> UnreadableLabels:
    return UnreadableLabels(
        path, f"lacks what its kind of labels needs ({error!r})",
        "Give the file as the labelling tool wrote it.",
    )  # fmt: skip


def images_of(path: str, kind: str, document: Document) -> tuple[str, ...]:
    """Return the file names of the images that annotations speak of."""
    try:
        return tuple(READERS[kind][0](document)) if kind in READERS else ()
    except BROKEN as error:
        raise _broken(path, error) from error


def read_annotations(
    path: str, kind: str, document: Document, rule: LabelRule, image_name: str | None
) -> Features:
    """Return the shapes that annotations give one image, in its pixels.

    Raises:
        LabelsDoNotMatch: they speak of several images and not of this one.
        UnreadableLabels: they lack what their kind has.
    """
    try:
        return READERS[kind][1](path, document, rule, image_name)
    except BROKEN as error:
        raise _broken(path, error) from error
