"""Opening rasters: by what their first bytes are, with one driver, from a disk or from a store."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.env import getenv, hasenv
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from satseg_ray.errors import MissingFile, SatsegError, UnreadableRaster

REMOTE = ("/vsis3/", "/vsigs/", "/vsiaz/", "/vsicurl/")
"""GDAL's prefixes of the stores that scenes are read from without a copy."""

_MAGIC = {
    b"II*\0": "GTiff",
    b"MM\0*": "GTiff",
    b"II+\0": "GTiff",
    b"MM\0+": "GTiff",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"\0\0\0\x0cjP  ": "JP2OpenJPEG",
    b"\xffO\xffQ": "JP2OpenJPEG",
    b"<VRTDataset": "VRT",
    b"\x89HDF": "HDF5",
    b"CDF": "netCDF",
    b"GIF8": "GIF",
    b"BM": "BMP",
}

SUPPORTED_DRIVERS = ("GTiff", "PNG", "JPEG", "JP2OpenJPEG")
_WANTED = "Give a complete GeoTIFF, PNG, JPEG or JPEG 2000."

_READING: dict[str, Any] = {
    # GDAL's short cuts for whole and small PNGs take a truncated one for complete.
    "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO",
    "GDAL_PNG_SINGLE_BLOCK": "NO",
    # Else decoded blocks may fill a twentieth of the machine's memory, in each process.
    "GDAL_CACHEMAX": 128 << 20,
}

_FETCHING: dict[str, Any] = {
    # Masks and world files are asked for by name: a store may not let its folders be listed.
    "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE",
    "GDAL_HTTP_CONNECTTIMEOUT": "10",
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1",
    "GDAL_HTTP_LOW_SPEED_TIME": "30",
    "GDAL_HTTP_MAX_RETRY": "3",
    "GDAL_HTTP_RETRY_DELAY": "1",
}
"""How files of a store are read, too; the environment, or an ``Env`` around, has the last word."""


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Tell whether a path is an address of a store and not a file of this machine."""
    return os.fspath(path).startswith(REMOTE)


@contextmanager
def quiet_georeference() -> Iterator[None]:
    """Silence the warning that a raster has no georeference: such scenes are welcome."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


@contextmanager
def open_raster(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Open a raster for reading by the driver of its content; reads belong in :func:`reading`.

    Raises:
        MissingFile: the path names no file.
        UnreadableRaster: it is of another format, GDAL cannot open it, or its address is of a
            kind that is not read.
    """
    text = os.fspath(path)
    options = _READING | _FETCHING if is_remote(text) else _READING
    given = {*os.environ, *(getenv() if hasenv() else ())}
    with rasterio.Env(**{name: options[name] for name in options if name not in given}):
        dataset = _open_remote(text) if is_remote(text) else _open_local(text)
        with dataset:
            yield dataset


def _open_local(path: str) -> Any:
    driver = driver_of(path)
    if driver not in SUPPORTED_DRIVERS:
        kind = f"is a {driver} file" if driver else "is no GeoTIFF, PNG, JPEG or JPEG 2000"
        raise UnreadableRaster(path, kind, "Make it one GeoTIFF (gdal_translate).")
    # A name like GTIFF_DIR:1:a.tif would mean something else to GDAL
    plain = os.path.abspath(path) if ":" in path else path
    with reading(path), quiet_georeference():
        return rasterio.open(plain, driver=driver)


def driver_of(path: str | os.PathLike[str]) -> str | None:
    """Return the GDAL driver for the first bytes of a file of this machine, whatever its name.

    Raises:
        MissingFile: the path names no file.
        UnreadableRaster: it cannot be opened, or its address is of a kind that is not read.
    """
    text = os.fspath(path)
    if text.startswith("/vsi"):
        raise UnreadableRaster(
            text, "is an address of a kind that is not read", f"Use one of {', '.join(REMOTE)}."
        )
    if not Path(text).is_file():
        raise MissingFile(text, "there is no such file", "Check the path.")
    try:
        with open(text, "rb") as file:
            head = file.read(12)
    except OSError as error:
        raise UnreadableRaster(text, f"cannot be opened ({error.strerror})", _WANTED) from error
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)


def _open_remote(address: str) -> Any:
    """Open an address by the first driver that knows its content."""
    for driver in SUPPORTED_DRIVERS:
        try:
            with quiet_georeference():
                return rasterio.open(address, driver=driver)
        except RasterioError as error:
            text = _text(error)
            if any(sign in text for sign in _MISSING):
                raise MissingFile(
                    address, f"there is no such file ({text})", "Check the address."
                ) from error
            if "not recognized as" not in text:
                raise _unreadable(address, error) from error
    raise UnreadableRaster(address, "is no GeoTIFF, PNG, JPEG or JPEG 2000", _WANTED)


_MISSING = ("HTTP response code: 404", "NoSuchKey", "NoSuchBucket", "key does not exist")
"""What GDAL says of an address at which a store has nothing."""


@contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what GDAL meets in a file while the block reads it into ``UnreadableRaster``."""
    try:
        yield
    except (RasterioError, CPLE_BaseError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str | os.PathLike[str], error: Exception) -> SatsegError:
    return UnreadableRaster(path, f"cannot be read as a raster ({_text(error)})", _WANTED)


def _text(error: Exception) -> str:
    return " ".join(str(error.__cause__ or error).split()).rstrip(".")
