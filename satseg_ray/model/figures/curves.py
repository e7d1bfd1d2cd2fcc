"""What probabilities are worth: precision-recall curves and the reliability diagram."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from satseg_ray.classes import ClassTable
from satseg_ray.model.calibration import BINS, Reliability
from satseg_ray.model.diagnostics import Diagnostics
from satseg_ray.model.figures.canvas import (
    BLUE,
    INK,
    PALE,
    WARN,
    counted,
    line_colors,
    new_figure,
    plain,
    save,
    short,
)
from satseg_ray.model.metrics import Ratios

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMN = 16
_FIRST_RECALL = 0.005
_UNIT = 1 << 16


def write_precision_recall(path: Path, diagnostics: Diagnostics, table: ClassTable) -> None:
    """Write the precision-recall curve of each class as a PNG.

    A dot is where the predicted classes are: the best of all. Pale lines have equal F1.
    """
    figure = new_figure(7.8 if len(table) < _COLUMN else 10.4, 5.6)
    axes = figure.subplots()
    _equal_f1(axes)
    confusion = diagnostics.confusion
    for index, (item, color) in enumerate(zip(table, line_colors(table), strict=True)):
        curve = diagnostics.curves[index]
        if math.isnan(curve.average_precision):
            axes.plot([], [], color=color, label=f"{short(item.name)}  no label")
            continue
        label = f"{short(item.name)}  {curve.average_precision:.3f}"
        some = curve.recall >= _FIRST_RECALL  # before, a handful of pixels decides
        recall = np.concatenate([[0.0], curve.recall[some]])
        precision = np.concatenate([curve.precision[some][:1], curve.precision[some]])
        axes.plot(recall, precision, color=color, linewidth=2, label=label)
        axes.scatter(
            confusion.recall[index], confusion.precision[index], s=42, color=color,
            edgecolor="white", linewidth=1.2, zorder=5, clip_on=False,
        )  # fmt: skip
    mean = _mean(diagnostics.average_precision)
    plain(axes, f"Precision and recall, mean average precision {mean:.3f}",
          xlabel="recall", ylabel="precision")  # fmt: skip
    axes.set(xlim=(0, 1), ylim=(0, 1.01), aspect="equal")
    axes.scatter([], [], s=42, color="#777777", label="classes as predicted")
    legend = figure.legend(
        loc="outside right upper", frameon=False, fontsize=9, title="average precision",
        ncols=-(-(len(table) + 1) // _COLUMN), labelcolor=INK, alignment="left",
    )  # fmt: skip
    legend.get_title().set_fontsize(9)
    save(figure, path)


def _equal_f1(axes: Axes) -> None:
    for f1 in (0.2, 0.4, 0.6, 0.8):
        recall = np.geomspace(f1 / (2 - f1), 1, 99)
        axes.plot(recall, f1 * recall / (2 * recall - f1), color=PALE, linewidth=0.8, zorder=0)
        axes.annotate(
            f"F1 {f1}", (1, f1 / (2 - f1)), xytext=(-3, 3), textcoords="offset points",
            ha="right", fontsize=7, color="#aaaaaa",
        )  # fmt: skip


def write_reliability(
    path: Path,
    found: Reliability,
    temperature: float | None = None,
    uncalibrated: Reliability | None = None,
) -> None:
    """Write a reliability diagram as a PNG, with its ECE.

    Where a ``temperature`` is given it is named, and ``uncalibrated`` is what was found without
    it, drawn dashed.
    """
    figure = new_figure(5.6, 6.4)
    axes, below = figure.subplots(2, sharex=True, height_ratios=(3.4, 1))
    axes.plot([0, 1], [0, 1], color="#aaaaaa", linewidth=1, linestyle="--")
    said, right, share = found.by_bin()
    width = 1 / BINS
    some = ~np.isnan(said)
    centers = (np.arange(BINS) + 0.5) * width
    both = np.fmin(said, right)
    axes.bar(centers[some], both[some], width * 0.92, color=BLUE, alpha=0.85)
    for name, high, color in (("too sure", said, WARN), ("not sure enough", right, BLUE)):
        axes.bar(
            centers[some], (high - both)[some], width * 0.92, bottom=both[some], color=color,
            alpha=0.28, edgecolor=color, linewidth=0, label=name,
        )  # fmt: skip
    if uncalibrated is not None:
        before, hits, _ = uncalibrated.by_bin()
        axes.plot(before, hits, color=INK, linewidth=1.2, linestyle=":", marker="o", markersize=3.5,
                  label=f"temperature 1, ECE {uncalibrated.error:.3f}")  # fmt: skip
    title = f"Reliability, ECE {found.error:.3f}"
    if temperature is not None:
        title += f", temperature {temperature:.2f}"
    plain(axes, title, ylabel="share of pixels that are right")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="upper left", frameon=False, fontsize=9, labelcolor=INK)
    below.bar(centers, share, width * 0.92, color="#999999")
    pixels = counted(int(found.table[:, 0].sum()))
    plain(below, xlabel=f"probability of the predicted class ({pixels} pixels)", ylabel="pixels")
    below.yaxis.set_major_formatter("{x:.0%}")
    save(figure, path)


def _mean(values: Ratios) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else math.nan
