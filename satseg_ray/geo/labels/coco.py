"""COCO annotations: polygons in lists or flat, RLE as counts or compressed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from satseg_ray.errors import LabelsDoNotMatch
from satseg_ray.geo.labels.documents import Document, image_name_of
from satseg_ray.geo.labels.drawing import (
    BROKEN,
    Drawing,
    Size,
    Undrawn,
    chosen,
    mask_outlines,
    pairs,
    polygon,
)
from satseg_ray.geo.labels.features import Features, Notes
from satseg_ray.geo.labels.rule import LabelRule
from satseg_ray.geo.labels.vectors import label_text


def coco_images(document: Document) -> list[str]:
    """Return the file names of the images that a COCO file speaks of."""
    return [image_name_of(image.get("file_name", "")) for image in document["images"]]


def coco_features(
    path: str, document: Document, rule: LabelRule, image_name: str | None
) -> Features:
    """Return the annotations of one image of a COCO file, crowds among them.

    A segmentation is a list of polygons, one flat polygon, or RLE, as counts or compressed.
    """
    notes = Notes(path)
    image = document["images"][chosen(coco_images(document), image_name, notes)]
    size = (int(image["height"]), int(image["width"])) if "height" in image else None
    categories = {
        one["id"]: str(one.get("name", one["id"])) for one in document.get("categories", [])
    }
    drawing = Drawing(path)
    listed = {str(one.get("id")) for one in document["images"]}
    stray = [one for one in document["annotations"] if str(one.get("image_id")) not in listed]
    notes.add("no-image", [str(one.get("id")) for one in stray], "of an image that is not listed")
    for at, one in enumerate(document["annotations"]):
        if one.get("image_id") == image.get("id"):
            label = categories.get(one.get("category_id"), label_text(one.get("category_id")))
            name = str(one.get("id", at))
            drawing.draw(name, label, lambda one=one: _segmentation(path, one, size))  # type: ignore[misc]
    boxes = _boxes(document["annotations"])
    if boxes >= MOST_RECTANGLES:
        notes.say(
            "warning",
            "outlines-are-boxes",
            f"all {boxes} outlines are the boxes around their objects",
            "Used as they are: what a box holds beside its object gets the object's class.",
        )
    return drawing.features(size, notes)


MOST_RECTANGLES = 3
"""Outlines from which on objects that all fill their boxes are no accident."""


def _boxes(annotations: Sequence[Document]) -> int:
    """Return how many outlines there are, if all of them are their own boxes, else 0."""
    drawn = 0
    for one in annotations:
        if one.get("segmentation"):
            drawn += 1
            if not _is_box(one):
                return 0
    return drawn


def _is_box(annotation: Document) -> bool:
    """Tell whether an outline goes through the four corners of its ``bbox`` and nowhere else."""
    try:
        left, top, width, height = (float(number) for number in annotation["bbox"])
        found = annotation["segmentation"]
        rings = [found] if isinstance(found[0], int | float) else found
        points = {(round(x, 2), round(y, 2)) for x, y in pairs(rings[0]).tolist()}
    except (*BROKEN, Undrawn):
        return False
    xs, ys = (left, left + width), (top, top + height)
    return len(rings) == 1 and points == {(round(x, 2), round(y, 2)) for x in xs for y in ys}


def _segmentation(path: str, annotation: Document, size: Size | None) -> list[Any]:
    found = annotation.get("segmentation")
    if not found:
        raise Undrawn("no-outline", "without a segmentation (a box is no outline)")
    if isinstance(found, dict):
        return rle_outlines(path, found, size)
    rings = [found] if isinstance(found[0], int | float) else found
    return [polygon(pairs(ring)) for ring in rings]


STRIP_PIXELS = 1 << 22
"""Pixels of an RLE mask that are unpacked at a time."""
MAX_RLE_PIXELS = 1 << 36
"""Pixels of an RLE mask."""


def rle_outlines(path: str, rle: Document, size: Size | None) -> list[Any]:
    """Return the polygons of an RLE mask, unpacked some columns at a time.

    Raises:
        LabelsDoNotMatch: the mask has another size than its image.
    """
    height, width = (int(n) for n in rle["size"])
    if size is not None and (height, width) != size:
        raise LabelsDoNotMatch(
            path,
            f"has an RLE mask of {height} x {width} pixels, its image is {size[0]} x {size[1]}",
            "Give masks of the image's size.",
        )  # fmt: skip
    if height > STRIP_PIXELS or height * width > MAX_RLE_PIXELS:
        raise Undrawn("bad-geometry", "with an RLE mask of an impossible size")
    counts = rle["counts"]
    runs = unpacked(counts) if isinstance(counts, str) else np.asarray(counts, np.int64)
    ends = np.cumsum(runs)
    if (runs < 0).any() or not len(ends) or ends[-1] != height * width:
        raise Undrawn("bad-geometry", "with RLE counts that do not add up to the image")
    found: list[Any] = []
    columns = max(1, STRIP_PIXELS // max(height, 1))
    for col in range(0, width, columns):
        strip = _strip(ends, col * height, min(col + columns, width) * height)
        if strip.any():
            found += mask_outlines(np.ascontiguousarray(strip.reshape(-1, height).T), col, 0)
    if not found:
        raise Undrawn("no-area", "without an area")
    return found


def _strip(ends: npt.NDArray[np.int64], start: int, stop: int) -> npt.NDArray[np.uint8]:
    """Return the pixels ``start .. stop - 1`` of runs that end at ``ends``: 0, 1, 0, 1 ..."""
    first, last = np.searchsorted(ends, [start, stop - 1], side="right")
    inner = np.clip(ends[first : last + 1], start, stop) - start
    lengths = np.diff(inner, prepend=0)
    return np.repeat((np.arange(first, last + 1) % 2).astype(np.uint8), lengths)


def unpacked(text: str) -> npt.NDArray[np.int64]:
    """Return the runs of COCO's compressed RLE: 5 bits a character, each from the one before last.

    >>> unpacked("52203")
    array([5, 2, 2, 2, 5])
    """
    runs: list[int] = []
    value = shift = 0
    for char in text.encode("ascii"):
        code = char - 48
        if not 0 <= code < 64:
            raise Undrawn("bad-geometry", "with RLE counts that are no text of COCO's")
        value |= (code & 0x1F) << shift
        shift += 5
        if shift > 60:
            raise Undrawn("bad-geometry", "with RLE counts beyond all sizes")
        if code & 0x20:
            continue
        if code & 0x10:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise Undrawn("bad-geometry", "with RLE counts that end too early")
    return np.array(runs, np.int64)
