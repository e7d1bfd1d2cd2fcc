"""Label rasters by value or by colour -> class indexes on the scene's grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from rasterio.enums import ColorInterp
from rasterio.windows import Window as RasterioWindow

from satseg_ray.classes import IGNORE, ClassTable, parse_color
from satseg_ray.errors import ConfigError, LabelsDoNotMatch, UnknownClassValue
from satseg_ray.geo.grid import Window
from satseg_ray.geo.raster import Pixels, RasterInfo, open_raster

Indexes = npt.NDArray[np.uint8]
By = Literal["auto", "value", "color"]

_UNKNOWN = 254
_STRIP_ROWS = 512


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
    if labels.crs and scene.crs and labels.crs != scene.crs:
        raise LabelsDoNotMatch(
            labels.path,
            f"is in {labels.crs}, its scene {scene.path} in {scene.crs}",
            "Warp the labels onto the scene's grid.",
        )
    if labels.transform and scene.transform:
        pixel = max(abs(scene.transform[1]), abs(scene.transform[5]))
        shift = max(abs(a - b) for a, b in zip(labels.transform, scene.transform, strict=True))
        if shift > pixel / 100:
            raise LabelsDoNotMatch(
                labels.path,
                f"lies {shift / pixel:.2f} pixels off its scene {scene.path}",
                "Warp the labels onto the scene's grid.",
            )


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
            self._by = _resolved(self._rule.by, self._dataset)
            self._bands = (1, 2, 3) if self._by == "color" and self._dataset.count >= 3 else (1,)
            palette = self._by == "color" and len(self._bands) == 1
            self._palette = _palette(self._dataset) if palette else None
            self._codes = self._rule.codes(self._by)
            self._open = stack.pop_all()
        return self

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
        raw = self._dataset.read(self._bands, window=place)
        codes = _packed(raw) if self._palette is None else self._palette[raw[0]]
        indexes = _to_indexes(codes, self._codes)
        missing = _missing(raw, self._dataset.nodata)
        # A value that is declared a class is one, even where the file calls it nodata
        indexes[missing if self._palette is not None else missing & (indexes == _UNKNOWN)] = IGNORE
        unknown = indexes == _UNKNOWN
        if unknown.any():
            raise self._unknown((raw[0] if self._by == "value" else codes)[unknown])
        return indexes

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

    def strips(self) -> Iterator[tuple[Window, Indexes]]:
        """Yield the raster from top to bottom as ``(window, indexes)``."""
        for row in range(0, self._dataset.height, _STRIP_ROWS):
            height = min(_STRIP_ROWS, self._dataset.height - row)
            window = Window(row, 0, height, self._dataset.width)
            yield window, self.read(window)


def _resolved(by: By, dataset: Any) -> Literal["value", "color"]:
    if by != "auto":
        return by
    palette = dataset.colorinterp[0] == ColorInterp.palette
    return "color" if palette or dataset.count >= 3 else "value"


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
