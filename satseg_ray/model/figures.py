"""Figures a person looks at: image, label and prediction side by side, and a confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from satseg_ray.classes import IGNORE, ClassTable
from satseg_ray.geo.quicklook import Picture, colored, legend, stretched, write_png
from satseg_ray.geo.raster import Mask, Pixels
from satseg_ray.model.metrics import Confusion

_GAP = 6
_TITLE = 18


@dataclass(frozen=True)
class Sample:
    """One example: raw pixels (1 or 3, rows, columns), validity, true and predicted indexes."""

    title: str
    image: Pixels
    valid: Mask
    truth: npt.NDArray[np.uint8]
    predicted: npt.NDArray[np.uint8]


def side_by_side(samples: Sequence[Sample], table: ClassTable) -> Picture:
    """Return a sheet with a row for each sample: image, label, prediction; and the legend."""
    rows = [_row(sample, table) for sample in samples]
    width = max(row.shape[1] for row in rows)
    padded = [
        np.pad(r, ((0, 0), (0, width - r.shape[1]), (0, 0)), constant_values=255) for r in rows
    ]
    return np.concatenate([*padded, legend(table, width)])


def _row(sample: Sample, table: ClassTable) -> Picture:
    predicted = np.where(sample.valid, sample.predicted, np.uint8(IGNORE))
    panels = [
        stretched(sample.image, sample.valid),
        colored(sample.truth, table),
        colored(predicted, table),
    ]
    height, width = sample.truth.shape
    sheet = Image.new("RGB", (3 * width + 2 * _GAP, height + _TITLE), "white")
    draw = ImageDraw.Draw(sheet)
    for column, (panel, name) in enumerate(
        zip(panels, ("image", "label", "prediction"), strict=True)
    ):
        left = column * (width + _GAP)
        sheet.paste(Image.fromarray(panel), (left, _TITLE))
        draw.text((left + 2, 3), f"{name}  {sample.title}" if not column else name, fill="black")
    return np.asarray(sheet)


def write_samples(path: Path, samples: Sequence[Sample], table: ClassTable) -> None:
    """Write :func:`side_by_side` as a PNG."""
    write_png(path, side_by_side(samples, table))


def write_confusion(path: Path, confusion: Confusion, names: Sequence[str]) -> None:
    """Write the confusion matrix as a PNG: each row in shares of its true class."""
    from matplotlib.figure import Figure

    counts = confusion.counts.astype(np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 2.5 + 0.7 * len(names)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    for (row, col), share in np.ndenumerate(shares):
        axes.text(
            col, row, f"{share:.2f}", ha="center", va="center",
            color="white" if share > 0.5 else "black",
        )  # fmt: skip
    axes.set_title(f"mean IoU {confusion.mean_iou:.3f}, accuracy {confusion.accuracy:.3f}")
    figure.savefig(path, dpi=110, format="png")
