"""Reading rasters: inspect first, then windows with a validity mask, padded beyond the scene."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Interleaving, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window as RasterioWindow

from satseg_ray.errors import BandMismatch, MissingFile, UnreadableRaster
from satseg_ray.geo.grid import TileGrid, Window

Pixels = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

SUPPORTED_DRIVERS = ("GTiff", "PNG", "JPEG")
SUPPORTED_DTYPES = ("uint8", "int16", "uint16", "float32")
MAX_BLOCK_BYTES = 256 << 20
MAX_EXPANSION = 20_000
"""Uncompressed bytes a file may claim for each byte it has: more is a bomb or a damaged header."""


@dataclass(frozen=True)
class RasterInfo:
    """What a raster says of itself before a pixel is read.

    ``crs`` is WKT, which keeps what a code would lose; ``transform`` is GDAL's six numbers;
    ``alpha`` is the 1-based number of a band that says where pixels are valid.
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


@dataclass(frozen=True)
class Tile:
    """Pixels of one window: ``pixels`` (bands, rows, columns) raw, ``valid`` (rows, columns)."""

    window: Window
    pixels: Pixels
    valid: Mask

    @property
    def whole(self) -> bool:
        """Whether every pixel is valid."""
        return bool(self.valid.all() if any(self.valid.strides) else self.valid[:1, :1].all())

    def filled(self, fill: Pixels) -> Pixels:
        """Return the pixels with ``fill`` (bands,) wherever a pixel is not valid."""
        if self.whole:
            return self.pixels
        return np.where(self.valid, self.pixels, fill[:, None, None].astype(self.pixels.dtype))


@contextmanager
def quiet_georeference() -> Iterator[None]:
    """Silence the warning that a raster has no georeference: such scenes are welcome."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


_READING = {"GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO", "GDAL_PNG_SINGLE_BLOCK": "NO"}
"""GDAL's short cuts for whole and small PNGs take a truncated one for complete."""


@contextmanager
def open_raster(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Open a raster for reading; reads belong in :func:`reading`.

    Raises:
        MissingFile: the path names no file.
        UnreadableRaster: GDAL cannot open it.
    """
    if not Path(path).is_file():
        raise MissingFile(path, "there is no such file", "Check the path.")
    with rasterio.Env(**_READING):
        with reading(path), quiet_georeference():
            dataset = rasterio.open(path)
        with dataset:
            yield dataset


@contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what GDAL meets in a file while the block reads it into ``UnreadableRaster``."""
    try:
        yield
    except RasterioError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str | os.PathLike[str], error: Exception) -> UnreadableRaster:
    cause = error.__cause__ or error
    text = " ".join(str(cause).split()).rstrip(".")
    return UnreadableRaster(
        path, f"cannot be read as a raster ({text})", "Give a complete GeoTIFF, PNG or JPEG."
    )


def inspect_raster(path: str | os.PathLike[str]) -> RasterInfo:
    """Return what a raster says of itself, refusing what no honest file claims.

    Raises:
        MissingFile: the path names nothing.
        UnreadableRaster: no raster, a pixel type that is not supported, or blocks or a size that
            the bytes of the file cannot hold.
    """
    with open_raster(path) as dataset, reading(path):
        info = _info(str(path), dataset)
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


def raster_files(path: str | os.PathLike[str]) -> tuple[Path, ...]:
    """Return the files a raster is read from: its own first, then masks, world files and others.

    Overviews are left out: no pixel depends on them.
    """
    with open_raster(path) as dataset, reading(path):
        others = (Path(name) for name in dataset.files if not name.endswith(".ovr"))
        return (Path(path), *sorted(other for other in others if other != Path(path)))


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
    )


def _refuse_impossible(info: RasterInfo, dataset: Any) -> None:
    if info.driver not in SUPPORTED_DRIVERS:
        raise UnreadableRaster(
            info.path, f"is a {info.driver} file", "Make it one GeoTIFF (gdal_translate)."
        )
    if len(set(dataset.dtypes)) != 1 or info.dtype not in SUPPORTED_DTYPES:
        found = ", ".join(sorted(set(dataset.dtypes))) or "no band"
        raise UnreadableRaster(
            info.path,
            f"has pixels of type {found}",
            f"Convert it to {', '.join(SUPPORTED_DTYPES)}.",
        )
    itemsize = np.dtype(info.dtype).itemsize
    together = info.count if dataset.interleaving == Interleaving.pixel else 1
    block = max(rows * cols for rows, cols in dataset.block_shapes) * itemsize * together
    if block > MAX_BLOCK_BYTES:
        raise UnreadableRaster(
            info.path,
            f"has blocks of {block >> 20} MiB, the limit is {MAX_BLOCK_BYTES >> 20}",
            "Rewrite it with tiles of 512 pixels (gdal_translate -co TILED=YES).",
        )
    claimed = info.height * info.width * info.count * itemsize
    held = os.path.getsize(info.path)
    if claimed > MAX_EXPANSION * max(held, 1):
        raise UnreadableRaster(
            info.path,
            f"claims {info.height} x {info.width} x {info.count} pixels in {held} bytes",
            "Give a file that holds its pixels.",
        )


@dataclass(frozen=True)
class OwnMask:
    """The mask that a file brings along: an alpha band, or a mask band inside or beside it."""

    alpha: int | None
    masked: bool

    @classmethod
    def of(cls, dataset: Any, bands: Sequence[int]) -> OwnMask:
        """Return the mask of an open raster; one of the ``bands`` that are read is none."""
        alpha = alpha_band(dataset)
        flags = {flag for band in dataset.mask_flag_enums for flag in band}
        return cls(
            None if alpha in bands else alpha,
            MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags,
        )

    def read(self, dataset: Any, place: RasterioWindow) -> Mask:
        """Return where a window (rows, columns) of the open raster is valid."""
        valid = np.ones((place.height, place.width), np.bool_)
        if self.alpha:  # GDAL does not tell of it where there is a nodata tag, too
            valid &= dataset.read(self.alpha, window=place) > 0
        if self.masked:
            valid &= dataset.dataset_mask(window=place) > 0
        return valid


def alpha_band(dataset: Any) -> int | None:
    """Return the 1-based number of an open raster's alpha band, if it has one."""
    kinds = list(dataset.colorinterp)
    return kinds.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in kinds else None


class SceneReader:
    """Windows of one scene's bands, with validity; a context manager, one thread at a time.

    ``bands`` are 1-based, by default all but an alpha band; ``nodata`` replaces the file's own. A
    pixel is invalid outside the scene, where the file's mask or alpha (unless it is read as
    imagery) says so, where a band is not finite, and where nodata stands: in 8-bit scenes in
    every read band (a zero in one band is a dark pixel), in deeper ones in any band (there nodata
    is a sentinel).
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        bands: Sequence[int] | None = None,
        nodata: float | None = None,
    ) -> None:
        self.info = inspect_raster(path)
        self.bands = tuple(bands) if bands else self.info.color_bands
        if max(self.bands) > self.info.count or min(self.bands) < 1:
            raise BandMismatch(
                path,
                f"has {self.info.count} bands, bands {list(self.bands)} are asked for",
                "Give a scene with these bands, or other bands.",
            )
        self.nodata = self.info.nodata if nodata is None else nodata
        self._context = open_raster(path)
        self._dataset: Any = None

    def __enter__(self) -> Self:
        self._dataset = self._context.__enter__()
        self._mask = OwnMask.of(self._dataset, self.bands)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        return self._context.__exit__(kind, error, trace)

    def read(self, window: Window) -> Tile:
        """Return the tile of ``window``; what lies beyond the scene is zero and not valid.

        Raises:
            UnreadableRaster: the bytes of the window are damaged.
        """
        inside = window.intersection(self.info.window)
        if inside == window:
            return Tile(window, *self._read_inside(window))
        pixels = np.zeros((len(self.bands), window.height, window.width), self.info.dtype)
        valid = np.zeros((window.height, window.width), np.bool_)
        if inside.area:
            rows, cols = inside.relative_to(window).slices()
            pixels[:, rows, cols], valid[rows, cols] = self._read_inside(inside)
        return Tile(window, pixels, valid)

    def _read_inside(self, window: Window) -> tuple[Pixels, Mask]:
        place = RasterioWindow(window.col, window.row, window.width, window.height)
        with reading(self.info.path):
            pixels: Pixels = self._dataset.read(self.bands, window=place)
            valid = self._valid(pixels)
            if self._mask.alpha or self._mask.masked:
                valid = np.logical_and(valid, self._mask.read(self._dataset, place))
        if pixels.dtype.kind == "f":
            pixels[:, ~valid] = 0
        return pixels, valid

    def _valid(self, pixels: Pixels) -> Mask:
        valid: Mask = np.broadcast_to(np.True_, pixels.shape[1:])  # no array where all is valid
        if pixels.dtype.kind == "f":
            valid = np.logical_and.reduce(np.isfinite(pixels), axis=0)
        if self.nodata is not None and not math.isnan(self.nodata):
            together = np.logical_and if pixels.dtype == np.uint8 else np.logical_or
            hit = pixels[0] == self.nodata
            for band in pixels[1:]:
                together(hit, band == self.nodata, out=hit)
            valid = np.logical_and(valid, ~hit)
        return valid


def check_whole(path: str | os.PathLike[str], max_bytes: int = 64 << 20) -> None:
    """Read every pixel once, about ``max_bytes`` at a time, so that damage is found before work.

    Raises:
        UnreadableRaster: some part of the file cannot be read.
    """
    with open_raster(path) as dataset, reading(path):
        for bands in _read_together(dataset):
            for window in _whole_blocks(dataset, len(bands), max_bytes):
                place = RasterioWindow(window.col, window.row, window.width, window.height)
                dataset.read(bands, window=place)


def _read_together(dataset: Any) -> list[list[int]]:
    """Return the bands in groups: those that a block holds together."""
    bands = list(range(1, dataset.count + 1))
    return [bands] if dataset.interleaving == Interleaving.pixel else [[band] for band in bands]


def _whole_blocks(dataset: Any, bands: int, max_bytes: int) -> tuple[Window, ...]:
    """Return windows of whole blocks that partition a raster, so that no block is read twice."""
    rows, cols = dataset.block_shapes[0]
    pixels = max_bytes // (bands * np.dtype(dataset.dtypes[0]).itemsize)
    width = max(1, min(pixels // rows, dataset.width + cols - 1) // cols) * cols
    height = max(1, pixels // width // rows) * rows
    return TileGrid(dataset.height, dataset.width, height, width).cores
