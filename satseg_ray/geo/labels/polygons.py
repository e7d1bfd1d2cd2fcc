"""Features of a label file -> valid polygons in a scene's pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
import shapely

from satseg_ray.geo.labels.features import Features, Notes, ShapeFile, Sound
from satseg_ray.geo.labels.place import Placement, grid_of, transformer
from satseg_ray.geo.labels.shapes import Geometries

TRUE_SCALE = 0.002
"""By how much lengths in a CRS may be off for it to measure the width of lines."""


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


def sound(path: str, features: Features, widened: bool) -> Sound:
    """Return the shapes of a file that any scene can take; lines and points if they are widened."""
    notes = Notes(path)
    found = Sieve(
        features.geometries, np.arange(len(features.ids)), np.asarray(features.ids, object), notes
    )
    there = ~(shapely.is_missing(found.shapes) | shapely.is_empty(found.shapes))
    found.keep(there, "null-geometry", "without a geometry")
    found.shapes = np.asarray(shapely.force_2d(found.shapes))
    found.keep(_finite(found.shapes), "bad-coordinates", "with coordinates that are no numbers")
    if not widened:
        areas = shapely.get_dimensions(found.shapes) == 2
        found.keep(areas, "line-without-width", "of lines or points, without shapes.line_width")
    areas = shapely.get_dimensions(found.shapes) == 2
    found.note(areas & ~shapely.is_valid(found.shapes), "repaired-geometry",
               "with an outline that crosses itself", "Repaired (make_valid).")  # fmt: skip
    found.note(areas & _collections(found.shapes), "mixed-geometry", "of several kinds in one",
               "Their polygons alone are used.")  # fmt: skip
    found.shapes = _repair(found.shapes)
    found.keep(~shapely.is_empty(found.shapes), "no-area", "without an area")
    bounds = np.asarray(shapely.bounds(found.shapes), np.float64).reshape(-1, 4)
    return Sound(found.shapes, found.rows, bounds, tuple(notes.findings))


def place(
    file: ShapeFile, near: npt.NDArray[np.bool_], placement: Placement, width: float
) -> Sieve:
    """Return the polygons in the scene's pixels of those shapes of a file that are ``near``."""
    ids = np.asarray(file.features.ids, object)
    found = Sieve(file.sound.shapes[near], file.sound.rows[near], ids, Notes(file.path))
    found.shapes = _in_pixels(found.shapes, placement, width)
    found.keep(_finite(found.shapes), "bad-coordinates", "that the scene's CRS has no place for")
    found.shapes = _repair(found.shapes)  # by rounding, an outline may cross itself again
    found.keep(~shapely.is_empty(found.shapes), "no-area", "without an area")
    return found


def _in_pixels(shapes: Geometries, placement: Placement, width: float) -> Geometries:
    """Return polygons, and lines made ``width`` metres wide, in the scene's pixels."""
    thin = shapely.get_dimensions(shapes) < 2
    out = np.empty(len(shapes), object)
    out[~thin] = placement.to_pixels(shapes[~thin])
    out[thin] = _widened(shapes[thin], placement, width)
    return out


def _repair(shapes: Geometries) -> Geometries:
    """Return shapes of which all areas are valid polygons, or empty."""
    areas = shapely.get_dimensions(shapes) == 2
    broken = areas & ~shapely.is_valid(shapes)
    out = shapes.copy()
    out[broken] = shapely.make_valid(shapes[broken], method="structure", keep_collapsed=False)
    mixed = areas & _collections(out)
    out[mixed] = [shapely.union_all(_parts(shape)) for shape in out[mixed]]
    return out


def _collections(shapes: Geometries) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_]
    found = shapely.get_type_id(shapes) == shapely.GeometryType.GEOMETRYCOLLECTION
    return found


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
    """Return lines as areas; those without a place stay, since GEOS would crash of them."""
    out, there = lines.copy(), _finite(lines)
    out[there] = shapely.buffer(lines[there], width / 2, quad_segs=16)
    return out


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
    try:
        scale = pyproj.Proj(target).get_factors(lon, lat)
    except pyproj.exceptions.ProjError:
        return None
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
