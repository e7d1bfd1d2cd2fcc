"""Label rasters by value or by colour -> class indexes on the scene's grid."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
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

from satseg_ray.classes import IGNORE
from satseg_ray.errors import ConfigError, LabelsDoNotMatch, UnknownClassValue
from satseg_ray.findings import Finding, Level
from satseg_ray.geo.grid import Window
from satseg_ray.geo.labels.rule import Indexes, LabelRule, color_code, color_name
from satseg_ray.geo.raster import OwnMask, Pixels, RasterInfo, alpha_band, open_raster, reading

_UNKNOWN = 254
_WARP = "Set crs and resolution, to read both on one grid, or warp the labels onto the scene's."


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
            _WARP,
        )
    if labels.transform and scene.transform:
        off = _corners_apart(labels.transform, scene)
        if off > MOST_OFF:
            raise LabelsDoNotMatch(
                labels.path,
                f"lies {off:.2f} pixels off its scene {scene.path}",
                _WARP,
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
        ConfigError: labels are asked for by colour and have none, or by bits and are no whole
            numbers.
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

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the file has that is not read: bands that are no colour."""
        bands = self._dataset.count - (alpha_band(self._dataset) is not None)
        if bands <= len(self._bands):
            return ()
        level: Level = "warning" if self._rule.by == "auto" else "note"
        where = "band 1" if len(self._bands) == 1 else "bands 1 to 3"
        problem = f"has {bands} bands and is read by {self.by} from {where}"
        return (Finding(level, "label-bands", self.path, problem, "The others are not used."),)

    def _prepare(self) -> None:
        """Find out how the file says its classes."""
        self.by = _resolved(self._rule, self._dataset)
        self._bands = (1, 2, 3) if self.by == "color" and _colors(self._dataset) else (1,)
        self._mask = OwnMask.of(self._dataset, self._bands)
        palette = self.by == "color" and len(self._bands) == 1
        self._palette = _palette(self._dataset) if palette else None
        if self.by == "bits":
            self._table: Indexes | None = _bits_table(self._rule, self._dataset)
            return
        self._codes = self._rule.codes(self.by)
        self._table = None
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

    @property
    def window(self) -> Window:
        """All pixels of the raster, as it is read."""
        return Window(0, 0, self._dataset.height, self._dataset.width)

    @property
    def palette(self) -> tuple[str, ...]:
        """The colours of the file's palette, in its own order; none where it has no palette."""
        if self._dataset.colorinterp[0] != ColorInterp.palette:
            return ()
        colors = self._dataset.colormap(1)
        return tuple(color_name(color_code(colors[index])) for index in sorted(colors))

    def read(self, window: Window) -> Indexes:
        """Return the class indexes (rows, columns) of a window in the raster; 255 is unlabelled.

        Raises:
            UnknownClassValue: a pixel holds what neither the class table nor ``ignore`` names.
            UnreadableRaster: the file is damaged.
        """
        indexes, raw = self._read(window)
        unknown = indexes == _UNKNOWN
        if unknown.any():
            raise unknown_values(self.path, self.by, self._count(raw[:, unknown]))
        return indexes

    def _read(self, window: Window) -> tuple[Indexes, Pixels]:
        """Return class indexes, 254 where nobody knows the class, and the raw values."""
        place = RasterioWindow(window.col, window.row, window.width, window.height)
        with reading(self.path):
            raw: Pixels = self._dataset.read(self._bands, window=place)
            bare = ~self._mask.read(self._dataset, place)
        indexes = self._indexes(raw)
        missing = _missing(raw, self._dataset.nodata)
        # What is declared a class is one, even where the file calls it nodata or transparent
        unknown = indexes == _UNKNOWN
        bare |= missing | unknown if self.by == "bits" else missing & unknown
        if self._rule.background is None:
            indexes[bare] = IGNORE
        else:
            indexes[bare & (indexes != IGNORE)] = self._rule.fill
        return indexes, raw

    def _indexes(self, raw: Pixels) -> Indexes:
        """Return the class index of each pixel (rows, columns); 254 where nobody knows it."""
        if self._table is None:
            return _to_indexes(self._coded(raw), self._codes)
        first = raw[0].view(np.uint16) if raw.dtype == np.int16 else raw[0]
        indexes: Indexes = self._table[first]
        return indexes

    def _coded(self, raw: Pixels) -> npt.NDArray[np.int64]:
        """Return the code of each pixel of raw values (bands, ...)."""
        codes: npt.NDArray[np.int64] = (
            _packed(raw) if self._palette is None else self._palette[raw[0]]
        )
        return codes

    def _count(self, raw: Pixels) -> Counter[str]:
        """Return how often each value or colour stands in raw values (bands, pixels)."""
        by_color = self.by == "color"
        values, counts = np.unique(self._coded(raw) if by_color else raw[0], return_counts=True)
        named = [color_name(int(v)) if by_color else f"{v:g}" for v in values]
        return Counter(dict(zip(named, counts.tolist(), strict=True)))

    def blocks(self) -> Iterator[tuple[Window, Indexes]]:
        """Yield the raster, block by block in row-major order, as ``(window, indexes)``."""
        for window in self.window.blocks():
            yield window, self.read(window)

    def survey(self) -> LabelSurvey:
        """Return what the whole raster holds, unknown values among it."""
        unknown: Counter[str] = Counter()
        more = 0
        known = np.zeros(256, np.int64)
        for window in self.window.blocks():
            indexes, raw = self._read(window)
            strange = indexes == _UNKNOWN
            known += np.bincount(indexes[~strange], minlength=256)
            if strange.any():
                unknown += self._count(raw[:, strange])
                more += _cut(unknown)
        return LabelSurvey(
            "raster", self.by, self.palette, dict(unknown.most_common()), more,
            dict(zip(self._rule.table.names, known.tolist(), strict=False)),
            int(known[IGNORE]),
        )  # fmt: skip


MOST_CODES = 4096
"""Unknown values, or colours, that a survey counts one by one."""


def _cut(found: Counter[str]) -> int:
    """Leave the commonest values alone, and return how many pixels the others had."""
    rare = found.most_common()[MOST_CODES:]
    for code, _ in rare:
        del found[code]
    return sum(count for _, count in rare)


@dataclass(frozen=True)
class LabelSurvey:
    """What a label file holds as a whole.

    ``palette`` are the colours of its palette in its own order; ``unknown`` says how many pixels
    (of a raster) or shapes each value, colour or name has that is no class and not declared as
    unlabelled, the commonest first, and ``unnamed`` how many more there are of rare ones;
    ``known`` counts each class, ``unlabelled`` the rest.
    """

    kind: str
    by: str
    palette: tuple[str, ...]
    unknown: dict[str, int]
    unnamed: int
    known: dict[str, int]
    unlabelled: int


def unknown_values(path: str, by: str, found: Counter[str]) -> UnknownClassValue:
    """Return the error of values or colours that no class has, the commonest first."""
    common = sorted(found, key=lambda code: -found[code])[:5]
    return UnknownClassValue(
        path,
        f"holds {'the colour' if by == 'color' else 'the value'} {', '.join(common)} "
        f"in {found.total()} pixels, which no class has",
        "Add it to classes, or to ignore if it means unlabelled.",
    )


def _resolved(rule: LabelRule, dataset: Any) -> Literal["value", "color", "bits"]:
    if rule.by != "auto":
        return rule.by
    if rule.bits:
        return "bits"
    palette = dataset.colorinterp[0] == ColorInterp.palette
    return "color" if palette or _colors(dataset) else "value"


def _bits_table(rule: LabelRule, dataset: Any) -> Indexes:
    """Return the class index of each word; 254 where no field matches."""
    dtype = np.dtype(dataset.dtypes[0])
    if dtype.kind not in "iu" or dtype.itemsize > 2:
        raise ConfigError(
            "bits", f"are declared, and {dataset.name} has pixels of type {dtype}",
            "Give a QA band of 8 or 16 bits.",
        )  # fmt: skip
    words = np.arange(1 << 8 * dtype.itemsize)
    table = np.full(words.shape, _UNKNOWN, np.uint8)
    for item in reversed(rule.bits):
        table[item.matches(words)] = rule.table.names.index(item.name)
    ignored = [int(item) for item in rule.ignore if not isinstance(item, str)]
    table[[word & len(words) - 1 for word in ignored]] = IGNORE
    return table


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
        codes[index] = color_code(rgba)
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
