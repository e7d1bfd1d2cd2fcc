"""What a label file holds besides what it should hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import numpy as np
import numpy.typing as npt
from rasterio.enums import ColorInterp
from rasterio.windows import Window as RasterioWindow

from satseg_ray.geo.grid import Window
from satseg_ray.geo.labels import LabelRule
from satseg_ray.geo.raster import OwnMask, Pixels, alpha_band, open_raster, reading

MOST_CODES = 256
"""Unknown codes of one file that are kept by name; of more, the most frequent."""


class Found(Protocol):
    """What the reader of a label file says that it holds."""

    by: str
    palette: tuple[str, ...]
    unknown: dict[str, int]
    unnamed: int
    known: dict[str, int]


@dataclass(frozen=True)
class LabelSurvey:
    """What a label file holds, with the pixels (of features: how many) of each.

    ``by`` is ``value``, ``color``, ``bits`` or ``name``. ``palette`` holds the colours of a
    palette in the order of the file; ``known`` the classes by name; ``unknown`` the values
    (``"9"``), colours (``"#3C1098"``) or names that are no class and not ignored, the most
    frequent first, and ``unnamed`` what there is of more. ``shape`` is height and width of a
    raster.
    """

    by: str
    shape: tuple[int, int] | None
    palette: tuple[str, ...] = ()
    known: tuple[tuple[str, int], ...] = ()
    unknown: tuple[tuple[str, int], ...] = ()
    unnamed: int = 0

    @classmethod
    def of(cls, found: Found, shape: tuple[int, int] | None) -> Self:
        """Return what was found as a fact that travels, cut to the most frequent codes."""
        unknown = sorted(found.unknown.items(), key=lambda item: (-item[1], item[0]))
        rest = sum(count for _, count in unknown[MOST_CODES:])
        return cls(
            found.by,
            shape,
            tuple(found.palette),
            tuple(found.known.items()),
            tuple(unknown[:MOST_CODES]),
            found.unnamed + rest,
        )

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> Self:
        """Return the survey that :func:`dataclasses.asdict` gave, by way of JSON."""
        pairs = {key: tuple((k, n) for k, n in body[key]) for key in ("known", "unknown")}
        shape = tuple(body["shape"]) if body["shape"] else None
        return cls(**(body | pairs | {"shape": shape, "palette": tuple(body["palette"])}))


def survey_labels(path: str, rule: LabelRule) -> LabelSurvey:
    """Return what the label raster at ``path`` holds, by values or by colours.

    Any number of codes is counted in bounded memory.

    Raises:
        MissingFile, UnreadableRaster: there is no such file, or it cannot be read.
    """
    with open_raster(path) as dataset, reading(path):
        by = _resolved(dataset, rule)
        palette = by == "color" and dataset.colorinterp[0] == ColorInterp.palette
        bands = (1, 2, 3) if by == "color" and not palette else (1,)
        mask = OwnMask.of(dataset, bands)
        counts = _Codes()
        for window in Window(0, 0, dataset.height, dataset.width).blocks():
            place = RasterioWindow(window.col, window.row, window.width, window.height)
            counts.see(_packed(dataset.read(bands, window=place))[mask.read(dataset, place)])
        colors = _palette(dataset) if palette else {}
        nodata = None if dataset.nodata is None or by == "color" else int(dataset.nodata)
        shape = (dataset.height, dataset.width)
    found = counts.under(colors) if palette else counts
    return LabelSurvey.of(_judged(found, rule, by, nodata, tuple(colors.values())), shape)


@dataclass
class _Judged:
    by: str
    palette: tuple[str, ...]
    unknown: dict[str, int]
    unnamed: int
    known: dict[str, int]


def _judged(
    found: _Codes,
    rule: LabelRule,
    by: Literal["value", "color"],
    nodata: int | None,
    palette: tuple[str, ...],
) -> _Judged:
    """Tell what is known from what is not."""
    codes = rule.codes(by)
    known = dict.fromkeys(rule.table.names, 0)
    unknown: dict[str, int] = {}
    for code, count in found.known.items():
        index = codes.get(code)
        if index is None and code != nodata:
            unknown[_color(code) if by == "color" else str(code)] = count
        elif index is not None and index < len(rule.table):
            known[rule.table.names[index]] += count
    return _Judged(by, palette, unknown, found.others, known)


class _Codes:
    """Counts codes, the rare ones among very many together."""

    _limit = 16 * MOST_CODES

    def __init__(self) -> None:
        self.known: Counter[int] = Counter()
        self.others = 0

    def see(self, codes: npt.NDArray[np.int64]) -> None:
        if len(codes) and codes.min() >= 0 and codes.max() < 1 << 16:
            counts = np.bincount(codes)
            values = np.flatnonzero(counts)
            counts = counts[values]
        else:
            values, counts = np.unique(codes, return_counts=True)
        self.known.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        if len(self.known) > self._limit:
            ranked = sorted(self.known.items(), key=lambda item: (-item[1], item[0]))
            self.known = Counter(dict(ranked[: self._limit // 2]))
            self.others += sum(count for _, count in ranked[self._limit // 2 :])

    def under(self, colors: Mapping[int, str]) -> _Codes:
        """Return the counts of the colours that palette indexes stand for."""
        moved = _Codes()
        for index, count in self.known.items():
            moved.known[int(colors.get(index, "#000000")[1:], 16)] += count
        return moved


def _resolved(dataset: Any, rule: LabelRule) -> Literal["value", "color"]:
    palette = dataset.colorinterp[0] == ColorInterp.palette
    bands = dataset.count - (alpha_band(dataset) is not None)
    colors = bands >= 3 and set(dataset.dtypes[:3]) == {"uint8"}
    return "color" if rule.by != "value" and (palette or colors) else "value"


def _palette(dataset: Any) -> dict[int, str]:
    return {
        index: f"#{red:02X}{green:02X}{blue:02X}"
        for index, (red, green, blue, *_) in sorted(dataset.colormap(1).items())
    }


def _packed(raw: Pixels) -> npt.NDArray[np.int64]:
    """Return the code of each pixel: its value, or ``0xRRGGBB``; -1 where it is no whole number."""
    if raw.dtype.kind == "f":
        raw = np.where((np.abs(raw) < 1 << 30) & (raw == np.rint(raw)), raw, -1)
    codes: npt.NDArray[np.int64] = raw[0].astype(np.int64)
    for band in raw[1:]:
        codes = codes << 8 | band
    return codes


def _color(code: int) -> str:
    return f"#{code:06X}"
