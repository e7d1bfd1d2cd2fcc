"""What a label raster holds, before any rule says what it should hold."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from rasterio.enums import ColorInterp
from rasterio.windows import Window as RasterioWindow

from satseg_ray.geo.grid import Window
from satseg_ray.geo.labels import By, LabelRule
from satseg_ray.geo.raster import OwnMask, Pixels, alpha_band, open_raster, reading

Kind = Literal["value", "color", "palette", "features"]
MOST_CODES = 256
"""Codes of one file that are kept by name; of more, the most frequent."""

_NO_LABEL = -1


@dataclass(frozen=True)
class LabelSurvey:
    """The codes of a label raster and how many pixels hold each, the most frequent first.

    A code is a value (``"7"``) or a colour (``"#3C1098"``). ``others`` are the number of further
    codes and their pixels. ``palette`` holds the colours of a palette file that pixels use, in
    the order of their indexes. Pixels that the file masks are not counted; ``nodata`` is the code
    that its tag calls so.
    """

    kind: Kind
    height: int
    width: int
    codes: tuple[tuple[str, int], ...]
    others: tuple[int, int] = (0, 0)
    palette: tuple[str, ...] = ()
    nodata: str | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    def unknown(self, rule: LabelRule) -> tuple[tuple[str, int], ...]:
        """Return the codes that neither the classes nor ``ignore`` name, with their pixels."""
        by_color = self.kind != "value"
        known = {
            f"#{code:06X}" if by_color else str(code)
            for code in rule.codes("color" if by_color else "value")
        }
        return tuple(
            (code, count) for code, count in self.codes if code not in known and code != self.nodata
        )

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> Self:
        """Return the survey that :func:`dataclasses.asdict` gave, by way of JSON."""
        return cls(
            **body
            | {
                "codes": tuple((code, count) for code, count in body["codes"]),
                "others": tuple(body["others"]),
                "palette": tuple(body["palette"]),
            }
        )


def survey_labels(path: str, by: By = "auto") -> LabelSurvey:
    """Return what the label raster at ``path`` holds, by values or by colours.

    With ``by="auto"`` a palette or three bands mean colours, one plain band means values. Any
    number of codes is counted in bounded memory: those beyond some thousands become ``others``.

    Raises:
        MissingFile, UnreadableRaster: there is no such file, or it cannot be read.
    """
    with open_raster(path) as dataset, reading(path):
        kind = _kind(dataset, by)
        bands = (1, 2, 3) if kind == "color" else (1,)
        mask = OwnMask.of(dataset, bands)
        counts = _Codes()
        for window in Window(0, 0, dataset.height, dataset.width).blocks():
            place = RasterioWindow(window.col, window.row, window.width, window.height)
            counts.see(_packed(dataset.read(bands, window=place))[mask.read(dataset, place)])
        return _survey(dataset, kind, counts)


class _Codes:
    """Counts codes, the rare ones among very many together."""

    _limit = 16 * MOST_CODES

    def __init__(self) -> None:
        self.known: Counter[int] = Counter()
        self.others = (0, 0)

    def see(self, codes: npt.NDArray[np.int64]) -> None:
        if len(codes) and codes.min() >= 0 and codes.max() < 1 << 16:
            counts = np.bincount(codes)
            held = np.flatnonzero(counts)
            self.known.update(dict(zip(held.tolist(), counts[held].tolist(), strict=True)))
        else:
            values, counts = np.unique(codes, return_counts=True)
            self.known.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        if len(self.known) > self._limit:
            self.cut(self._limit // 2)

    def cut(self, most: int) -> None:
        """Keep the ``most`` frequent codes by name."""
        ranked = sorted(self.known.items(), key=lambda item: (-item[1], item[0]))
        self.known = Counter(dict(ranked[:most]))
        rest = ranked[most:]
        self.others = (self.others[0] + len(rest), self.others[1] + sum(n for _, n in rest))


def _survey(dataset: Any, kind: Kind, counts: _Codes) -> LabelSurvey:
    nodata = None
    if dataset.nodata is not None and kind == "value":
        nodata = f"{dataset.nodata:g}"
    palette: tuple[str, ...] = ()
    if kind == "palette":
        colors = {index: _hex(rgba) for index, rgba in dataset.colormap(1).items()}
        palette = tuple(colors.get(index, "#000000") for index in sorted(counts.known))
        merged: Counter[str] = Counter()
        for index, count in counts.known.items():
            merged[colors.get(index, "#000000")] += count
        codes = dict(merged)
    else:
        counts.cut(MOST_CODES)
        codes = {_text(code, kind): count for code, count in counts.known.items()}
    ranked = tuple(sorted(codes.items(), key=lambda item: (-item[1], item[0])))
    return LabelSurvey(kind, dataset.height, dataset.width, ranked, counts.others, palette, nodata)


def _kind(dataset: Any, by: By) -> Kind:
    palette = dataset.colorinterp[0] == ColorInterp.palette
    bands = dataset.count - (alpha_band(dataset) is not None)
    colors = bands >= 3 and set(dataset.dtypes[:3]) == {"uint8"}
    if by == "value" or not (palette or colors):
        return "value"
    return "color" if colors else "palette"


def _packed(raw: Pixels) -> npt.NDArray[np.int64]:
    """Return the code of each pixel: its value, or ``0xRRGGBB``; -1 where it is no whole number."""
    if raw.dtype.kind == "f":
        raw = np.where((np.abs(raw) < 1 << 30) & (raw == np.rint(raw)), raw, _NO_LABEL)
    codes: npt.NDArray[np.int64] = raw[0].astype(np.int64)
    for band in raw[1:]:
        codes = codes << 8 | band
    return codes


def _text(code: int, kind: Kind) -> str:
    return str(code) if kind == "value" else f"#{code:06X}"


def _hex(rgba: Any) -> str:
    return f"#{rgba[0]:02X}{rgba[1]:02X}{rgba[2]:02X}"
