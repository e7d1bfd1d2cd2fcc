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
from satseg_ray.geo.labels.shapes import Coordinates, Geometries
from satseg_ray.geo.raster import RasterInfo

SEGMENT = 8
"""Pixels between the points of an edge that is carried to another CRS."""
MOST_SEGMENTS = 4096
"""Points along the extent of one shape that is carried to another CRS."""
MARGIN = 0.05
"""Share of a scene's longer side by which it is grown before shapes far from it are cut off."""
STRETCH = 16
"""By how much the metres of a projection may be longer than those on the ground."""


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

    def near(
        self, bounds: Coordinates, width: float = 0.0, grown: bool = True
    ) -> npt.NDArray[np.bool_]:
        """Tell which bounds (shapes, 4) in the file's coordinates may reach the scene.

        Lines get ``width`` metres. Law: what reaches the scene is among them if the scene is
        ``grown``, and so is what has no place on the Earth. All are, where nobody can tell.
        """
        box = self._scene_box(width if grown else None)
        if box is None or self.source is None:
            return np.ones(len(bounds), np.bool_)
        if not self.source.is_geographic:
            return _meet(bounds, box)
        found = np.asarray((np.abs(bounds[:, 1::2]) > 90).any(axis=1))
        for turn in (-360.0, 0.0, 360.0):
            found = found | _meet(bounds + np.array([turn, 0, turn, 0]), box)
        return found

    def _scene_box(self, width: float | None) -> Coordinates | None:
        """Return the scene's bounds in the file's CRS, grown with a width; None if not sure."""
        scene, gsd = self.scene, self.scene.gsd
        if self.target is None or self.source is None or gsd is None:
            return None
        margin = 0.0
        if width is not None:
            margin = 2 + MARGIN * max(scene.height, scene.width) + STRETCH * width / min(gsd)
        along = np.linspace(0, 1, NET)
        cols, rows = (along * (n + 2 * margin) - margin for n in (scene.width, scene.height))
        xs, ys = grid_of(scene) @ tuple(part.ravel() for part in np.meshgrid(cols, rows))
        box = np.array([xs.min(), ys.min(), xs.max(), ys.max()])
        if same_crs(self.source, self.target):
            return box
        change = _changer(self.target.to_wkt(), self.source.to_wkt())
        xs, ys = change.transform(xs, ys)
        try:
            left, bottom, right, top = box.tolist()
            box = np.array(change.transform_bounds(left, bottom, right, top, NET))
        except pyproj.exceptions.ProjError:
            return None
        if self.source.is_geographic:
            box[2] += 360 * (box[2] < box[0])  # across the date line
            xs = box[0] + (xs - box[0] + 180) % 360 - 180 if box[2] - box[0] < 180 else xs
        slack = (box[2:] - box[:2]) / 100
        box += np.concatenate([-slack, slack])
        net = np.column_stack([xs, ys, xs, ys])
        return box if np.isfinite(net).all() and _meet(net, box).all() else None

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


NET = 17
"""Points along each side of a scene that tell where it lies in another CRS."""


def _meet(bounds: Coordinates, box: Coordinates) -> npt.NDArray[np.bool_]:
    """Tell which bounds (shapes, 4) touch a box: left, bottom, right, top."""
    low, high = bounds[:, :2] <= box[2:], bounds[:, 2:] >= box[:2]
    return np.asarray((low & high).all(axis=1))


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


def transformer(source: str, target: str) -> Callable[..., Any]:
    """Return the change of coordinates, x before y, between two CRSs (WKT).

    Raises:
        LabelsDoNotMatch: there is none, as from a site's own CRS to one of the Earth.
    """
    carried: Callable[..., Any] = _changer(source, target).transform
    return carried


@lru_cache(maxsize=64)
def _changer(source: str, target: str) -> pyproj.Transformer:
    try:
        return pyproj.Transformer.from_crs(source, target, always_xy=True)
    except pyproj.exceptions.ProjError as error:
        names = [pyproj.CRS.from_user_input(text).name for text in (source, target)]
        raise LabelsDoNotMatch(
            f"the CRS {names[0]}", f"has no way to {names[1]}", "Give a CRS of the Earth."
        ) from error


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
