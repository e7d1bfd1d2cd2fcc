"""Scenes for the benchmarks: as large as asked, textured like imagery, made from a seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.transform import from_origin
from rasterio.windows import Window


def texture(side: int, seed: int) -> npt.NDArray[np.uint8]:
    """Return RGB texture (3, side, side) uint8: smooth fields with noise, as a photo is."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(3, side // 64 + 2, side // 64 + 2)).astype(np.float32)
    grid = np.linspace(0, coarse.shape[1] - 1.001, side)
    low, part = grid.astype(int), (grid % 1).astype(np.float32)
    rows = coarse[:, low] * (1 - part)[None, :, None] + coarse[:, low + 1] * part[None, :, None]
    field = rows[:, :, low] * (1 - part) + rows[:, :, low + 1] * part
    noise = rng.normal(scale=6, size=field.shape)
    return np.clip(field * 40 + 120 + noise, 1, 255).astype(np.uint8)


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
