"""Which patches of different scenes show the same ground: bounding boxes in one CRS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.transform import Affine
from rasterio.warp import transform

from satseg_ray.geo.grid import Window

Boxes = npt.NDArray[np.float64]
"""Bounding boxes (n, 4): least x, least y, greatest x, greatest y."""

Points = npt.NDArray[np.float64]
"""Positions (..., 2): x, y."""

_WORLD = "EPSG:4326"
SOMEWHERE = 'LOCAL_CS["not named",UNIT["metre",1]]'
"""Stands for the CRS of scenes that have a transform and no CRS: one of their own, all the same."""
_EVERYWHERE = (-np.inf, -np.inf, np.inf, np.inf)
_DENSE = 9
"""Points on each side of a window that goes into another CRS."""
_TORN = 10
"""Times that a step along a side may be longer than most before the side counts as torn."""
_ROUNDING = 0.01
"""Pixels by which neighbours may overlap: what is left of rounded georeferences."""
_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Footprint:
    """Where a scene lies: its CRS as WKT and GDAL's six numbers."""

    crs: str
    transform: tuple[float, ...]

    def to_ground(self, pixels: Points) -> Points:
        """Return the ground under positions (column, row), counted in pixels from the corner."""
        return _applied(Affine.from_gdal(*self.transform), pixels)

    def to_pixels(self, ground: Points) -> Points:
        """Return the position (column, row) of points on the ground, in the scene's CRS."""
        return _applied(~Affine.from_gdal(*self.transform), ground)

    @property
    def pixel(self) -> float:
        """The shorter side of a pixel, in units of the CRS."""
        _, a, b, _, d, e = self.transform
        return float(min(np.hypot(a, d), np.hypot(b, e)))


def nowhere(name: str) -> Footprint:
    """Return a footprint that has ground in common with those of the same name alone.

    A pixel is a unit; the name is of letters and digits.
    """
    return Footprint(f'LOCAL_CS["{name}",UNIT["metre",1]]', (0.0, 1.0, 0.0, 0.0, 0.0, -1.0))


def _applied(matrix: Affine, points: Points) -> Points:
    x, y = points[..., 0], points[..., 1]
    return np.stack(
        [matrix.a * x + matrix.b * y + matrix.c, matrix.d * x + matrix.e * y + matrix.f], axis=-1
    )


@lru_cache(maxsize=4096)
def _same(one: str, other: str) -> bool:
    return one == other or bool(CRS.from_user_input(one) == CRS.from_user_input(other))


def _moved(points: Points, source: str, target: str) -> Points:
    """Return points in another CRS; what cannot be transformed is not finite."""
    flat = points.reshape(-1, 2)
    try:
        xs, ys = transform(source, target, flat[:, 0], flat[:, 1])
    except (RasterioError, CPLE_BaseError):  # an engineering CRS is nowhere else
        return np.full(points.shape, np.inf)
    return np.stack([xs, ys], axis=-1).reshape(points.shape)


def boxes(windows: npt.NDArray[np.int64], footprint: Footprint, crs: str) -> Boxes:
    """Return the bounding boxes in ``crs`` of windows (n, 4): row, column, height, width.

    In another CRS than the scene's they are those of the windows grown by a pixel, so that no
    bent side leaves its box. A window that has no place in ``crs``, or that is torn apart there
    (by a pole, or the date line), is everywhere.
    """
    same = _same(footprint.crs, crs)
    grown = 0 if same else 1
    along = np.linspace(0, 1, 2 if same else _DENSE)
    ends = np.zeros_like(along)
    sides = np.concatenate(
        [
            np.stack(side, axis=-1)
            for side in ((along, ends), (along, ends + 1), (ends, along), (ends + 1, along))
        ]
    )
    start = windows[:, None, 1::-1] - grown
    size = windows[:, None, 3:1:-1] + 2 * grown
    points = footprint.to_ground(start + sides * size)
    if not same:
        points = _moved(points, footprint.crs, crs)
    found: Boxes = np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)
    found[~np.isfinite(found).all(axis=1)] = _EVERYWHERE
    if not same:
        found[_torn(points)] = _EVERYWHERE
    return found


def _torn(points: Points) -> npt.NDArray[np.bool_]:
    """Tell of windows by the points (n, 4 * dense, 2) of their sides whether a side is torn."""
    sides = points.reshape(len(points), 4, -1, 2)
    with np.errstate(invalid="ignore"):
        steps = np.linalg.norm(np.diff(sides, axis=2), axis=3)
        torn: npt.NDArray[np.bool_] = (
            steps.max(axis=2) > _TORN * np.median(steps, axis=2) + 1e-9
        ).any(axis=1)
    return torn


def _rows(windows: Sequence[Window]) -> npt.NDArray[np.int64]:
    return np.array([(w.row, w.col, w.height, w.width) for w in windows], np.int64).reshape(-1, 4)


def neighbours(
    windows: Sequence[Window], footprints: Sequence[Footprint | None]
) -> list[tuple[int, int]]:
    """Return the pairs of scenes whose ground may be the same, by position, in order.

    Law: two windows that share ground are a pair; some pairs may share none. A CRS that has no
    place on the globe is compared with itself alone. Elsewhere boxes around points in space are
    compared, for which neither poles nor the date line are anything special.
    """
    frames: dict[str, tuple[list[int], list[Boxes]]] = {}
    for i, (window, footprint) in enumerate(zip(windows, footprints, strict=True)):
        if footprint is not None:
            frame, box = _framed(window, footprint)
            places, found = frames.setdefault(frame, ([], []))
            places.append(i)
            found.append(box)
    pairs = []
    for places, found in frames.values():
        low, high = np.split(np.stack(found), 2, axis=1)
        polygons = shapely.box(*low[:, :2].T, *high[:, :2].T)
        left, right = shapely.STRtree(polygons).query(polygons)
        meet = ((low[left] <= high[right]) & (high[left] >= low[right])).all(axis=1)
        met = zip(left[meet], right[meet], strict=True)
        pairs += [(places[a], places[b]) for a, b in met if a < b]
    return sorted(pairs)


def _framed(window: Window, footprint: Footprint) -> tuple[str, Boxes]:
    """Return the frame in which a scene is compared, and its box there: least, then greatest.

    On the globe the box is in space, (6,) in radii of a unit sphere; else it is (4,) in the CRS.
    """
    along = np.linspace(0, 1, _DENSE)
    net = np.stack(np.meshgrid(along, along), axis=-1)
    start, size = np.array([window.col, window.row]), np.array([window.width, window.height])
    world = _moved(footprint.to_ground(start + net * size), footprint.crs, _WORLD)
    placed = np.isfinite(world).all(axis=-1)
    if not placed.any():
        return footprint.crs, boxes(_rows([window]), footprint, footprint.crs)[0]
    if not placed.all():  # some of it lies beyond the Earth's edge
        return _WORLD, np.repeat([-1.0, 1.0], 3)
    return _WORLD, _box_in_space(world)


def _box_in_space(world: Points) -> Boxes:
    """Return the box (6,) of all that a net (rows, columns, 2) of longitude and latitude spans."""
    lon, lat = np.moveaxis(np.radians(world), -1, 0)
    space = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
    # Between two points a line leaves their chord by an eighth of the second difference
    bends = [np.abs(np.diff(space, 2, axis=axis)).max() for axis in (0, 1)]
    margin = max(bends) * np.sqrt(3) + 1e-9
    flat = space.reshape(-1, 3)
    return np.concatenate([flat.min(axis=0) - margin, flat.max(axis=0) + margin])


def pixel_area(footprint: Footprint) -> float:
    """Return about how large a pixel is, in square degrees of the equator, or of the CRS."""
    corner = footprint.to_ground(np.array([[0, 0], [100, 0], [0, 100]], float))
    world = _moved(corner, footprint.crs, _WORLD)
    if np.isfinite(world).all():
        corner = world * (max(np.cos(np.radians(world[0, 1])), 1e-3), 1)
    (ax, ay), (bx, by) = corner[1] - corner[0], corner[2] - corner[0]
    return float(max(abs(ax * by - ay * bx) / 1e4, 1e-300))


def known(footprint: Footprint | None) -> Footprint:
    """Return a footprint that is known to be there."""
    assert footprint is not None
    return footprint


def carried(points: Points, source: Footprint, target: Footprint) -> Points:
    """Return where positions (column, row) of one scene lie in another one, in its pixels."""
    ground = source.to_ground(points)
    if not _same(source.crs, target.crs):
        ground = _moved(ground, source.crs, target.crs)
    if _in_degrees(target.crs):  # once around the Earth is the same place
        turns = np.round((target.transform[0] - ground[..., 0]) / 360)
        ground = np.stack([ground[..., 0] + 360 * turns, ground[..., 1]], axis=-1)
    return target.to_pixels(ground)


@lru_cache(maxsize=4096)
def _in_degrees(crs: str) -> bool:
    return bool(CRS.from_user_input(crs).is_geographic)


def _turns(crs: str) -> tuple[Boxes, ...]:
    """Return what may be added to boxes in a CRS that stay at the same place."""
    once = np.array([360.0, 0, 360, 0])
    return (0 * once, -once, once) if _in_degrees(crs) else (0 * once,)


def shared_share(one: Window, first: Footprint, other: Window, second: Footprint) -> float:
    """Return which share of the smaller of two scenes lies on the ground of both.

    It is counted in the CRS of one of them; where that tells of neither, it is 0.
    """
    for crs in (first.crs, second.crs):
        a, b = boxes(_rows([one]), first, crs)[0], boxes(_rows([other]), second, crs)[0]
        if np.isfinite(np.stack([a, b])).all():
            return max(_common_share(a, b + turn) for turn in _turns(crs))
    return 0.0


def _common_share(a: Boxes, b: Boxes) -> float:
    common = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    smaller = min(np.prod(a[2:] - a[:2]), np.prod(b[2:] - b[:2]))
    return float(np.prod(np.maximum(common, 0)) / max(smaller, 1e-300))


@dataclass(frozen=True)
class Patches:
    """Windows (n, 4) of one scene, and where the scene lies."""

    windows: npt.NDArray[np.int64]
    footprint: Footprint


def on_ground_of(held: Patches, others: Patches) -> npt.NDArray[np.bool_]:
    """Tell of each of ``others`` whether some of its ground is that of a held-out patch.

    What neighbours have in common by rounding, a hundredth of a pixel, does not count.
    """
    hit = np.zeros(len(others.windows), np.bool_)
    if not len(held.windows) or not len(others.windows):
        return hit
    crs = held.footprint.crs
    extent = _shrunk(boxes(_whole(held.windows), held.footprint, crs), held)
    tree: Any = None
    for turn in _turns(crs):
        if not _meet(extent - turn, others, crs).any():
            continue
        if tree is None:
            mine = _shrunk(boxes(held.windows, held.footprint, crs), held)
            tree = shapely.STRtree(shapely.box(*mine.T))
        for part in _parts(len(hit)):
            mine = boxes(others.windows[part], others.footprint, crs).clip(-1e30, 1e30)
            hit[part] |= _any_hit(tree, mine + turn)
    return hit


def _any_hit(tree: Any, mine: Boxes) -> npt.NDArray[np.bool_]:
    found = np.zeros(len(mine), np.bool_)
    for part in _parts(len(mine), 4096):
        places, _ = tree.query(shapely.box(*mine[part].T))
        found[part.start + np.unique(places)] = True
    return found


def _parts(count: int, size: int = _AT_ONCE) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def _whole(windows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the one window (1, 4) that holds all."""
    first = windows[:, :2].min(axis=0)
    return np.concatenate([first, (windows[:, :2] + windows[:, 2:]).max(axis=0) - first])[None]


def _shrunk(found: Boxes, patches: Patches) -> Boxes:
    margin = _ROUNDING * patches.footprint.pixel
    shrunk: Boxes = found + np.array([margin, margin, -margin, -margin])
    return shrunk


def _meet(extent: Boxes, others: Patches, crs: str) -> npt.NDArray[np.bool_]:
    mine = boxes(_whole(others.windows), others.footprint, crs)
    met = (mine[:, :2] <= extent[:, 2:]) & (mine[:, 2:] >= extent[:, :2])
    every: npt.NDArray[np.bool_] = np.logical_and.reduce(met, axis=1)
    return every
