"""Scenes for the benchmarks: as large as asked, textured like imagery, made from a seed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.transform import from_origin
from rasterio.windows import Window


def texture(side: int, seed: int) -> npt.NDArray[np.uint8]:
    """Return RGB texture (3, side, side) uint8: smooth fields with noise, as a photo is."""
    rng = np.random.default_rng(seed)
    field = _smooth(rng, 3, side, 64)
    noise = rng.normal(scale=6, size=field.shape)
    return np.clip(field * 40 + 120 + noise, 1, 255).astype(np.uint8)


def _smooth(rng: np.random.Generator, bands: int, side: int, step: int) -> npt.NDArray[np.float32]:
    """Return random fields (bands, side, side) without detail below ``step`` pixels."""
    count = side // step + 2
    coarse = rng.normal(size=(bands, count, count)).astype(np.float32)
    grid = np.linspace(0, count - 1.001, side)
    low, part = grid.astype(int), (grid % 1).astype(np.float32)
    rows = coarse[:, low] * (1 - part)[None, :, None] + coarse[:, low + 1] * part[None, :, None]
    return np.asarray(rows[:, :, low] * (1 - part) + rows[:, :, low + 1] * part, np.float32)


def make_scene(path: Path, side: int, seed: int = 0) -> Path:
    """Write a square RGB GeoTIFF of ``side`` pixels, tiled and deflated, unless it is there."""
    if path.exists():
        return path
    partial = path.with_suffix(".partial")
    profile = {
        "driver": "GTiff", "height": side, "width": side, "count": 3, "dtype": "uint8",
        "crs": "EPSG:32631", "transform": from_origin(500_000, 5_600_000, 0.5, 0.5),
        "tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate",
        "predictor": 2, "photometric": "RGB", "interleave": "pixel", "bigtiff": "if_safer",
    }  # fmt: skip
    block = texture(2048, seed)
    with rasterio.open(partial, "w", **profile) as file:
        for row in range(0, side, 2048):
            for col in range(0, side, 2048):
                height, width = min(2048, side - row), min(2048, side - col)
                turned = np.rot90(block, (row + col) // 2048, (1, 2))
                window = Window(col, row, width, height)
                file.write(turned[:, :height, :width], window=window)
    partial.replace(path)
    return path


COMPRESSIONS = {
    "deflate": {"compress": "deflate", "predictor": 2},
    "lzw": {"compress": "lzw", "predictor": 2},
    "jpeg": {"compress": "jpeg", "photometric": "YCBCR", "jpeg_quality": 90},
    "none": {},
}
"""How GDAL is asked to compress; the rest is its own default, as in a COG."""
_BLOCK = 2048


def make_mosaic(path: Path, side: int, compression: str) -> Path:
    """Write a square RGB GeoTIFF in the layout of a COG, block by block.

    Of real aerial imagery (``naip_timeseries`` in the folder of ``SATSEG_REALDATA``), turned and
    put side by side; of :func:`texture` where there is none.
    """
    pictures = _pictures()
    profile = _profile(side, 3) | {"photometric": "RGB", "interleave": "pixel"}
    with rasterio.open(path, "w", **(profile | COMPRESSIONS[compression])) as file:
        for number, window in enumerate(_windows(side)):
            block = _put_together(pictures, number)
            file.write(block[:, : window.height, : window.width], window=window)
    return path


def make_blobs(path: Path, side: int, classes: int) -> Path:
    """Write labels on the grid of :func:`make_mosaic`: smooth areas of each class."""
    rng = np.random.default_rng(0)
    field = _smooth(rng, 1, _BLOCK, 32)[0]
    steps = np.quantile(field, np.arange(1, classes) / classes)
    block = np.digitize(field, steps).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", **_profile(side, 1), compress="deflate") as file:
        for number, window in enumerate(_windows(side)):
            turned = np.rot90(block, number)[: window.height, : window.width]
            file.write(np.ascontiguousarray(turned), 1, window=window)
    return path


def _profile(side: int, bands: int) -> dict[str, Any]:
    return {
        "driver": "GTiff", "height": side, "width": side, "count": bands, "dtype": "uint8",
        "crs": "EPSG:32631", "transform": from_origin(500_000, 5_600_000, 0.5, 0.5),
        "tiled": True, "blockxsize": 512, "blockysize": 512, "bigtiff": "if_safer",
        "num_threads": "all_cpus",
    }  # fmt: skip


def _windows(side: int) -> Iterator[Window]:
    for row in range(0, side, _BLOCK):
        for col in range(0, side, _BLOCK):
            yield Window(col, row, min(_BLOCK, side - col), min(_BLOCK, side - row))


def _pictures() -> list[npt.NDArray[np.uint8]]:
    """Return pictures (3, rows, columns) of one size."""
    root = Path(__file__).resolve().parent.parent
    folder = Path(os.environ.get("SATSEG_REALDATA") or root.parent / "shared" / "data")
    files = sorted((folder / "naip_timeseries").glob("*.tif"))
    if not files:
        return [texture(_BLOCK, seed) for seed in range(4)]
    pictures = []
    for file in files:
        with rasterio.open(file) as source:
            pictures.append(source.read([1, 2, 3]))
    height, width = np.min([picture.shape[1:] for picture in pictures], axis=0)
    return [picture[:, :height, :width] for picture in pictures]


def _put_together(pictures: Sequence[npt.NDArray[np.uint8]], number: int) -> npt.NDArray[np.uint8]:
    """Return one of many blocks (3, side, side) of pictures, each turned in one of four ways."""
    block = np.empty((3, _BLOCK, _BLOCK), np.uint8)
    _, height, width = pictures[0].shape
    for row in range(0, _BLOCK, height):
        for col in range(0, _BLOCK, width):
            picture = pictures[number // 4 % len(pictures)]
            turned = picture[:, :: -1 if number & 1 else 1, :: -1 if number & 2 else 1]
            place = block[:, row : row + height, col : col + width]
            place[:] = turned[:, : place.shape[1], : place.shape[2]]
            number += 1
    return block
