"""Features of a label file -> shapes in a scene's pixels."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
import shapely
from rasterio.transform import Affine

from satseg_ray.classes import IGNORE
from satseg_ray.errors import LabelsDoNotMatch, UnknownClassValue
from satseg_ray.findings import Finding, Level
from satseg_ray.geo.grid import Window
from satseg_ray.geo.labels.rule import Indexes, LabelRule
from satseg_ray.geo.labels.shapes import BurntLabels, Geometries, Shapes
from satseg_ray.geo.raster import RasterInfo

Coordinates = npt.NDArray[np.float64]

SEGMENT = 8
"""Pixels between the points of an edge that is carried to another CRS."""
MOST_SEGMENTS = 4096
"""Points along the extent of one shape that is carried to another CRS."""
TRUE_SCALE = 0.002
"""By how much lengths in a CRS may be off for it to measure the width of lines."""


@dataclass(frozen=True)
class Features:
    """What a label file holds, before it is placed on a scene.

    ``geometries``, ``labels`` (None: it has none), ``ids`` and ``order`` (None: file order) have
    one entry for each feature. ``crs`` is what the file declares, ``default_crs`` what its format
    means where it says nothing; ``pixels`` are coordinates in the image (x columns, y rows, from
    the top left corner), whose (height, width) the file knows as ``size``.
    """

    geometries: Geometries
    labels: Sequence[str | None]
    ids: Sequence[str]
    crs: str | None = None
    default_crs: str | None = None
    pixels: bool = False
    order: Sequence[Any] | None = None
    size: tuple[int, int] | None = None
    findings: tuple[Finding, ...] = ()


@dataclass
class Notes:
    """Counts what was met while features are placed; one finding for each kind."""

    path: str
    findings: list[Finding] = field(default_factory=list)

    def add(self, code: str, ids: Sequence[str], problem: str, action: str = "Left out.") -> None:
        """Say that the features ``ids``, if any, have a problem."""
        if ids:
            self.say("warning", code, f"{some(ids)} {problem}", action)

    def say(self, level: Level, code: str, problem: str, action: str) -> None:
        """Add a finding about the file."""
        self.findings.append(Finding(level, code, self.path, problem, action))


def some(ids: Sequence[str]) -> str:
    """Return how many features there are, and the first few of them.

    >>> some(["3", "8"])
    '2 shapes (3, 8)'
    """
    names = ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")
    return f"{len(ids)} shape{'s' * (len(ids) != 1)} ({names})"


def same_crs(left: pyproj.CRS, right: pyproj.CRS) -> bool:
    """Tell whether coordinates need no change between two CRSs, x before y."""
    return bool(left == right or left.equals(right, ignore_axis_order=True))


@dataclass(frozen=True)
class Placement:
    """The way from a file's coordinates to a scene's pixels.

    ``source`` is the CRS of the coordinates, None where they are pixels of ``image``: the scene
    itself, or the raster that is read warped onto the scene's grid.
    """

    scene: RasterInfo
    source: pyproj.CRS | None
    image: RasterInfo

    @property
    def moved(self) -> bool:
        """Tell whether pixels of the image are others in the scene."""
        return (self.image.crs, self.image.transform) != (self.scene.crs, self.scene.transform)

    @cached_property
    def target(self) -> pyproj.CRS | None:
        """The scene's CRS."""
        return pyproj.CRS.from_wkt(self.scene.crs) if self.scene.crs else None

    def to_pixels(self, geometries: Geometries) -> Geometries:
        """Return geometries in the scene's pixels."""
        if self.source is not None or self.moved:
            return self.pixels_of(self.to_scene_crs(geometries))
        return geometries

    def to_scene_crs(self, geometries: Geometries) -> Geometries:
        """Return geometries in the CRS of the scene; in pixels where it has none."""
        source = self.source
        if source is None:
            if self.image.crs is None or self.target is None:
                return geometries
            geometries = _moved(geometries, grid_of(self.image))
            source = pyproj.CRS.from_wkt(self.image.crs)
        assert self.target is not None
        if same_crs(source, self.target):
            return geometries
        geometries = self._densified(geometries, source)
        change = transformer(source.to_wkt(), self.target.to_wkt())
        return np.asarray(shapely.transform(geometries, change, interleaved=False))

    def pixels_of(self, geometries: Geometries) -> Geometries:
        """Return geometries of the scene's CRS in its pixels."""
        return geometries if self.target is None else _moved(geometries, ~grid_of(self.scene))

    def _densified(self, geometries: Geometries, source: pyproj.CRS) -> Geometries:
        """Return geometries with points along their long edges, which other CRSs bend."""
        bounds = shapely.bounds(geometries)
        extent = np.hypot(bounds[:, 2] - bounds[:, 0], bounds[:, 3] - bounds[:, 1])
        step = np.fmax(SEGMENT * self._pixel_in(source), extent / MOST_SEGMENTS)
        step[~np.isfinite(step) | (step <= 0)] = math.inf
        long = extent > step
        whole = shapely.is_valid(geometries)
        out = geometries.copy()
        out[long & whole] = shapely.segmentize(geometries[long & whole], step[long & whole])
        for at in np.flatnonzero(long & ~whole):
            out[at] = _segmentized(geometries[at], step[at])
        return out

    def _pixel_in(self, source: pyproj.CRS) -> float:
        """Return about how wide a pixel at the scene's middle is in units of ``source``."""
        assert self.target is not None
        grid = grid_of(self.scene)
        middle = (self.scene.width / 2, self.scene.height / 2)
        corners = [grid @ (middle[0] + d, middle[1] + d) for d in (0, 1)]
        back = transformer(self.target.to_wkt(), source.to_wkt())
        xs, ys = back(*np.array(corners).T)
        return float(np.hypot(xs[1] - xs[0], ys[1] - ys[0]) / math.sqrt(2))


def _segmentized(shape: Any, step: float) -> Any:
    """Return a shape with more points; GEOS itself drops parts of one that is not valid."""
    if shape.geom_type == "Polygon":
        holes = [shapely.segmentize(ring, step) for ring in shape.interiors]
        return shapely.Polygon(shapely.segmentize(shape.exterior, step), holes)
    if hasattr(shape, "geoms"):
        return type(shape)([_segmentized(part, step) for part in shape.geoms])
    return shapely.segmentize(shape, step)


def grid_of(info: RasterInfo) -> Affine:
    """Return the way from a raster's pixels to its CRS."""
    return Affine.from_gdal(*info.transform) if info.transform else Affine.identity()


def _moved(geometries: Geometries, by: Affine) -> Geometries:
    def move(xy: Coordinates) -> Coordinates:
        x, y = np.where(np.isfinite(xy).all(axis=1), xy.T, 0.0)
        out = np.column_stack([by.a * x + by.b * y + by.c, by.d * x + by.e * y + by.f])
        out[~np.isfinite(xy).all(axis=1)] = np.inf
        return out

    return np.asarray(shapely.transform(geometries, move))


@lru_cache(maxsize=64)
def transformer(source: str, target: str) -> Callable[..., Any]:
    """Return the change of coordinates, x before y, between two CRSs (WKT)."""
    change: Callable[..., Any] = pyproj.Transformer.from_crs(
        source, target, always_xy=True
    ).transform
    return change


# --- polygons out of what a file holds


@dataclass
class Sieve:
    """The shapes that are still there, and which feature each comes from."""

    shapes: Geometries
    rows: npt.NDArray[np.intp]
    ids: npt.NDArray[Any]
    notes: Notes

    def keep(self, good: npt.NDArray[np.bool_], code: str, problem: str) -> None:
        """Leave out, and note, the shapes that are not good."""
        self.note(~good, code, problem, "Left out.")
        self.rows, self.shapes = self.rows[good], self.shapes[good]

    def note(self, those: npt.NDArray[np.bool_], code: str, problem: str, action: str) -> None:
        """Note some of the shapes."""
        self.notes.add(code, list(self.ids[self.rows[those]]), problem, action)


def place(features: Features, placement: Placement, rule: LabelRule, notes: Notes) -> Sieve:
    """Return the polygons of all features in the scene's pixels; what has none is noted."""
    found = Sieve(
        features.geometries, np.arange(len(features.ids)), np.asarray(features.ids, object), notes
    )
    there = ~(shapely.is_missing(found.shapes) | shapely.is_empty(found.shapes))
    found.keep(there, "null-geometry", "without a geometry")
    found.shapes = np.asarray(shapely.force_2d(found.shapes))
    found.keep(_finite(found.shapes), "bad-coordinates", "with coordinates that are no numbers")
    if rule.line_width is None:
        areas = shapely.get_dimensions(found.shapes) == 2
        found.keep(areas, "line-without-width", "that are lines or points, without a line_width")
    found.shapes = _in_pixels(found.shapes, placement, rule.line_width or 0.0)
    found.keep(_finite(found.shapes), "bad-coordinates", "that the scene's CRS has no place for")
    _repair(found)
    found.keep(~shapely.is_empty(found.shapes), "no-area", "without an area")
    return found


def _in_pixels(shapes: Geometries, placement: Placement, width: float) -> Geometries:
    """Return polygons, and lines made ``width`` metres wide, in the scene's pixels."""
    thin = shapely.get_dimensions(shapes) < 2
    out = np.empty(len(shapes), object)
    out[~thin] = placement.to_pixels(shapes[~thin])
    out[thin] = _widened(shapes[thin], placement, width)
    return out


def _repair(found: Sieve) -> None:
    """Make all shapes valid polygons, or empty."""
    broken = ~shapely.is_valid(found.shapes)
    found.note(broken, "repaired-geometry", "with an outline that crosses itself",
               "Repaired (make_valid).")  # fmt: skip
    mixed = shapely.get_type_id(found.shapes) == shapely.GeometryType.GEOMETRYCOLLECTION
    found.note(mixed, "mixed-geometry", "that are collections",
               "Their polygons alone are used.")  # fmt: skip
    found.shapes = found.shapes.copy()
    found.shapes[broken] = shapely.make_valid(
        found.shapes[broken], method="structure", keep_collapsed=False
    )
    mixed = shapely.get_type_id(found.shapes) == shapely.GeometryType.GEOMETRYCOLLECTION
    found.shapes[mixed] = [shapely.union_all(_parts(shape)) for shape in found.shapes[mixed]]


def _finite(shapes: Geometries) -> npt.NDArray[np.bool_]:
    coordinates, owner = shapely.get_coordinates(shapes, return_index=True)
    finite = np.ones(len(shapes), np.bool_)
    finite[owner[~np.isfinite(coordinates).all(axis=1)]] = False
    return finite


def _parts(shape: Any) -> Geometries:
    """Return the polygons in a collection, however deep."""
    parts = shapely.get_parts([shape])
    while (nested := shapely.get_type_id(parts) > 3).any():
        parts = np.concatenate([parts[~nested], shapely.get_parts(parts[nested])])
    return np.asarray(parts[shapely.get_dimensions(parts) == 2])


# --- lines and points


def _widened(shapes: Geometries, placement: Placement, width: float) -> Geometries:
    """Return lines and points ``width`` metres wide, in the scene's pixels.

    In pixels where the scene has no CRS. Metres are measured in the scene's CRS where it keeps
    lengths there, else in one of its own for each degree.
    """
    if not len(shapes):
        return shapes
    lines = placement.to_scene_crs(shapes)
    if placement.target is None:
        return _buffered(lines, width)
    unit = _metres(placement)
    if unit is None:
        wide = _widened_locally(lines, placement.target, width)
    else:
        wide = _buffered(lines, width / unit)
    return placement.pixels_of(wide)


def _buffered(lines: Geometries, width: float) -> Geometries:
    return np.asarray(shapely.buffer(lines, width / 2, quad_segs=16))


def _metres(placement: Placement) -> float | None:
    """Return the metres of a unit of the scene's CRS; None where it stretches lengths."""
    target = placement.target
    assert target is not None
    if not target.is_projected:
        return None
    x, y = grid_of(placement.scene) @ (placement.scene.width / 2, placement.scene.height / 2)
    unit = float(target.axis_info[0].unit_conversion_factor)
    geographic = target.geodetic_crs
    if geographic is None:
        return None
    lon, lat = transformer(target.to_wkt(), geographic.to_wkt())(x, y)
    scale = pyproj.Proj(target).get_factors(lon, lat)
    stretch = max(abs(scale.meridional_scale - 1), abs(scale.parallel_scale - 1))
    return unit if stretch <= TRUE_SCALE else None


def _widened_locally(lines: Geometries, crs: pyproj.CRS, width: float) -> Geometries:
    """Return lines widened in a CRS of true lengths around each degree that has some."""
    middle = np.column_stack([shapely.get_x(c := shapely.centroid(lines)), shapely.get_y(c)])
    to_degrees = transformer(crs.to_wkt(), "EPSG:4326")
    cells = np.nan_to_num(np.rint(np.column_stack(to_degrees(*middle.T))), posinf=0, neginf=0)
    out = lines.copy()
    for lon, lat in np.unique(cells, axis=0):
        here = (cells == (lon, lat)).all(axis=1)
        local = f"+proj=aeqd +lon_0={lon:g} +lat_0={np.clip(lat, -90, 90):g} +datum=WGS84 +units=m"
        there, back = transformer(crs.to_wkt(), local), transformer(local, crs.to_wkt())
        flat = shapely.transform(lines[here], there, interleaved=False)
        out[here] = shapely.transform(_buffered(flat, width), back, interleaved=False)
    return out


# --- classes, order and extent


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
    shapes = Shapes(scene.height, scene.width, polygons[inside], values[rows][inside], fill)
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


def apart(path: str, scene: RasterInfo, extent: Sequence[float]) -> LabelsDoNotMatch:
    """Return the error of labels whose bounds, in the scene's pixels, lie outside the scene."""
    own = _described(scene, (0, 0, scene.width, scene.height))
    return LabelsDoNotMatch(
        path,
        f"lies at {_described(scene, extent)}, its scene {scene.path} at {own}: "
        "they do not overlap",
        "Give the labels of this scene, or correct the CRS of one of them.",
    )


def bounds_on(info: RasterInfo, scene: RasterInfo) -> list[float]:
    """Return left, top, right and bottom of a georeferenced raster in a scene's pixels."""
    outline = np.array([shapely.box(0, 0, info.width, info.height)])
    bounds = shapely.bounds(Placement(scene, None, info).to_pixels(outline))[0]
    return [float(value) for value in bounds]


def _described(scene: RasterInfo, bounds: Sequence[float]) -> str:
    """Return bounds in pixels as text, in the scene's CRS where it has one."""
    box = shapely.box(*bounds)
    if scene.crs is None:
        left, top, right, bottom = shapely.bounds(box)
        return f"x {left:.6g} to {right:.6g}, y {top:.6g} to {bottom:.6g} in pixels"
    left, bottom, right, top = shapely.bounds(_moved(np.array([box]), grid_of(scene)))[0]
    digits = 9 if abs(right - left) < 1 else 2
    return (
        f"x {left:.{digits}f} to {right:.{digits}f}, y {bottom:.{digits}f} to {top:.{digits}f} "
        f"in {scene.crs_title}"
    )
