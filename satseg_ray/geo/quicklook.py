"""Pictures of a scene and its classes: small, whatever the size of the scene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from satseg_ray.classes import IGNORE, ClassTable
from satseg_ray.geo.grid import Window
from satseg_ray.geo.raster import Pixels
from satseg_ray.geo.strips import Strip
from satseg_ray.products import fresh_file

Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Decimation:
    """Every ``step``-th pixel of a scene on each axis, counted from the scene's first pixel."""

    step: int

    @classmethod
    def to_fit(cls, height: int, width: int, side: int) -> Decimation:
        """Return the decimation whose picture is at most ``side`` pixels high and wide."""
        return cls(max(1, -(-max(height, width) // side)))

    def window(self, window: Window) -> Window:
        """Return the pixels of the picture that come from ``window``."""
        row, col = -(-window.row // self.step), -(-window.col // self.step)
        row_stop, col_stop = -(-window.row_stop // self.step), -(-window.col_stop // self.step)
        return Window(row, col, row_stop - row, col_stop - col)

    def offsets(self, window: Window) -> tuple[slice, slice]:
        """Return the slices that pick the kept pixels from an array of ``window``."""
        return (
            slice(-window.row % self.step, window.height, self.step),
            slice(-window.col % self.step, window.width, self.step),
        )


class Preview:
    """Collects the decimated raw pixels of a core from its strips, as they are read."""

    def __init__(self, core: Window, step: Decimation, bands: tuple[int, ...]) -> None:
        self._core = core
        self._step = step
        self._bands = list(bands)
        self._place = step.window(core)
        self.image: Pixels | None = None

    def see(self, strip: Strip) -> None:
        """Take the kept pixels of a strip's fresh rows."""
        inside = strip.fresh.intersection(self._core)
        if not inside.area:
            return
        if self.image is None:
            shape = (len(self._bands), self._place.height, self._place.width)
            self.image = np.zeros(shape, strip.tile.pixels.dtype)
        rows, cols = inside.relative_to(strip.tile.window).slices()
        pixels = strip.tile.pixels[:, rows, cols][self._bands]
        target = self._step.window(inside).relative_to(self._place)
        self.image[(slice(None), *target.slices())] = pixels[
            (slice(None), *self._step.offsets(inside))
        ]


def stretched(image: Pixels, valid: npt.NDArray[np.bool_]) -> Picture:
    """Return raw pixels (1 or 3, rows, columns) as RGB (rows, columns, 3), cut at 2% and 98%."""
    rgb = np.zeros((*image.shape[1:], 3), np.float32)
    for channel in range(3):
        band = image[min(channel, len(image) - 1)].astype(np.float32)
        seen = band[valid & np.isfinite(band)]
        low, high = np.percentile(seen, (2, 98)) if seen.size else (0.0, 1.0)
        rgb[..., channel] = (band - low) / max(float(high - low), 1e-6)
    rgb = np.nan_to_num(rgb)
    rgb[~valid] = 1.0
    picture: Picture = (np.clip(rgb, 0, 1) * 255).astype(np.uint8)
    return picture


def visible_bands(names: Sequence[str]) -> tuple[int, ...]:
    """Return which of the named bands make a picture: red, green, blue by name, else the first.

    >>> visible_bands(["blue", "green", "red", "nir"]), visible_bands(["B8", "B4", "B3"])
    ((2, 1, 0), (0, 1, 2))
    """
    known = [name.lower() for name in names]
    if {"red", "green", "blue"} <= set(known):
        return known.index("red"), known.index("green"), known.index("blue")
    return (0, 1, 2) if len(known) >= 3 else (0,)


def colored(classes: npt.NDArray[np.uint8], table: ClassTable) -> Picture:
    """Return class indexes (rows, columns) as RGB (rows, columns, 3); unlabelled is grey."""
    lookup = np.full((256, 3), 155, np.uint8)
    lookup[: len(table)] = [c.rgb for c in table]
    picture: Picture = lookup[classes]
    return picture


def overlaid(image: Picture, classes: npt.NDArray[np.uint8], table: ClassTable) -> Picture:
    """Return the image with the colours of its classes over it, half transparent."""
    mixed = image.astype(np.float32) * 0.5 + colored(classes, table).astype(np.float32) * 0.5
    known = (classes != IGNORE)[..., None]
    picture: Picture = np.where(known, mixed, image).astype(np.uint8)
    return picture


def legend(table: ClassTable, width: int) -> Picture:
    """Return a strip (rows, ``width``, 3) that names the classes by their colours."""
    from PIL import ImageDraw

    row = 22
    columns = max(1, width // 170)
    height = row * -(-len(table) // columns) + 6
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    for index, item in enumerate(table):
        x, y = (index % columns) * 170 + 6, (index // columns) * row + 6
        draw.rectangle((x, y, x + 14, y + 14), fill=item.rgb, outline=(60, 60, 60))
        draw.text((x + 20, y + 1), item.name[:22], fill=(20, 20, 20))
    return np.asarray(canvas)


def write_png(path: Path, picture: Picture) -> None:
    """Write RGB (rows, columns, 3) as a PNG, complete or not at all."""
    with fresh_file(path) as partial:
        Image.fromarray(picture).save(partial, format="PNG")
