"""The way from the coordinates of a label file to the pixels of a scene."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
import shapely
from rasterio.transform import Affine

from satseg_ray.errors import LabelsDoNotMatch
from satseg_ray.geo.labels.shapes import Geometries
from satseg_ray.geo.raster import RasterInfo

Coordinates = npt.NDArray[np.float64]

SEGMENT = 8
"""Pixels between the points of an edge that is carried to another CRS."""
MOST_SEGMENTS = 4096
"""Points along the extent of one shape that is carried to another CRS."""


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
    """Return the change of coordinates, x before y, between two CRSs (WKT).

    Raises:
        LabelsDoNotMatch: there is none, as from a site's own CRS to one of the Earth.
    """
    try:
        change = pyproj.Transformer.from_crs(source, target, always_xy=True)
    except pyproj.exceptions.ProjError as error:
        names = [pyproj.CRS.from_user_input(text).name for text in (source, target)]
        raise LabelsDoNotMatch(
            f"the CRS {names[0]}", f"has no way to {names[1]}", "Give a CRS of the Earth."
        ) from error
    carried: Callable[..., Any] = change.transform
    return carried


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
