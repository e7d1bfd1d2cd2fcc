"""LabelMe annotations."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from satseg_ray.geo.labels.documents import Document, image_name_of
from satseg_ray.geo.labels.drawing import (
    Drawing,
    Undrawn,
    chosen,
    ellipse,
    mask_outlines,
    polygon,
)
from satseg_ray.geo.labels.features import Features, Notes
from satseg_ray.geo.labels.rule import LabelRule
from satseg_ray.geo.labels.vectors import label_text


def labelme_images(document: Document) -> list[str]:
    """Return the file name of the image that a LabelMe file speaks of."""
    return [image_name_of(document["imagePath"])] if document.get("imagePath") else []


def labelme_features(
    path: str, document: Document, rule: LabelRule, image_name: str | None
) -> Features:
    """Return the shapes of a LabelMe file: all kinds that LabelMe draws."""
    drawing, notes = Drawing(path), Notes(path)
    if named := labelme_images(document):
        chosen(named, image_name, notes)
    for at, one in enumerate(document["shapes"]):
        label = label_text(one.get("label")) if isinstance(one, dict) else None
        drawing.draw(str(at), label, lambda one=one: _labelme(one))  # type: ignore[misc]
    sized = document.get("imageHeight") and document.get("imageWidth")
    size = (int(document["imageHeight"]), int(document["imageWidth"])) if sized else None
    return drawing.features(size, notes)


def _labelme(one: Document) -> list[Any]:
    kind = one.get("shape_type") or "polygon"
    if kind not in _LABELME:
        raise Undrawn("unknown-shape", f"of the unknown kind {kind!r}")
    points = np.asarray(one["points"], np.float64).reshape(-1, 2)
    if kind == "mask":
        return _labelme_mask(one, points)
    return [_LABELME[kind](points)]


def _rectangle(points: npt.NDArray[np.float64]) -> Any:
    if len(points) == 4:
        return polygon(points)
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    return shapely.box(left, top, right, bottom)


def _circle(points: npt.NDArray[np.float64]) -> Any:
    center, edge = points
    radius = float(np.hypot(*(edge - center)))
    return ellipse(center, (radius, radius))


_LABELME: Mapping[str, Callable[[npt.NDArray[np.float64]], Any]] = {
    "polygon": polygon,
    "rectangle": _rectangle,
    "oriented_rectangle": polygon,
    "circle": _circle,
    "line": shapely.linestrings,
    "linestrip": shapely.linestrings,
    "point": shapely.multipoints,
    "points": shapely.multipoints,
    "mask": polygon,
}

MAX_MASK_PIXELS = 1 << 26
"""Pixels of a mask that LabelMe stores as a picture."""


def _labelme_mask(one: Document, points: npt.NDArray[np.float64]) -> list[Any]:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(base64.b64decode(one["mask"])), formats=("PNG",)) as image:
            if image.width * image.height > MAX_MASK_PIXELS:
                raise Undrawn("bad-geometry", f"with a mask of more than {MAX_MASK_PIXELS} pixels")
            mask = (np.asarray(image.convert("L")) > 0).astype(np.uint8)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise Undrawn("bad-geometry", "with a mask that is no PNG") from error
    col, row = (int(n) for n in np.rint(points.min(axis=0)))
    found = mask_outlines(mask, col, row)
    if not found:
        raise Undrawn("no-area", "without an area")
    return found
