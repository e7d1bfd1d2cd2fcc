"""Features of a label file -> the labels of a scene: classes, order, extent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
import shapely

from satseg_ray.classes import IGNORE
from satseg_ray.errors import LabelsDoNotMatch, UnknownClassValue
from satseg_ray.findings import Finding
from satseg_ray.geo.grid import Window
from satseg_ray.geo.labels.features import Features, Notes, ShapeFile, some
from satseg_ray.geo.labels.place import Placement, apart
from satseg_ray.geo.labels.polygons import place
from satseg_ray.geo.labels.rule import Indexes, LabelRule
from satseg_ray.geo.labels.shapes import BurntLabels, Coordinates, Geometries, Shapes
from satseg_ray.geo.raster import RasterInfo


def burnt_labels(
    file: ShapeFile, rule: LabelRule, scene: RasterInfo, image: RasterInfo
) -> BurntLabels:
    """Return the labels that the shapes of a file give a scene.

    ``image`` is the raster whose pixels the file counts in; it is the scene unless that is
    read warped.

    Raises:
        LabelsDoNotMatch: file and scene do not overlap, or one of them has no CRS.
        UnknownClassValue: shapes have a label that is no class.
    """
    path, features = file.path, file.features
    notes = Notes(path, list(features.findings))
    placement = Placement(scene, _source_crs(path, features, rule, scene), image)
    if placement.source is None and not features.pixels:
        _doubt_pixels(file, scene, notes)
    _check_size(path, features, image)
    values = class_values(path, features, rule, notes)
    placed = _placed(file, placement, rule)
    notes.findings += [*file.sound.findings, *placed.findings]
    fill = rule.fill
    if placed.any and not placed.inside.any():
        fill = _meet_nothing(file, placed, rule, placement, notes)
    elif not rule.shared:
        _note_beyond(features, placed, scene, notes)
    rows, bounds = placed.rows[placed.inside], placed.bounds[placed.inside]
    _note_small(_ids(features, rows), bounds, scene, notes)
    order = _burning_order(features, rows)
    polygons = _cut(placed.polygons[placed.inside], bounds, scene)
    shapes = Shapes(scene.height, scene.width, polygons[order], values[rows[order]], fill)
    return BurntLabels(shapes, tuple(notes.findings))


@dataclass(frozen=True)
class _Placed:
    """The polygons in a scene's pixels of the shapes that may reach it; ``far`` are others' rows.

    ``rows`` says which feature each polygon comes from, ``bounds`` where it lies, ``inside``
    whether that is in the scene.
    """

    polygons: Geometries
    rows: npt.NDArray[np.intp]
    far: npt.NDArray[np.intp]
    bounds: Coordinates
    inside: npt.NDArray[np.bool_]
    findings: Sequence[Finding]

    @property
    def any(self) -> bool:
        """Whether there is any shape, wherever."""
        return bool(len(self.rows) or len(self.far))


def _placed(file: ShapeFile, placement: Placement, rule: LabelRule) -> _Placed:
    """Return the shapes of a file as a scene sees them.

    Those far away are left as they are, unless no other reaches a scene whose own labels they
    are: then all are placed, so that it can be said where.
    """
    near = placement.near(file.sound.bounds, rule.line_width or 0.0)
    found = _placed_of(file, near, placement, rule)
    if rule.shared or near.all() or found.inside.any():
        return found
    return _placed_of(file, np.ones_like(near), placement, rule)


def _placed_of(
    file: ShapeFile, near: npt.NDArray[np.bool_], placement: Placement, rule: LabelRule
) -> _Placed:
    found = place(file, near, placement, rule.line_width or 0.0)
    bounds = shapely.bounds(found.shapes).reshape(-1, 4)
    inside = _reaches(bounds, placement.scene.window)
    far = file.sound.rows[~near]
    return _Placed(found.shapes, found.rows, far, bounds, inside, found.notes.findings)


def _ids(features: Features, rows: npt.NDArray[np.intp]) -> list[str]:
    return [features.ids[row] for row in rows]


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
            "Name the CRS of the labels in shapes.crs.",
        )  # fmt: skip
    return _crs(path, declared)


def _crs(path: str, text: str) -> pyproj.CRS:
    try:
        return pyproj.CRS.from_user_input(text)
    except pyproj.exceptions.CRSError as error:
        raise LabelsDoNotMatch(
            path, f"has the CRS {text[:80]!r}, which nobody knows", "Name its EPSG code."
        ) from error


DEGREES = (180.0, 90.0)
"""Greatest longitude and latitude."""


def _doubt_pixels(file: ShapeFile, scene: RasterInfo, notes: Notes) -> None:
    """Say that coordinates are taken as pixels, where they may as well be degrees.

    They may where the format means degrees, all lie among those of the Earth and most have a
    fraction, and the image is larger than that, or does not hold them all.
    """
    corners = shapely.get_coordinates(file.sound.shapes)
    if file.features.default_crs is None or not len(corners) or (np.abs(corners) > DEGREES).any():
        return
    size = np.array([scene.width, scene.height])
    odd = (size > DEGREES).all() or (corners < 0).any() or (corners > size).any()
    if odd and (corners != corners.round()).mean() > 0.5:
        notes.say(
            "warning",
            "taken-as-pixels",
            f"has coordinates that may be degrees, and its scene {scene.path} has no CRS",
            "Taken as pixels. Give the scene a georeference if they are degrees.",
        )


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
        "Add it to classes, or to shapes.names with the class that it means (or none).",
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


def _note_beyond(features: Features, placed: _Placed, scene: RasterInfo, notes: Notes) -> None:
    left, top, right, bottom = placed.bounds.T
    over = (left < -BEYOND) | (top < -BEYOND)
    over |= (right > scene.width + BEYOND) | (bottom > scene.height + BEYOND)
    out = np.sort(np.concatenate([placed.far, placed.rows[~placed.inside]]))
    outside, partly = _ids(features, out), _ids(features, placed.rows[placed.inside & over])
    parts = [f"{some(outside)} wholly"] if outside else []
    parts += [f"{some(partly)} partly"] if partly else []
    if parts:
        notes.say("warning", "beyond-raster", f"{' and '.join(parts)} beyond the raster",
                  "What lies inside is used.")  # fmt: skip


def _note_small(ids: list[str], bounds: Coordinates, scene: RasterInfo, notes: Notes) -> None:
    """Note shapes that no pixel can belong to; refuse them where all are such, in pixels."""
    first, last = np.ceil(bounds[:, :2] - 0.5), np.floor(bounds[:, 2:] - 0.5)
    small = np.asarray((last < first).any(axis=1))
    if scene.crs is None and len(bounds) and (bounds[:, 2:] - bounds[:, :2] < 1).all():
        raise LabelsDoNotMatch(
            notes.path,
            f"holds {some(ids)} smaller than a pixel, and its scene {scene.path} has no CRS",
            "Give labels in pixels, or the scene a georeference if these are in degrees.",
        )
    if small.any():
        names = [name for name, is_one in zip(ids, small, strict=True) if is_one]
        notes.say("note", "no-pixel", f"{some(names)} so small that no pixel's centre "
                  "lies inside", "No pixel is theirs.")  # fmt: skip


def _meet_nothing(
    file: ShapeFile, placed: _Placed, rule: LabelRule, placement: Placement, notes: Notes
) -> int:
    """Return what fills a scene that no shape reaches: its background if it lies among them."""
    scene = placement.scene
    if not rule.shared:
        raise apart(file.path, scene, _extent(placed.bounds)[0].tolist())
    if len(placed.far):
        among = bool(placement.near(_extent(file.sound.bounds), grown=False)[0])
    else:
        among = bool(_reaches(_extent(placed.bounds), scene.window)[0])
    fill = rule.fill if among else IGNORE
    notes.say("note", "no-shape-here", f"no shape reaches {scene.path}",
              "It is unlabelled." if fill == IGNORE else "It is background.")  # fmt: skip
    return fill


def _extent(bounds: Coordinates) -> Coordinates:
    """Return the bounds (1, 4) of all bounds."""
    return np.array([[*bounds[:, :2].min(axis=0), *bounds[:, 2:].max(axis=0)]])
