"""What a raster says of itself before a pixel is read, and the refusal of what none can be."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Interleaving
from rasterio.transform import Affine

from satseg_ray.errors import MissingFile, UnreadableRaster
from satseg_ray.geo.formats import is_remote, open_raster, reading
from satseg_ray.geo.grid import Window

SUPPORTED_DTYPES = ("uint8", "int16", "uint16", "float32")
MAX_BANDS = 32
MAX_BLOCK_BYTES = 256 << 20
MAX_EXPANSION = 20_000
"""Uncompressed bytes a file may claim for each byte it has: more is a bomb or a damaged header."""
LARGE_BYTES, LARGE_EXPANSION = 1 << 30, 2_000
"""From so many claimed bytes on the limit is lower: no deflated raster claims more."""
MANY_BLOCKS, SMALL_BLOCK_BYTES = 1 << 20, 4096
"""So many blocks of fewer bytes take longer to look up than to read."""


@dataclass(frozen=True)
class RasterInfo:
    """What a raster says of itself before a pixel is read.

    ``crs`` is WKT, which keeps what a code would lose; ``transform`` is GDAL's six numbers;
    ``alpha`` is the 1-based number of a band that says where pixels are valid; with ``palette``
    values are places in a table of colours.
    """

    path: str
    driver: str
    height: int
    width: int
    count: int
    dtype: str
    crs: str | None
    transform: tuple[float, ...] | None
    nodata: float | None
    descriptions: tuple[str, ...]
    alpha: int | None = None
    palette: bool = False

    @property
    def crs_name(self) -> str | None:
        """The code of the CRS, as ``EPSG:32618``, or its WKT where no code stands for just it."""
        if self.crs is None:
            return None
        crs = CRS.from_wkt(self.crs)
        code = crs.to_string()
        return code if CRS.from_string(code) == crs else self.crs

    @property
    def crs_title(self) -> str:
        """What a person calls the CRS: its code, or the name in its WKT."""
        name = self.crs_name or "none"
        return name if len(name) < 40 else name.split('"')[1]

    @property
    def color_bands(self) -> tuple[int, ...]:
        """The 1-based numbers of the bands that hold imagery: all but an alpha band."""
        return tuple(band for band in range(1, self.count + 1) if band != self.alpha)

    @property
    def window(self) -> Window:
        """All pixels of the scene."""
        return Window(0, 0, self.height, self.width)

    @property
    def affine(self) -> Affine:
        """The way from (column, row) to coordinates; pixels are their own where there is none."""
        return Affine.from_gdal(*self.transform) if self.transform else Affine.identity()

    @property
    def bounds(self) -> tuple[float, float, float, float] | None:
        """Left, bottom, right and top in units of the CRS; None without a transform."""
        if self.transform is None:
            return None
        corners = [(0, 0), (self.width, 0), (0, self.height), (self.width, self.height)]
        xs, ys = zip(*(self.affine @ corner for corner in corners), strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    @property
    def gsd(self) -> tuple[float, float] | None:
        """Metres a pixel is wide and high; None without a CRS.

        Of a projected CRS they are metres of the projection, of a geographic one metres on the
        ground in the middle of the scene.
        """
        if self.crs is None or self.transform is None:
            return None
        crs, affine = CRS.from_wkt(self.crs), self.affine
        east, north = _metres_per_unit(crs, (affine @ (self.width / 2, self.height / 2))[1])
        return (
            math.hypot(affine.a * east, affine.d * north),
            math.hypot(affine.b * east, affine.e * north),
        )


def _metres_per_unit(crs: CRS, y: float) -> tuple[float, float]:
    """Return the metres of one unit along x and along y, at ``y`` where the CRS is geographic."""
    factor = float(crs.units_factor[1])
    if not crs.is_geographic:
        return factor, factor
    major, squared = 6_378_137.0, 0.006_694_379_990_14  # WGS 84
    latitude = y * factor  # radians
    curve = 1 - squared * math.sin(latitude) ** 2
    east = major * math.cos(latitude) / math.sqrt(curve)
    return east * factor, major * (1 - squared) / curve**1.5 * factor


def inspect_raster(path: str | os.PathLike[str]) -> RasterInfo:
    """Return what a raster says of itself, refusing what no honest file claims.

    Raises:
        MissingFile: the path names nothing.
        UnreadableRaster: no raster, a pixel type that is not supported, more than 32 bands, or
            blocks or a size that the bytes of the file cannot hold.
    """
    with open_raster(path) as dataset, reading(path):
        info = _info(os.fspath(path), dataset)
        _refuse_impossible(info, dataset)
    return info


def misplaced_bands(info: RasterInfo, names: Sequence[str], indexes: Sequence[int]) -> str:
    """Tell which of the bands ``names``, expected at the 1-based ``indexes``, stand elsewhere.

    By the names that the file itself gives its bands; one that it does not know proves nothing.

    >>> grid = dict(path="", driver="GTiff", height=1, width=1, dtype="uint8", crs=None)
    >>> info = RasterInfo(count=2, descriptions=("Nir", "Red"), transform=None, nodata=None, **grid)
    >>> misplaced_bands(info, ("red", "nir"), (1, 2))
    'red in band 2, nir in band 1'
    """
    known = [text.casefold() for text in info.descriptions]
    return ", ".join(
        f"{name} in band {known.index(name.casefold()) + 1}"
        for name, index in zip(names, indexes, strict=True)
        if name.casefold() in known and known[index - 1] != name.casefold()
    )


def raster_addresses(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Return the files a raster is read from: its own first, then masks, world files and others.

    Overviews are left out: no pixel depends on them.
    """
    own = os.fspath(path)
    with open_raster(path) as dataset, reading(path):
        others = {name for name in dataset.files if not name.endswith(".ovr")}
    return (own, *sorted(others - {own, os.path.abspath(own)}))


def raster_files(path: str | os.PathLike[str]) -> tuple[Path, ...]:
    """Return :func:`raster_addresses` of a file of this machine as paths.

    Raises:
        MissingFile: the raster is in a store.
    """
    if is_remote(path):
        raise MissingFile(
            path, "is not a file of this machine", "Copy it, or read it by reference."
        )
    return tuple(Path(name) for name in raster_addresses(path))


def _info(path: str, dataset: Any) -> RasterInfo:
    transform = dataset.transform
    return RasterInfo(
        path=path,
        driver=dataset.driver,
        height=dataset.height,
        width=dataset.width,
        count=dataset.count,
        dtype=dataset.dtypes[0] if dataset.count else "none",
        crs=dataset.crs.to_wkt() if dataset.crs else None,
        transform=None if transform.is_identity else tuple(transform.to_gdal()),
        nodata=dataset.nodata,
        descriptions=tuple(text or "" for text in dataset.descriptions),
        alpha=alpha_band(dataset),
        palette=ColorInterp.palette in dataset.colorinterp,
    )


def alpha_band(dataset: Any) -> int | None:
    """Return the 1-based number of an open raster's alpha band, if it has one."""
    kinds = list(dataset.colorinterp)
    return kinds.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in kinds else None


def _refuse_impossible(info: RasterInfo, dataset: Any) -> None:
    _refuse_bands(info, dataset)
    _refuse_blocks(info, dataset)
    if is_remote(info.path):
        return  # its length is not told; blocks bound what a window takes
    claimed = info.height * info.width * info.count * np.dtype(info.dtype).itemsize
    held = os.path.getsize(info.path)
    limit = MAX_EXPANSION if claimed < LARGE_BYTES else LARGE_EXPANSION
    if claimed > limit * max(held, 1):
        raise UnreadableRaster(
            info.path,
            f"claims {info.height} x {info.width} x {info.count} pixels in {held} bytes",
            "Give a file that holds its pixels.",
        )


def _refuse_blocks(info: RasterInfo, dataset: Any) -> None:
    together = info.count if dataset.interleaving == Interleaving.pixel else 1
    rows, cols = max(dataset.block_shapes, key=lambda shape: shape[0] * shape[1])
    block = rows * cols * np.dtype(info.dtype).itemsize * together
    count = -(-info.height // rows) * -(-info.width // cols) * info.count // together
    if count > MANY_BLOCKS and block < SMALL_BLOCK_BYTES:
        raise UnreadableRaster(
            info.path,
            f"has {count} blocks of {block} bytes",
            "Rewrite it with tiles of 512 pixels (gdal_translate -co TILED=YES).",
        )
    if block > MAX_BLOCK_BYTES:
        raise UnreadableRaster(
            info.path,
            f"has blocks of {block >> 20} MiB, the limit is {MAX_BLOCK_BYTES >> 20}",
            "Rewrite it with tiles of 512 pixels (gdal_translate -co TILED=YES).",
        )


def _refuse_bands(info: RasterInfo, dataset: Any) -> None:
    if info.count > MAX_BANDS:
        raise UnreadableRaster(
            info.path,
            f"has {info.count} bands, the limit is {MAX_BANDS}",
            "Give a file with the bands that are needed (gdal_translate -b).",
        )
    if len(set(dataset.dtypes)) != 1 or info.dtype not in SUPPORTED_DTYPES:
        found = ", ".join(sorted(set(dataset.dtypes))) or "no band"
        raise UnreadableRaster(
            info.path,
            f"has pixels of type {found}",
            f"Convert it to {', '.join(SUPPORTED_DTYPES)}.",
        )
