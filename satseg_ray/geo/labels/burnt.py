"""Features of a label file -> the labels of a scene: classes, order, extent."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
import shapely

from satseg_ray.classes import IGNORE
from satseg_ray.errors import LabelsDoNotMatch, UnknownClassValue
from satseg_ray.geo.grid import Window
from satseg_ray.geo.labels.features import Features, Notes, some
from satseg_ray.geo.labels.place import Coordinates, Placement, apart
from satseg_ray.geo.labels.polygons import place
from satseg_ray.geo.labels.rule import Indexes, LabelRule
from satseg_ray.geo.labels.shapes import BurntLabels, Geometries, Shapes
from satseg_ray.geo.raster import RasterInfo


def burnt_labels(
    path: str, features: Features, rule: LabelRule, scene: RasterInfo, image: RasterInfo
) -> BurntLabels:
    """Return the labels that the features of a file give a scene.

    ``image`` is the raster whose pixels the file counts in; it is the scene unless that is
    read warped.

    Raises:
        LabelsDoNotMatch: file and scene do not overlap, or one of them has no CRS.
        UnknownClassValue: shapes have a label that is no class.
    """
    notes = Notes(path, list(features.findings))
    placement = Placement(scene, _source_crs(path, features, rule, scene), image)
    _check_size(path, features, image)
    values = class_values(path, features, rule, notes)
    placed = place(features, placement, rule, notes)
    order = _burning_order(features, placed.rows)
    polygons, rows = placed.shapes[order], placed.rows[order]
    bounds = shapely.bounds(polygons)
    inside = _reaches(bounds, scene.window)
    fill = rule.fill
    if len(polygons) and not inside.any():
        fill = _meet_nothing(path, bounds, rule, scene, notes)
    elif not rule.shared:
        _note_beyond(np.asarray(features.ids, object)[rows], bounds, scene, notes)
    _note_small(np.asarray(features.ids, object)[rows][inside], bounds[inside], scene, notes)
    near = _cut(polygons[inside], bounds[inside], scene)
    shapes = Shapes(scene.height, scene.width, near, values[rows][inside], fill)
    return BurntLabels(shapes, tuple(notes.findings))


def _source_crs(
    path: str, features: Features, rule: LabelRule, scene: RasterInfo
) -> pyproj.CRS | None:
    """Return the CRS of a file's coordinates; None of pixels."""
    if features.pixels:
        return None
    declared = features.crs or rule.crs
    if scene.crs is None and declared:
        raise LabelsDoNotMatch(
            path,
            f"is in {_crs(path, declared).name}, its scene {scene.path} has no CRS",
            "Give the scene a georeference, or labels in pixels without a CRS.",
        )
    if scene.crs is None:
        return None
    declared = declared or features.default_crs
    if declared is None:
        raise LabelsDoNotMatch(
            path, f"has no CRS, its scene {scene.path} is in {scene.crs_title}",
            "Name the CRS of the labels in labels_crs.",
        )  # fmt: skip
    return _crs(path, declared)


def _crs(path: str, text: str) -> pyproj.CRS:
    try:
        return pyproj.CRS.from_user_input(text)
    except pyproj.exceptions.CRSError as error:
        raise LabelsDoNotMatch(
            path, f"has the CRS {text[:80]!r}, which nobody knows", "Name its EPSG code."
        ) from error


def _check_size(path: str, features: Features, image: RasterInfo) -> None:
    if features.size is not None and features.size != (image.height, image.width):
        raise LabelsDoNotMatch(
            path,
            f"is of an image of {features.size[0]} x {features.size[1]} pixels, "
            f"{image.path} is {image.height} x {image.width}",
            "Give the labels of this image.",
        )


def class_values(path: str, features: Features, rule: LabelRule, notes: Notes) -> Indexes:
    """Return the class index of each feature, 255 where it has none; one without is noted.

    Raises:
        UnknownClassValue: features have a label that is no class.
    """
    known: dict[str | None, int | None] = {
        label: rule.index(label) for label in features.labels if label is not None
    }
    unknown = Counter(label for label in features.labels if label and known[label] is None)
    if unknown:
        raise unknown_names(path, unknown)
    bare = [i for i, label in zip(features.ids, features.labels, strict=True) if label is None]
    if rule.every is None:
        notes.add("no-class", bare, "without a class", "Their pixels are unlabelled.")
    known[None] = IGNORE if rule.every is None else rule.table.names.index(rule.every)
    return np.array([known[label] for label in features.labels], np.uint8)


def unknown_names(path: str, found: Counter[str]) -> UnknownClassValue:
    """Return the error of names that no class has, the commonest first."""
    common = ", ".join(f"{name!r} ({count})" for name, count in found.most_common(5))
    return UnknownClassValue(
        path,
        f"names {common}{', ...' if len(found) > 5 else ''} in {found.total()} shapes, "
        "which no class has",
        "Add it to classes, or to names with the class that it means (or none).",
    )


def _burning_order(features: Features, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Return the positions in ``rows`` in the order of burning; those without a value first."""
    if features.order is None:
        return np.arange(len(rows))
    keys = [features.order[row] for row in rows]
    number = all(isinstance(key, int | float) for key in keys if key is not None)

    def rank(at: int) -> tuple[bool, Any]:
        key = keys[at]
        return (False, 0) if key is None else (True, key if number else str(key))

    return np.array(sorted(range(len(rows)), key=rank), np.intp)


def _reaches(bounds: Coordinates, window: Window) -> npt.NDArray[np.bool_]:
    """Tell which bounds (shapes, 4) share an area with a window."""
    left, top, right, bottom = bounds.T
    return np.asarray(
        (left < window.col_stop) & (right > window.col)
        & (top < window.row_stop) & (bottom > window.row)
    )  # fmt: skip


FAR = 1 << 24
"""Pixels beyond the raster where shapes are cut: what burns them counts in 32 bits."""


def _cut(polygons: Geometries, bounds: Coordinates, scene: RasterInfo) -> Geometries:
    """Return polygons without what lies far outside the scene."""
    frame = shapely.box(-FAR, -FAR, scene.width + FAR, scene.height + FAR)
    far = (bounds[:, :2] < -FAR).any(axis=1)
    far |= (bounds[:, 2:] > (scene.width + FAR, scene.height + FAR)).any(axis=1)
    out = polygons.copy()
    out[far] = shapely.intersection(polygons[far], frame)
    return out


BEYOND = 1e-3
"""Pixels by which a shape may stand over the raster's edge unsaid."""


def _note_beyond(ids: Any, bounds: Coordinates, scene: RasterInfo, notes: Notes) -> None:
    inside = _reaches(bounds, scene.window)
    left, top, right, bottom = bounds.T
    over = (left < -BEYOND) | (top < -BEYOND)
    over |= (right > scene.width + BEYOND) | (bottom > scene.height + BEYOND)
    outside, partly = list(ids[~inside]), list(ids[inside & over])
    parts = [f"{some(outside)} wholly"] if outside else []
    parts += [f"{some(partly)} partly"] if partly else []
    if parts:
        notes.say("warning", "beyond-raster", f"{' and '.join(parts)} beyond the raster",
                  "What lies inside is used.")  # fmt: skip


def _note_small(ids: Any, bounds: Coordinates, scene: RasterInfo, notes: Notes) -> None:
    """Note shapes that no pixel can belong to; refuse them where all are such, in pixels."""
    first, last = np.ceil(bounds[:, :2] - 0.5), np.floor(bounds[:, 2:] - 0.5)
    small = (last < first).any(axis=1)
    if scene.crs is None and len(bounds) and (bounds[:, 2:] - bounds[:, :2] < 1).all():
        raise LabelsDoNotMatch(
            notes.path,
            f"holds {some(list(ids))} smaller than a pixel, and its scene {scene.path} has no CRS",
            "Give labels in pixels, or the scene a georeference if these are in degrees.",
        )
    if small.any():
        notes.say("note", "no-pixel", f"{some(list(ids[small]))} so small that no pixel's centre "
                  "lies inside", "No pixel is theirs.")  # fmt: skip


def _meet_nothing(
    path: str, bounds: Coordinates, rule: LabelRule, scene: RasterInfo, notes: Notes
) -> int:
    """Return what fills a scene that no shape reaches: its background if it lies among them."""
    extent = np.array([*bounds[:, :2].min(axis=0), *bounds[:, 2:].max(axis=0)])
    if not rule.shared:
        raise apart(path, scene, extent.tolist())
    among = bool(_reaches(extent[None], scene.window)[0])
    fill = rule.fill if among else IGNORE
    notes.say("note", "no-shape-here", f"no shape reaches {scene.path}",
              "It is unlabelled." if fill == IGNORE else "It is background.")  # fmt: skip
    return fill
