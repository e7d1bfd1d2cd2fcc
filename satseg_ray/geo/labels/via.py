"""Annotations of the VGG Image Annotator, versions 1, 2 and 3."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from satseg_ray.errors import ConfigError
from satseg_ray.geo.labels.documents import Document, image_name_of
from satseg_ray.geo.labels.drawing import (
    Drawing,
    Undrawn,
    chosen,
    ellipse,
    pairs,
    polygon,
)
from satseg_ray.geo.labels.features import Features, Notes
from satseg_ray.geo.labels.rule import LabelRule
from satseg_ray.geo.labels.vectors import label_text


def via_entries(document: Document) -> list[Document]:
    """Return one entry for each image of a VIA file of version 1 or 2."""
    entries = document.get("_via_img_metadata", document)
    return [entry for entry in entries.values() if isinstance(entry, dict)]


def via_images(document: Document) -> list[str]:
    """Return the file names of the images that a VIA file speaks of."""
    return [image_name_of(entry.get("filename", "")) for entry in via_entries(document)]


def via_features(
    path: str, document: Document, rule: LabelRule, image_name: str | None
) -> Features:
    """Return the regions of one image of a VIA file of version 1 or 2."""
    entries = via_entries(document)
    drawing, notes = Drawing(path), Notes(path)
    entry = entries[chosen(via_images(document), image_name, notes)]
    regions = [region for one in entries for region in _regions(one).values()]
    attribute = _attribute(path, rule, [_attributes(region) for region in regions])
    for name, region in _regions(entry).items():
        label = _via_label(_attributes(region).get(attribute))
        drawing.draw(name, label, lambda region=region: [_via(region["shape_attributes"])])  # type: ignore[misc]
    return drawing.features(None, notes)


def _regions(entry: Document) -> Mapping[str, Any]:
    """Return an image's regions by name: version 1 keeps them in an object, 2 in a list."""
    found = entry.get("regions") or {}
    return found if isinstance(found, dict) else {str(at): one for at, one in enumerate(found)}


def _attributes(region: Document) -> Document:
    found = region.get("region_attributes")
    return found if isinstance(found, dict) else {}


def _attribute(path: str, rule: LabelRule, regions: Sequence[Document]) -> str:
    """Return the attribute that names the class: the rule's, or the only one, or nothing."""
    fields = list(dict.fromkeys(key for region in regions for key in region))
    if rule.attribute is not None and fields and rule.attribute not in fields:
        raise ConfigError(
            "shapes.attribute", f"is {rule.attribute!r}, which {path} has not",
            f"It has {', '.join(fields)}.",
        )  # fmt: skip
    if rule.attribute is None and len(fields) > 1:
        raise ConfigError(
            "shapes.attribute", f"is not set, {path} has {', '.join(fields)}", "Name one of them."
        )
    return rule.attribute or (fields[0] if fields else "")


def _via_label(value: Any) -> str | None:
    """Return the label in an attribute's value; of check boxes the only one that is set."""
    if isinstance(value, dict):
        ticked = [key for key, on in value.items() if on]
        return ticked[0] if len(ticked) == 1 else None
    return label_text(value)


def _via(a: Document) -> Any:
    kind = a.get("name")
    if kind not in _VIA:
        raise Undrawn("unknown-shape", f"of the unknown kind {kind!r}")
    return _VIA[kind](a)


def _all_points(a: Document) -> npt.NDArray[np.float64]:
    return np.column_stack([a["all_points_x"], a["all_points_y"]]).astype(np.float64)


_VIA: Mapping[Any, Callable[[Document], Any]] = {
    "polygon": lambda a: polygon(_all_points(a)),
    "polyline": lambda a: shapely.linestrings(_all_points(a)),
    "rect": lambda a: shapely.box(a["x"], a["y"], a["x"] + a["width"], a["y"] + a["height"]),
    "circle": lambda a: ellipse((a["cx"], a["cy"]), (a["r"], a["r"])),
    "ellipse": lambda a: ellipse((a["cx"], a["cy"]), (a["rx"], a["ry"]), a.get("theta", 0.0)),
    "point": lambda a: shapely.points(a["cx"], a["cy"]),
}


# --- VIA 3


def via3_images(document: Document) -> list[str]:
    """Return the file names of the images that a VIA 3 project speaks of."""
    return [image_name_of(one.get("fname", "")) for one in document["file"].values()]


def via3_features(
    path: str, document: Document, rule: LabelRule, image_name: str | None
) -> Features:
    """Return the regions of one image of a VIA 3 project."""
    drawing, notes = Drawing(path), Notes(path)
    file_id = list(document["file"])[chosen(via3_images(document), image_name, notes)]
    views = document.get("view") or {}
    mine = {vid for vid, view in views.items() if file_id in map(str, view.get("fid_list", []))}
    drawn = {
        name: one for name, one in document["metadata"].items()
        if one.get("xy") and (str(one.get("vid")) in mine)
    }  # fmt: skip
    named = [_via3_names(document, one) for one in drawn.values()]
    attribute = _attribute(path, rule, named)
    for (name, one), attributes in zip(drawn.items(), named, strict=True):
        label = label_text(attributes.get(attribute))
        drawing.draw(name, label, lambda one=one: [_via3(one["xy"])])  # type: ignore[misc]
    return drawing.features(None, notes)


def _via3_names(document: Document, one: Document) -> dict[str, Any]:
    """Return the attributes of a region by name, options by their text."""
    named = {}
    for key, value in (one.get("av") or {}).items():
        attribute = document["attribute"].get(key, {})
        options = attribute.get("options") or {}
        named[str(attribute.get("aname", key))] = options.get(str(value), value)
    return named


def _via3(xy: Sequence[float]) -> Any:
    kind, *rest = xy
    if kind not in _VIA3:
        raise Undrawn("unknown-shape", f"of the unknown kind {kind!r}")
    return _VIA3[int(kind)](rest)


_VIA3: Mapping[Any, Callable[[Sequence[float]], Any]] = {
    1: lambda v: shapely.points(v[0], v[1]),
    2: lambda v: shapely.box(v[0], v[1], v[0] + v[2], v[1] + v[3]),
    3: lambda v: ellipse(v[:2], (v[2], v[2])),
    4: lambda v: ellipse(v[:2], v[2:4]),
    5: lambda v: shapely.linestrings(pairs(v)),
    6: lambda v: shapely.linestrings(pairs(v)),
    7: lambda v: polygon(pairs(v)),
}
