"""Shapes drawn on images, in pixels: COCO, LabelMe, and the VGG Image Annotator (1, 2 and 3)."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from rasterio.features import shapes as outlines
from rasterio.transform import Affine
from shapely import affinity

from satseg_ray.errors import ConfigError, LabelsDoNotMatch, UnreadableLabels
from satseg_ray.geo.labels.documents import Document, image_name_of
from satseg_ray.geo.labels.features import Features, Notes
from satseg_ray.geo.labels.rule import LabelRule
from satseg_ray.geo.labels.vectors import label_text

Size = tuple[int, int]


BROKEN = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError)
"""What reading meets in JSON that is not of the kind it seems to be."""


class Undrawn(Exception):
    """A shape that gives no outline: the code of the finding, and what is wrong with it."""

    def __init__(self, code: str, problem: str) -> None:
        super().__init__(code, problem)
        self.code = code
        self.problem = problem


@dataclass
class Drawing:
    """The shapes of one image as they are collected."""

    path: str
    geometries: list[Any] = field(default_factory=list)
    labels: list[str | None] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    failed: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def draw(self, name: str, label: str | None, make: Callable[[], Sequence[Any]]) -> None:
        """Add what ``make`` gives, or note why it gives nothing."""
        try:
            made = make()
            if not all(isinstance(one, shapely.Geometry) for one in made):
                raise TypeError("lists where there should be numbers")
        except Undrawn as error:
            self.failed.setdefault((error.code, error.problem), []).append(name)
        except (*BROKEN, shapely.errors.ShapelyError):
            problem = "with points that are none"
            self.failed.setdefault(("bad-geometry", problem), []).append(name)
        else:
            self.geometries += made
            self.labels += [label] * len(made)
            self.ids += [name] * len(made)

    def features(self, size: Size | None, notes: Notes) -> Features:
        """Return all that was drawn, in the order of the file."""
        for (code, problem), ids in self.failed.items():
            notes.add(code, ids, problem)
        geometries = np.empty(len(self.geometries), object)
        geometries[:] = self.geometries
        return Features(
            geometries, self.labels, self.ids, pixels=True, size=size,
            findings=tuple(notes.findings),
        )  # fmt: skip


def chosen(names: Sequence[str], image_name: str | None, notes: Notes) -> int:
    """Return which of a file's images is meant: the only one, or the one of that name.

    Raises:
        LabelsDoNotMatch: there are several, and not one of that name.
    """
    path = notes.path
    if len(names) == 1:
        if image_name is not None and names[0] != image_name:
            notes.say("note", "other-image-name",
                      f"was made for {names[0]}, the scene is {image_name}", "Used.")  # fmt: skip
        return 0
    found = [at for at, name in enumerate(names) if name == image_name]
    if len(found) != 1:
        listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise LabelsDoNotMatch(
            path, f"speaks of {len(found)} images {image_name} among {len(names)} ({listed})",
            "Name the image as the labels do.",
        )  # fmt: skip
    return found[0]


# --- outlines


def pairs(flat: Sequence[float]) -> npt.NDArray[np.float64]:
    """Return ``(x, y)`` rows of ``x, y, x, y ...``."""
    points = np.asarray(flat, np.float64)
    if points.ndim != 1 or len(points) % 2:
        raise Undrawn("bad-geometry", "with an odd number of coordinates")
    return points.reshape(-1, 2)


def polygon(points: Any) -> Any:
    """Return a polygon; fewer than three corners are none."""
    points = np.asarray(points, np.float64)
    if len(points) < 3:
        raise Undrawn("bad-geometry", "with fewer than three corners")
    return shapely.polygons(points)


def ellipse(center: Sequence[float], radii: Sequence[float], angle: float = 0.0) -> Any:
    """Return an ellipse, its outline within 0.01 pixels; ``angle`` in radians from x to y."""
    rx, ry = (float(r) for r in radii)
    if not (rx > 0 and ry > 0 and math.isfinite(rx) and math.isfinite(ry)):
        raise Undrawn("bad-geometry", "with a radius that is none")
    steps = min(4096, 8 + math.ceil(8 * math.sqrt(max(rx, ry))))
    disc = affinity.scale(shapely.Point(0, 0).buffer(1, quad_segs=steps), rx, ry, origin=(0, 0))
    turned = affinity.rotate(disc, angle, origin=(0, 0), use_radians=True)
    return affinity.translate(turned, float(center[0]), float(center[1]))


def mask_outlines(mask: npt.NDArray[np.uint8], col: int, row: int) -> list[Any]:
    """Return polygons along pixel edges: burnt, they give the mask (rows, columns) back."""
    place = Affine.translation(col, row)
    return [
        shapely.geometry.shape(body)
        for body, _ in outlines(mask, mask=mask.astype(np.bool_), transform=place)
    ]


# --- COCO


def coco_images(document: Document) -> list[str]:
    """Return the file names of the images that a COCO file speaks of."""
    return [image_name_of(image.get("file_name", "")) for image in document["images"]]


def coco_features(
    path: str, document: Document, rule: LabelRule, image_name: str | None
) -> Features:
    """Return the annotations of one image of a COCO file, crowds among them.

    A segmentation is a list of polygons, one flat polygon, or RLE, as counts or compressed.
    """
    drawing, notes = Drawing(path), Notes(path)
    image = document["images"][chosen(coco_images(document), image_name, notes)]
    size = (int(image["height"]), int(image["width"])) if "height" in image else None
    categories = {
        one["id"]: str(one.get("name", one["id"])) for one in document.get("categories", [])
    }
    drawing, notes = Drawing(path), Notes(path)
    for at, one in enumerate(document["annotations"]):
        if one.get("image_id") == image.get("id"):
            label = categories.get(one.get("category_id"), label_text(one.get("category_id")))
            name = str(one.get("id", at))
            drawing.draw(name, label, lambda one=one: _segmentation(path, one, size))  # type: ignore[misc]
    return drawing.features(size, notes)


def _segmentation(path: str, annotation: Document, size: Size | None) -> list[Any]:
    found = annotation.get("segmentation")
    if not found:
        raise Undrawn("no-outline", "without a segmentation (a box is no outline)")
    if isinstance(found, dict):
        return rle_outlines(path, found, size)
    rings = [found] if isinstance(found[0], int | float) else found
    parts = [polygon(pairs(ring)) for ring in rings]
    if len(parts) == 1:
        return parts
    return [shapely.union_all(shapely.make_valid(parts, method="structure", keep_collapsed=False))]


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
        if code & 0x20:
            continue
        if code & 0x10:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise Undrawn("bad-geometry", "with RLE counts that end too early")
    return np.array(runs, np.int64)


# --- LabelMe


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


# --- VGG Image Annotator


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
            "attribute", f"is {rule.attribute!r}, which {path} has not",
            f"It has {', '.join(fields)}.",
        )  # fmt: skip
    if rule.attribute is None and len(fields) > 1:
        raise ConfigError(
            "attribute", f"is not set, {path} has {', '.join(fields)}", "Name one of them."
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
