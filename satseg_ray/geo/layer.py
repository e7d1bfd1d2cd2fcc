"""The pixels of one file in a window, and which of them are data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from rasterio.enums import MaskFlags
from rasterio.windows import Window as RasterioWindow

from satseg_ray.geo.formats import open_raster, reading
from satseg_ray.geo.grid import Window
from satseg_ray.geo.info import RasterInfo, alpha_band

Pixels = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]


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
        # One value that stands for all of them, where the file masks nothing
        valid: Mask = np.broadcast_to(np.True_, (place.height, place.width))
        if self.alpha:  # GDAL does not tell of it where there is a nodata tag, too
            valid = valid & (dataset.read(self.alpha, window=place) > 0)
        if self.masked:
            valid = valid & (dataset.dataset_mask(window=place) > 0)
        return valid


@dataclass(frozen=True)
class Layer:
    """A window of one file: ``pixels`` (bands, rows, columns) and two masks (rows, columns).

    ``present`` says where the file has numbers that it does not mask, ``valid`` where these are
    not nodata either; they are one array where nodata hides nothing.
    """

    pixels: Pixels
    present: Mask
    valid: Mask

    @classmethod
    def empty(cls, bands: int, shape: tuple[int, int], dtype: str) -> Layer:
        """Return a layer of zeros without any data; its masks are two arrays."""
        masks = np.zeros((2, *shape), np.bool_)
        return cls(np.zeros((bands, *shape), dtype), masks[0], masks[1])

    def put(self, layer: Layer, place: tuple[slice, slice]) -> None:
        """Write another layer into this one."""
        self.pixels[:, *place] = layer.pixels
        self.present[place] = layer.present
        self.valid[place] = layer.valid


@dataclass(frozen=True)
class NodataRule:
    """Which pixels are nodata: where ``value`` stands in all bands, or already in any of them."""

    value: float | None
    in_all: bool

    def hides(self, pixels: Pixels) -> Mask | None:
        """Return where pixels (bands, rows, columns) are nodata; None if there can be none."""
        if self.value is None or math.isnan(self.value):
            return None
        together = np.logical_and if self.in_all else np.logical_or
        hidden: Mask = pixels[0] == self.value
        for band in pixels[1:]:
            together(hidden, band == self.value, out=hidden)
        return hidden


class FileBands:
    """Some bands of one file; a context manager that reads windows within the file."""

    def __init__(self, info: RasterInfo, bands: Sequence[int], nodata: NodataRule) -> None:
        self.info, self.bands, self.nodata = info, tuple(bands), nodata
        self._context: AbstractContextManager[Any] = open_raster(info.path)
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

    def read(self, window: Window) -> Layer:
        """Return the layer of a window in the file, pixels as they are stored.

        Raises:
            UnreadableRaster: the bytes of the window are damaged.
        """
        place = RasterioWindow(window.col, window.row, window.width, window.height)
        with reading(self.info.path):
            pixels: Pixels = self._dataset.read(self.bands, window=place)
            present = self._mask.read(self._dataset, place)
        if pixels.dtype.kind == "f":
            present = present & np.isfinite(pixels).all(axis=0)
        hidden = self.nodata.hides(pixels)
        return Layer(pixels, present, present if hidden is None else present & ~hidden)
