"""Reading scenes: windows of pixels with a validity mask, padded beyond the scene."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np

from satseg_ray.errors import BandMismatch
from satseg_ray.geo.check import check_whole
from satseg_ray.geo.formats import open_raster, quiet_georeference, reading
from satseg_ray.geo.grid import Window
from satseg_ray.geo.info import (
    SUPPORTED_DTYPES,
    RasterInfo,
    alpha_band,
    inspect_raster,
    misplaced_bands,
    raster_addresses,
    raster_files,
)
from satseg_ray.geo.layer import FileBands, Layer, Mask, NodataRule, OwnMask, Pixels
from satseg_ray.geo.source import BandFile, SceneSource
from satseg_ray.geo.stack import Part, ScenePlan, inspect_scene, plan_scene
from satseg_ray.geo.warp import WarpedBands

__all__ = [
    "SUPPORTED_DTYPES",
    "Mask",
    "OwnMask",
    "Pixels",
    "RasterInfo",
    "SceneReader",
    "Tile",
    "alpha_band",
    "check_whole",
    "inspect_raster",
    "inspect_scene",
    "misplaced_bands",
    "open_raster",
    "quiet_georeference",
    "raster_addresses",
    "raster_files",
    "reading",
]


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


class SceneReader:
    """Windows of one scene's bands, with validity; a context manager, one thread at a time.

    ``scene`` is the path of a raster, or a source; ``bands`` are 1-based, by default all but an
    alpha band; ``nodata`` replaces the files' own. A pixel is invalid outside the scene or one of
    its files, where a file's mask or alpha (unless it is read as imagery) says so, where a band is
    not finite, and where nodata stands: in 8-bit scenes in every read band (a zero in one band is
    a dark pixel), in deeper ones in any band (there nodata is a sentinel). Only files with bands
    that are read count.

    Law: a window has the pixels that the whole scene has there, bit for bit.
    """

    def __init__(
        self,
        scene: str | os.PathLike[str] | SceneSource,
        bands: Sequence[int] | None = None,
        nodata: float | None = None,
    ) -> None:
        if not isinstance(scene, SceneSource):
            scene = SceneSource((BandFile(os.fspath(scene)),))
        plan = plan_scene(scene)
        self.info = plan.info
        self.bands = tuple(bands) if bands else self.info.color_bands
        if max(self.bands) > self.info.count or min(self.bands) < 1:
            raise BandMismatch(
                self.info.path,
                f"has {self.info.count} bands, bands {list(self.bands)} are asked for",
                "Give a scene with these bands, or other bands.",
            )
        self.nodata = self.info.nodata if nodata is None else nodata
        self._files = _files(plan, self.bands, nodata)
        self._open = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for file in self._files:
                stack.enter_context(file.bands)
            self._open = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        return self._open.__exit__(kind, error, trace)

    def read(self, window: Window) -> Tile:
        """Return the tile of ``window``; what lies beyond the scene is zero and not valid.

        Raises:
            UnreadableRaster: the bytes of the window are damaged.
        """
        inside = window.intersection(self.info.window)
        if inside == window and len(self._files) == 1:  # nothing to be put together
            layer = self._files[0].read(window)
            return Tile(window, _finite(layer.pixels, layer.valid), layer.valid)
        pixels = np.zeros((len(self.bands), window.height, window.width), self.info.dtype)
        valid = np.zeros((window.height, window.width), np.bool_)
        if inside.area:
            rows, cols = inside.relative_to(window).slices()
            valid[rows, cols] = self._read_inside(inside, pixels[:, rows, cols])
        return Tile(window, pixels, valid)

    def _read_inside(self, window: Window, pixels: Pixels) -> Mask:
        """Read a window in the scene into ``pixels``, and return where it is valid."""
        layers = [file.read(window) for file in self._files]
        for file, layer in zip(self._files, layers, strict=True):
            pixels[file.places if len(layers) > 1 else slice(None)] = layer.pixels
        valid = _valid(layers, self.info.dtype)
        _finite(pixels, valid)
        return valid


def _finite(pixels: Pixels, valid: Mask) -> Pixels:
    """Return pixels of a float scene with zeros, in place, where they are not valid."""
    if pixels.dtype.kind == "f":
        pixels[:, ~valid] = 0
    return pixels


def _valid(layers: Sequence[Layer], dtype: str) -> Mask:
    """Return where a scene of these layers is valid; in 8 bits nodata must stand in all of them."""
    if len(layers) == 1:
        return layers[0].valid
    valid = [layer.valid for layer in layers]
    if dtype != "uint8":
        return np.asarray(np.logical_and.reduce(valid), np.bool_)
    present = np.logical_and.reduce([layer.present for layer in layers])
    return np.asarray(present & np.logical_or.reduce(valid), np.bool_)


@dataclass(frozen=True)
class _SceneFile:
    """The bands of one file that are read, and their ``places`` among those of the scene."""

    bands: FileBands
    places: list[int]
    offset: tuple[int, int] | None
    warped: WarpedBands | None

    def read(self, window: Window) -> Layer:
        """Return the layer of a window of the scene."""
        if self.warped:
            return self.warped.read(window)
        row, col = self.offset or (0, 0)
        own = Window(window.row - row, window.col - col, window.height, window.width)
        inside = own.intersection(self.bands.info.window)
        if inside == own:
            return self.bands.read(own)
        layer = Layer.empty(len(self.bands.bands), window.shape, self.bands.info.dtype)
        if inside.area:
            layer.put(self.bands.read(inside), inside.relative_to(own).slices())
        return layer


def _files(plan: ScenePlan, bands: Sequence[int], nodata: float | None) -> list[_SceneFile]:
    """Return the files that hold ``bands`` of a scene, each with the bands to read of it."""
    wanted: dict[Part, list[tuple[int, int]]] = {}
    for place, number in enumerate(bands):
        part, band = plan.bands[number - 1]
        wanted.setdefault(part, []).append((place, band))
    return [_scene_file(plan, part, places, nodata) for part, places in wanted.items()]


def _scene_file(
    plan: ScenePlan, part: Part, places: list[tuple[int, int]], nodata: float | None
) -> _SceneFile:
    rule = NodataRule(part.info.nodata if nodata is None else nodata, plan.info.dtype == "uint8")
    bands = FileBands(part.info, [band for _, band in places], rule)
    warped = WarpedBands(bands, plan.info, plan.resampling) if part.offset is None else None
    own = [place for place, _ in places]
    return _SceneFile(bands, own, part.offset, warped)
