"""Small inputs made on the spot: rasters of any shape, type and georeference."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.transform import from_origin

GRID = from_origin(500_000, 4_600_000, 10, 10)
"""10 m pixels in UTM: the georeference of a raster that asks for none in particular."""


def random_pixels(
    shape: tuple[int, int], bands: int = 3, dtype: str = "uint8", seed: int = 0
) -> np.ndarray:
    """Pixels of shape (bands, height, width) over the lower range of ``dtype``."""
    rng = np.random.default_rng(seed)
    if np.issubdtype(np.dtype(dtype), np.floating):
        return rng.normal(size=(bands, *shape)).astype(dtype)
    high = min(np.iinfo(dtype).max, 10_000)
    return rng.integers(0, high, size=(bands, *shape), endpoint=True).astype(dtype)


def write_raster(
    path: Path,
    values: np.ndarray | None = None,
    *,
    shape: tuple[int, int] = (64, 80),
    bands: int = 3,
    dtype: str = "uint8",
    nodata: float | None = None,
    crs: str | None = "EPSG:32618",
    transform: Any = GRID,
    palette: Mapping[int, tuple[int, ...]] | None = None,
    seed: int = 0,
    **profile: Any,
) -> Path:
    """Write ``values`` (height, width) or (bands, height, width), or random pixels, to ``path``.

    The suffix names the driver: ``.png`` has no georeference, all else is a GeoTIFF.
    """
    pixels = random_pixels(shape, bands, dtype, seed) if values is None else np.asarray(values)
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    count, height, width = pixels.shape
    options: dict[str, Any] = {"driver": "GTiff", "crs": crs, "transform": transform}
    if path.suffix.lower() == ".png":
        options = {"driver": "PNG"}
    if nodata is not None:
        options["nodata"] = nodata
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path,
        "w",
        count=count,
        height=height,
        width=width,
        dtype=pixels.dtype,
        **(options | profile),
    ) as dst:
        dst.write(pixels)
        if palette is not None:
            dst.write_colormap(1, {value: tuple(color) for value, color in palette.items()})
    return path


def names(folder: Path) -> list[str]:
    """The names in a folder, in order."""
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let the system refuse larger files, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
