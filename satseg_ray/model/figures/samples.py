"""Examples a person looks at: image, label, prediction and errors side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from satseg_ray.classes import IGNORE, ClassTable
from satseg_ray.geo.quicklook import Picture, colored
from satseg_ray.geo.raster import Mask, Pixels
from satseg_ray.model.figures.canvas import DPI, INK, new_figure, save, short, told_apart

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = ("image", "label", "prediction", "errors")
_SMALLEST, _LARGEST = 192, 384
_GAP, _TEXT, _LEGEND = 8, 24, 24
_RIGHT, _WRONG, _UNLABELLED = (70, 170, 110), (220, 30, 40), (155, 155, 155)
_CONTRAST = 0.5


@dataclass(frozen=True)
class Sample:
    """One example: raw pixels (1 or 3, rows, columns), validity, true and predicted indexes."""

    title: str
    image: Pixels
    valid: Mask
    truth: npt.NDArray[np.uint8]
    predicted: npt.NDArray[np.uint8]


def write_samples(
    path: Path, samples: Sequence[Sample], table: ClassTable, title: str = ""
) -> None:
    """Write a PNG with a row for each sample: image, label, prediction, errors; and a legend.

    Small samples are enlarged by a whole number, large ones thinned by one, so that each pixel
    that is shown is one of the sample's. Bands are stretched alike in all samples, but for those
    that would have hardly any contrast.
    """
    rows = [_panels(image, sample, told_apart(table)) for image, sample in _lit(samples)]
    sheet = _Sheet.of(rows, table)
    figure = new_figure(sheet.width / DPI, sheet.height / DPI, layout="none")
    top = sheet.height - _TEXT
    _write(figure, sheet, title, _GAP, top + _TEXT / 2, fontsize=11, fontweight="bold")
    top -= _TEXT
    for column, name in enumerate(PANELS):
        _write(figure, sheet, name, sheet.left(column), top + _TEXT / 2, color="#777777")
    for sample, row in zip(samples, rows, strict=True):
        top -= _TEXT
        _write(figure, sheet, sample.title, _GAP, top + _TEXT / 2 - 2)
        for column, panel in enumerate(row):
            figure.figimage(panel, sheet.left(column), top - len(panel), origin="upper")
        top -= max(len(panel) for panel in row) + _GAP
    _legend(figure, sheet, table)
    save(figure, path)


@dataclass(frozen=True)
class _Sheet:
    """The sizes of a sheet in pixels."""

    width: int
    height: int
    panel: int
    columns: int

    @classmethod
    def of(cls, rows: Sequence[Sequence[Picture]], table: ClassTable) -> _Sheet:
        panel = max((p.shape[1] for row in rows for p in row), default=_SMALLEST)
        width = len(PANELS) * (panel + _GAP) + _GAP
        entry = 48 + 8 * max(len(short(item.name)) for item in table)
        columns = max(1, width // max(entry, 130))
        lines = -(-(len(table) + 3) // columns)
        body = sum(max(len(p) for p in row) + _TEXT + _GAP for row in rows)
        return cls(width, 2 * _TEXT + body + lines * _LEGEND + _GAP, panel, columns)

    def left(self, column: int) -> int:
        """Return where a column of panels begins."""
        return _GAP + column * (self.panel + _GAP)


def _write(
    figure: Figure, sheet: _Sheet, text: str, left: float, middle: float, **style: Any
) -> None:
    look: dict[str, Any] = {"fontsize": 8.5, "color": INK, "va": "center"}
    figure.text(left / sheet.width, middle / sheet.height, text, **look | style)


def _legend(figure: Figure, sheet: _Sheet, table: ClassTable) -> None:
    entries = [(short(item.name), item.rgb) for item in told_apart(table)]
    entries += [("unlabelled", _UNLABELLED), ("right", _RIGHT), ("wrong", _WRONG)]
    lines = -(-len(entries) // sheet.columns)
    step = (sheet.width - _GAP) // sheet.columns
    for index, (name, color) in enumerate(entries):
        left = _GAP + (index % sheet.columns) * step
        low = _GAP // 2 + (lines - 1 - index // sheet.columns) * _LEGEND
        swatch = np.full((14, 20, 3), (90, 90, 90), np.uint8)
        swatch[1:-1, 1:-1] = color
        figure.figimage(swatch, left, low + 4, origin="upper")
        _write(figure, sheet, name, left + 26, low + 11)


def _panels(image: Picture, sample: Sample, table: ClassTable) -> list[Picture]:
    predicted = np.where(sample.valid, sample.predicted, np.uint8(IGNORE))
    known = (sample.truth != IGNORE) & sample.valid
    grey = (image.astype(np.float32) @ (0.299, 0.587, 0.114))[..., None] * 0.6 + 80
    right, hidden = 0.75 * grey + 0.25 * np.array(_RIGHT), 0.3 * grey + 0.7 * np.array(_UNLABELLED)
    errors = np.where(known[..., None], right, hidden).astype(np.uint8)
    errors[known & (predicted != sample.truth)] = _WRONG
    shown = (image, colored(sample.truth, table), colored(predicted, table), errors)
    return [_resized(panel) for panel in shown]


def _resized(picture: Picture) -> Picture:
    side = max(picture.shape[:2])
    if side > _LARGEST:
        step = -(-side // _LARGEST)
        return picture[::step, ::step]
    times = max(1, -(-_SMALLEST // side))
    return picture.repeat(times, axis=0).repeat(times, axis=1)


def _lit(samples: Sequence[Sample]) -> Iterator[tuple[Picture, Sample]]:
    """Yield each sample with its image as RGB (rows, columns, 3).

    A band is cut at the 2nd and 98th percentile of the sample, but not closer than half of
    what is usual among the samples: water stays dark, and its noise is not blown up.
    """
    ranges = [_range(sample) for sample in samples]
    usual = np.median([high - low for low, high in ranges], axis=0) if ranges else np.zeros(3)
    for sample, (low, high) in zip(samples, ranges, strict=True):
        middle = (low + high) / 2
        half = np.maximum(np.maximum(high - low, _CONTRAST * usual), 1e-6) / 2
        bands = sample.image[[min(c, len(sample.image) - 1) for c in range(3)]].astype(np.float32)
        rgb = np.moveaxis(bands, 0, -1)
        rgb = np.nan_to_num((rgb - (middle - half)) / (2 * half))
        rgb[~sample.valid] = 1.0
        yield (np.clip(rgb, 0, 1) * 255).astype(np.uint8), sample


def _range(sample: Sample) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    low, high = np.zeros(3), np.ones(3)
    for channel in range(3):
        band = sample.image[min(channel, len(sample.image) - 1)].astype(np.float32)
        seen = band[sample.valid & np.isfinite(band)]
        if seen.size:
            low[channel], high[channel] = np.percentile(seen, (2, 98))
    return low, high
