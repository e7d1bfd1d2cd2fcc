"""The files of a scene on the scene's grid: planned from what they say of themselves."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace

import numpy as np
from rasterio.crs import CRS
from rasterio.errors import CRSError

from satseg_ray.errors import BandMismatch, ConfigError
from satseg_ray.geo.info import MAX_BANDS, SUPPORTED_DTYPES, RasterInfo, inspect_raster
from satseg_ray.geo.source import BandFile, Resampled, SceneSource, TargetGrid, tile_numbers
from satseg_ray.geo.warp import GridChange, projected

MAX_SCALE = 256
"""Times that pixels of a target grid may be wider or narrower than those of the scene."""


@dataclass(frozen=True)
class Part:
    """One file of a scene; ``offset`` is the row and column of its first pixel in the scene.

    Without an offset it lies on another grid and is warped.
    """

    info: RasterInfo
    bands: tuple[int, ...]
    offset: tuple[int, int] | None


@dataclass(frozen=True)
class ScenePlan:
    """How a scene is read: ``info`` is its grid with all bands, in the order of the parts."""

    info: RasterInfo
    parts: tuple[Part, ...]
    resampling: Resampled
    nodata: float | None

    @property
    def bands(self) -> tuple[tuple[Part, int], ...]:
        """The part and the 1-based band in its file of each band of the scene."""
        return tuple((part, band) for part in self.parts for band in part.bands)


def inspect_scene(source: SceneSource) -> RasterInfo:
    """Return the grid, the bands and the pixel type that a scene is read with.

    Raises:
        MissingFile, UnreadableRaster: a file is none, or no raster that can be read.
        BandMismatch: a file has no such band, lies on no known place, or is of a pixel type that
            has no common one with the others.
        ConfigError: the scene cannot be put on the grid that is asked for.
    """
    return plan_scene(source).info


def plan_scene(source: SceneSource) -> ScenePlan:
    """Return how a scene is read; raises what :func:`inspect_scene` raises."""
    infos = [_inspected(file, source) for file in source.files]
    if source.plain:
        part = Part(infos[0], tuple(range(1, infos[0].count + 1)), (0, 0))
        return ScenePlan(infos[0], (part,), source.resampling, source.nodata)
    files = list(zip(source.files, infos, strict=True))
    bands = [_bands(file, info) for file, info in files]
    names = [name for file, info in files for name in _names(file, info, len(files) > 1)]
    reference = _reference(source, infos)
    if source.grid and _placed(reference):  # what lies nowhere is read as it is
        reference = _on_grid(reference, source.grid)
    values = {info.nodata for info in infos}
    scene = replace(
        reference,
        path=source.path,
        count=len(names),
        dtype=_common_dtype(infos),
        nodata=values.pop() if len(values) == 1 else None,
        descriptions=tuple(names),
        alpha=None,
    )
    if scene.count > MAX_BANDS:
        raise BandMismatch(
            scene.path, f"has {scene.count} bands in all, the limit is {MAX_BANDS}", "Name fewer."
        )
    parts = tuple(Part(i, b, _offset(i, scene)) for i, b in zip(infos, bands, strict=True))
    return ScenePlan(scene, parts, source.resampling, source.nodata)


def _inspected(file: BandFile, source: SceneSource) -> RasterInfo:
    info = inspect_raster(os.fspath(file.path))
    if source.nodata is not None:
        info = replace(info, nodata=source.nodata)
    return _as_tile(info) if source.georeference == "xyz" else info


def _as_tile(info: RasterInfo) -> RasterInfo:
    """Return the info of a web-mercator tile, whose place is in its name."""
    x, y, zoom = tile_numbers(info.path)
    half = math.pi * 6_378_137
    side = 2 * half / (1 << zoom)
    place = (x * side - half, side / info.width, 0.0, half - y * side, 0.0, -side / info.height)
    return replace(info, crs=CRS.from_epsg(3857).to_wkt(), transform=place)


def _bands(file: BandFile, info: RasterInfo) -> tuple[int, ...]:
    if file.bands and max(file.bands) > info.count:
        raise BandMismatch(
            file.path,
            f"has {info.count} bands, bands {list(file.bands)} are asked for",
            "Give a file with these bands, or other bands.",
        )
    return file.bands or info.color_bands


def _names(file: BandFile, info: RasterInfo, stacked: bool) -> tuple[str, ...]:
    bands = _bands(file, info)
    if file.names and len(file.names) != len(bands):
        raise ConfigError(
            file.path, f"has {len(bands)} bands, names are {list(file.names)}", "Name each of them."
        )
    own = tuple(info.descriptions[band - 1] for band in bands)
    if stacked and own == ("",):
        own = (file.stem,)
    return file.names or own


def _reference(source: SceneSource, infos: list[RasterInfo]) -> RasterInfo:
    """Return the file whose grid is the scene's: the named one, or the finest of known ones."""
    if source.reference:
        paths = [file.path for file in source.files]
        if source.reference not in paths:
            raise ConfigError("reference", f"is {source.reference!r}", "Name one of files.")
        return infos[paths.index(source.reference)]
    best, finest = infos[0], _pixel_area(infos[0])
    for info in infos[1:]:
        area = _pixel_area(info)
        if area < finest * (1 - 1e-6):
            best, finest = info, area
    return best


def _pixel_area(info: RasterInfo) -> float:
    gsd = info.gsd
    return gsd[0] * gsd[1] if gsd else math.inf


def _common_dtype(infos: list[RasterInfo]) -> str:
    common = np.dtype(infos[0].dtype)
    for info in infos[1:]:
        both = np.result_type(common, info.dtype)
        if both.name not in SUPPORTED_DTYPES:
            raise BandMismatch(
                info.path,
                f"has pixels of {info.dtype}, {infos[0].path} has {infos[0].dtype}: "
                f"their common type is {both.name}",
                f"Convert one of them; the types are {', '.join(SUPPORTED_DTYPES)}.",
            )
        common = both
    return common.name


def _placed(info: RasterInfo) -> bool:
    return info.crs is not None and info.transform is not None


def _offset(info: RasterInfo, scene: RasterInfo) -> tuple[int, int] | None:
    if _placed(info) and _placed(scene):
        return GridChange(info, scene).offset
    if (info.height, info.width) != (scene.height, scene.width):
        raise BandMismatch(
            info.path,
            f"is {info.height} x {info.width} pixels, the scene is {scene.height} x {scene.width}, "
            "and one of them has no CRS that would tell where it lies",
            "Give files of one size, or with a CRS.",
        )
    return 0, 0


def _on_grid(info: RasterInfo, grid: TargetGrid) -> RasterInfo:
    """Return the smallest part of a grid that covers a raster whose place is known."""
    target = plane_crs(grid.crs, info.path)
    left, bottom, right, top = (edge / grid.resolution for edge in _extent(info, target, grid))
    first_col, first_row = math.floor(left + _SLACK), math.floor(-top + _SLACK)
    width = max(1, math.ceil(right - _SLACK) - first_col)
    height = max(1, math.ceil(-bottom - _SLACK) - first_row)
    own = _pixel_side(info, target)
    longest, most = max(info.height, info.width), _LONGEST * MAX_SCALE
    fits = longest / most <= max(height, width) <= longest * most
    if not (fits and 1 / MAX_SCALE <= grid.resolution / own <= MAX_SCALE):
        raise ConfigError(
            f"resolution of {info.path}",
            f"is {grid.resolution:g} in units of {grid.crs}, where the scene's pixels are "
            f"{own:.3g}: {info.height} x {info.width} pixels would become {height} x {width}",
            f"Give the side of a pixel in units of the CRS (degrees, or metres), at most "
            f"{MAX_SCALE} times larger or smaller than the scene's.",
        )
    step = grid.resolution
    return replace(
        info,
        height=height,
        width=width,
        crs=target.to_wkt(),
        transform=(first_col * step, step, 0.0, -first_row * step, 0.0, -step),
    )


_LONGEST = 4
"""Times that a scene may be longer on a target grid than its pixels alone would make it."""
_SLACK = 1e-6
"""Pixels of a target grid that a scene may reach over an edge, by rounding, and need no more."""


def plane_crs(text: str, subject: str) -> CRS:
    """Return a CRS whose places are two numbers of the ground: projected, or geographic 2D.

    Raises:
        ConfigError: it is none, or of another kind: vertical, geocentric, in three dimensions.
    """
    try:
        crs = CRS.from_user_input(text)
    except CRSError as error:
        raise ConfigError(
            f"crs of {subject}", f"is {text}, which is no CRS", "Give a code as EPSG:32631, or WKT."
        ) from error
    body = crs.to_dict(projjson=True)
    axes = body.get("coordinate_system", {}).get("axis", ())
    if crs.is_projected or (crs.is_geographic and len(axes) != 3):
        return crs
    raise ConfigError(
        f"crs of {subject}",
        f"is {text}, {body.get('name', 'without a name')}, which is neither projected nor "
        "geographic in two dimensions",
        "Give a CRS of maps, such as EPSG:32631 or EPSG:4326.",
    )


def _pixel_side(info: RasterInfo, crs: CRS) -> float:
    """Return the side of the square of a middle pixel's area, in units of another CRS."""
    middle = np.array([info.width / 2, info.height / 2])
    at = middle + np.array([[-0.5, 0], [0.5, 0], [0, -0.5], [0, 0.5]])
    xs, ys = info.affine @ (at[:, 0], at[:, 1])
    own = CRS.from_wkt(str(info.crs))
    if own != crs:
        xs, ys = projected(own, crs, xs, ys)
    across, down = (xs[1] - xs[0], ys[1] - ys[0]), (xs[3] - xs[2], ys[3] - ys[2])
    return math.sqrt(abs(across[0] * down[1] - across[1] * down[0])) or math.inf


def _extent(info: RasterInfo, crs: CRS, grid: TargetGrid) -> tuple[float, float, float, float]:
    """Return left, bottom, right and top of a raster in another CRS, from a net of its points."""
    along = np.linspace(0, 1, 33)
    cols, rows = np.meshgrid(along * info.width, along * info.height)
    xs, ys = info.affine @ (cols.ravel(), rows.ravel())
    own = CRS.from_wkt(str(info.crs))
    if own != crs:
        xs, ys = projected(own, crs, xs, ys)
    if not (np.isfinite(xs).all() and np.isfinite(ys).all()):
        raise ConfigError(
            info.path, f"does not lie where {grid.crs} is defined", "Choose a crs for this place."
        )
    return float(xs.min()), float(ys.min()), float(xs.max()), float(ys.max())
