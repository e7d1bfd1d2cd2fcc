"""Label rasters by value or by colour -> class indexes on the scene's grid."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.transform import Affine
from rasterio.windows import Window as RasterioWindow

from satseg_ray.classes import IGNORE, ClassTable, parse_color
from satseg_ray.errors import ConfigError, LabelsDoNotMatch, UnknownClassValue
from satseg_ray.geo.grid import Window
from satseg_ray.geo.raster import OwnMask, Pixels, RasterInfo, alpha_band, open_raster, reading

Indexes = npt.NDArray[np.uint8]
By = Literal["auto", "value", "color"]

_UNKNOWN = 254


@dataclass(frozen=True)
class LabelRule:
    """How pixels of a label raster become classes.

    ``ignore`` holds the values (0..255) and colours (``#RRGGBB``) that mean "unlabelled". With
    ``by="auto"`` a palette or three bands mean colours, one plain band means values.
    """

    table: ClassTable
    ignore: tuple[int | str, ...] = ()
    by: By = "auto"

    def codes(self, by: Literal["value", "color"]) -> dict[int, int]:
        """Return ``code -> class index``; the code of a colour is ``0xRRGGBB``."""
        known = {
            c.value if by == "value" else _color_code(c.rgb): i for i, c in enumerate(self.table)
        }
        if len(known) < len(self.table):
            raise ConfigError(
                "classes", "two classes have one colour, labels are by colour",
                "Use two colours, or labels_by: value.",
            )  # fmt: skip
        for item in self.ignore:
            if by == "color" and isinstance(item, str):
                known.setdefault(_color_code(parse_color(item)), IGNORE)
            elif by == "value" and not isinstance(item, str):
                known.setdefault(int(item), IGNORE)
        return known


def _color_code(rgb: Sequence[int]) -> int:
    return int(rgb[0]) << 16 | int(rgb[1]) << 8 | int(rgb[2])


def check_same_grid(labels: RasterInfo, scene: RasterInfo) -> None:
    """Refuse labels of another size, or georeferenced elsewhere, than their scene.

    Raises:
        LabelsDoNotMatch: with both sizes, or both grids.
    """
    if (labels.height, labels.width) != (scene.height, scene.width):
        raise LabelsDoNotMatch(
            labels.path,
            f"is {labels.height} x {labels.width} pixels, "
            f"its scene {scene.path} is {scene.height} x {scene.width}",
            "Give labels on the scene's own grid.",
        )
    if labels.crs and scene.crs and not _same_crs(labels.crs, scene.crs):
        raise LabelsDoNotMatch(
            labels.path,
            f"is in {labels.crs_title}, its scene {scene.path} in {scene.crs_title}",
            "Warp the labels onto the scene's grid.",
        )
    if labels.transform and scene.transform:
        off = _corners_apart(labels.transform, scene)
        if off > MOST_OFF:
            raise LabelsDoNotMatch(
                labels.path,
                f"lies {off:.2f} pixels off its scene {scene.path}",
                "Warp the labels onto the scene's grid.",
            )


def _same_crs(left: str, right: str) -> bool:
    """Tell whether two CRSs (WKT) are one; a datum that only one of them names may be missing."""
    a, b = CRS.from_wkt(left), CRS.from_wkt(right)
    return bool(a == b or a.to_string() == b.to_string())


MOST_OFF = 0.1
"""Pixels of the scene by which a corner of its labels may lie elsewhere."""


def _corners_apart(transform: tuple[float, ...], scene: RasterInfo) -> float:
    """Return the greatest distance, in pixels, that ``transform`` puts a corner of a scene off."""
    theirs = Affine.from_gdal(*transform)
    to_pixels = ~Affine.from_gdal(*(scene.transform or ()))
    corners = [(x, y) for x in (0, scene.width) for y in (0, scene.height)]
    moved = [to_pixels @ (theirs @ corner) for corner in corners]
    return max(math.hypot(mx - x, my - y) for (x, y), (mx, my) in zip(corners, moved, strict=True))


class LabelReader:
    """Windows of a label raster as class indexes; a context manager.

    Raises:
        ConfigError: labels are asked for by colour and have none.
    """

    def __init__(self, path: str, rule: LabelRule) -> None:
        self.path = path
        self._rule = rule

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._dataset = stack.enter_context(open_raster(self.path))
            with reading(self.path):
                self._prepare()
            self._open = stack.pop_all()
        return self

    def _prepare(self) -> None:
        """Find out how the file says its classes."""
        self._by = _resolved(self._rule.by, self._dataset)
        self._bands = (1, 2, 3) if self._by == "color" and _colors(self._dataset) else (1,)
        self._mask = OwnMask.of(self._dataset, self._bands)
        palette = self._by == "color" and len(self._bands) == 1
        self._palette = _palette(self._dataset) if palette else None
        self._codes = self._rule.codes(self._by)
        self._table: Indexes | None = None
        if len(self._bands) == 1 and self._dataset.dtypes[0] == "uint8":
            self._table = _to_indexes(
                self._coded(np.arange(256, dtype=np.uint8)[None]), self._codes
            )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        return self._open.__exit__(kind, error, trace)

    def read(self, window: Window) -> Indexes:
        """Return the class indexes (rows, columns) of a window in the raster; 255 is unlabelled.

        Raises:
            UnknownClassValue: a pixel holds what neither the class table nor ``ignore`` names.
            UnreadableRaster: the file is damaged.
        """
        place = RasterioWindow(window.col, window.row, window.width, window.height)
        with reading(self.path):
            raw = self._dataset.read(self._bands, window=place)
            masked = ~self._mask.read(self._dataset, place)
        indexes = self._indexes(raw)
        missing = _missing(raw, self._dataset.nodata)
        # A value that is declared a class is one, even where the file calls it nodata
        indexes[missing if self._palette is not None else missing & (indexes == _UNKNOWN)] = IGNORE
        indexes[masked] = IGNORE
        unknown = indexes == _UNKNOWN
        if unknown.any():
            strange = raw[:, unknown]
            raise self._unknown(strange[0] if self._by == "value" else self._coded(strange))
        return indexes

    def _indexes(self, raw: Pixels) -> Indexes:
        """Return the class index of each pixel (rows, columns); 254 where nobody knows it."""
        if self._table is None:
            return _to_indexes(self._coded(raw), self._codes)
        indexes: Indexes = self._table[raw[0]]
        return indexes

    def _coded(self, raw: Pixels) -> npt.NDArray[np.int64]:
        """Return the code of each pixel of raw values (bands, ...)."""
        codes: npt.NDArray[np.int64] = (
            _packed(raw) if self._palette is None else self._palette[raw[0]]
        )
        return codes

    def _unknown(self, found: Pixels) -> UnknownClassValue:
        values, counts = np.unique(found, return_counts=True)
        common = values[np.argsort(-counts, kind="stable")][:5].tolist()
        by_color = self._by == "color"
        named = ", ".join(f"#{c:06X}" if by_color else f"{c:g}" for c in common)
        return UnknownClassValue(
            self.path,
            f"holds {'the colour' if by_color else 'the value'} {named} "
            f"in {len(found)} pixels, which no class has",
            "Add it to classes, or to ignore if it means unlabelled.",
        )

    def blocks(self) -> Iterator[tuple[Window, Indexes]]:
        """Yield the raster, block by block in row-major order, as ``(window, indexes)``."""
        for window in Window(0, 0, self._dataset.height, self._dataset.width).blocks():
            yield window, self.read(window)


def _resolved(by: By, dataset: Any) -> Literal["value", "color"]:
    if by != "auto":
        return by
    palette = dataset.colorinterp[0] == ColorInterp.palette
    return "color" if palette or _colors(dataset) else "value"


def _colors(dataset: Any) -> bool:
    """Tell whether the first three bands are a colour; more than eight bits are none."""
    bands = dataset.count - (alpha_band(dataset) is not None)
    return bands >= 3 and set(dataset.dtypes[:3]) == {"uint8"}


def _palette(dataset: Any) -> npt.NDArray[np.int64]:
    """Return the colour code of each palette index: each file orders its palette as it likes."""
    if dataset.colorinterp[0] != ColorInterp.palette:
        raise ConfigError(
            "labels_by", f"is color, and {dataset.name} has neither colours nor a palette",
            "Use labels_by: value.",
        )  # fmt: skip
    codes = np.zeros(np.iinfo(dataset.dtypes[0]).max + 1, np.int64)
    for index, rgba in dataset.colormap(1).items():
        codes[index] = _color_code(rgba)
    return codes


def _packed(raw: Pixels) -> npt.NDArray[np.int64]:
    """Return the code of each pixel: its value, or ``0xRRGGBB``; -1 where it is no whole number."""
    if raw.dtype.kind == "f":
        raw = np.where((np.abs(raw) < 1 << 30) & (raw == np.rint(raw)), raw, -1)
    codes: npt.NDArray[np.int64] = raw[0].astype(np.int64)
    for band in raw[1:]:
        codes = codes << 8 | band
    return codes


def _missing(raw: Pixels, nodata: float | None) -> npt.NDArray[np.bool_]:
    """Tell where every band (bands, rows, columns) holds nodata or no number."""
    missing = np.zeros(raw.shape, np.bool_)
    if raw.dtype.kind == "f":
        missing[np.isnan(raw)] = True
    if nodata is not None:
        missing[raw == nodata] = True
    return np.asarray(missing.all(axis=0), np.bool_)


def _to_indexes(packed: npt.NDArray[np.int64], codes: dict[int, int]) -> Indexes:
    keys = np.array(sorted(codes), np.int64)
    values = np.array([codes[int(k)] for k in keys], np.uint8)
    if not len(keys):
        return np.full(packed.shape, _UNKNOWN, np.uint8)
    at = np.minimum(np.searchsorted(keys, packed), len(keys) - 1)
    return np.where(keys[at] == packed, values[at], np.uint8(_UNKNOWN))
