"""The classes beside each other: the confusion matrix, and IoU, precision and recall."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from satseg_ray.classes import ClassTable
from satseg_ray.model.figures.canvas import (
    INK,
    PALE,
    counted,
    line_colors,
    new_figure,
    plain,
    save,
    short,
    told_apart,
)
from satseg_ray.model.metrics import Confusion, Ratios

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NUMBERED = 24


def write_confusion(path: Path, confusion: Confusion, names: Sequence[str]) -> None:
    """Write the confusion matrix as a PNG: each row in shares of its true class, with counts.

    The row of a class without a label is grey. Beyond 24 classes there are no numbers.
    """
    counts = confusion.counts.astype(np.float64)
    pixels = counts.sum(axis=1, keepdims=True)
    shares = np.where(pixels > 0, counts / np.maximum(pixels, 1), np.nan)
    size = 2.6 + max(0.3 * len(names), min(0.8 * len(names), 9.0))
    longest = max(len(short(name)) for name in names)
    figure = new_figure(size + 0.4 + 0.07 * longest, size)
    axes = figure.subplots()
    axes.set_facecolor("#eeeeee")
    axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    labels = [short(name) for name in names]
    axes.set_xticks(range(len(names)), labels, rotation=45, ha="right", rotation_mode="anchor")
    parts = pixels.ravel() / max(float(pixels.sum()), 1)
    rows = [f"{label}  {part:.1%}" for label, part in zip(labels, parts, strict=True)]
    axes.set_yticks(range(len(names)), rows)
    axes.set(xlabel="predicted", ylabel="true class, and its share of the labels")
    axes.tick_params(length=0, labelsize=9)
    axes.spines[:].set_visible(False)
    edges = np.arange(len(names) + 1) - 0.5
    axes.set_xticks(edges, minor=True)
    axes.set_yticks(edges, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="minor", length=0)
    if len(names) <= _NUMBERED:
        _number(axes, shares, confusion)
    figure.suptitle(
        f"mean IoU {confusion.mean_iou:.3f}   accuracy {confusion.accuracy:.3f}   "
        f"{counted(confusion.pixels)} labelled pixels",
        fontsize=11, color=INK,
    )  # fmt: skip
    save(figure, path)


def _number(axes: Axes, shares: Ratios, confusion: Confusion) -> None:
    big = 10 if len(shares) <= 12 else 7
    for (row, col), share in np.ndenumerate(shares):
        count = int(confusion.counts[row, col])
        if np.isnan(share) or not count:
            continue
        text = "<0.1%" if share < 0.0005 else f"{share:.0%}" if share == 1 else f"{share:.1%}"
        color = "white" if share > 0.5 else INK
        axes.text(col, row - 0.1, text, ha="center", va="center", color=color, fontsize=big)
        axes.text(
            col, row + 0.22, counted(count), ha="center", va="center", color=color,
            fontsize=big - 3, alpha=0.8,
        )  # fmt: skip


def write_iou(path: Path, confusion: Confusion, table: ClassTable) -> None:
    """Write a PNG with a bar of IoU for each class, and marks of its precision and recall."""
    places = np.arange(len(table))
    figure = new_figure(7.5, 1.5 + 0.42 * len(table))
    axes = figure.subplots()
    iou = np.nan_to_num(confusion.iou)
    axes.barh(places, np.ones(len(table)), color="#f4f4f4", height=0.68, zorder=1)
    colors = [item.color for item in told_apart(table)]
    edges = line_colors(table)
    axes.barh(places, iou, color=colors, edgecolor=edges, linewidth=0.8, height=0.68, zorder=2)
    marks = (("precision", confusion.precision, ">"), ("recall", confusion.recall, "D"))
    for name, values, marker in marks:
        axes.scatter(
            values, places, marker=marker, s=32, facecolor="white", edgecolor=INK,
            linewidth=1.0, zorder=4, label=name, clip_on=False,
        )  # fmt: skip
    for place, value in enumerate(confusion.iou):
        text = "no label, no prediction" if np.isnan(value) else f"{value:.3f}"
        axes.text(1.02, place, text, va="center", fontsize=9, color=INK)
    if not np.isnan(confusion.mean_iou):
        axes.axvline(confusion.mean_iou, color=INK, linewidth=1.2, linestyle="--", zorder=3)
    pixels = confusion.counts.sum(axis=1)
    shares = pixels / max(int(pixels.sum()), 1)
    names = [f"{short(c.name)}  {share:.1%}" for c, share in zip(table, shares, strict=True)]
    plain(axes, f"IoU by class, mean {confusion.mean_iou:.3f} (dashed)")
    axes.set_yticks(places, names)
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9, labelcolor=INK)
    axes.spines["bottom"].set_color(PALE)
    save(figure, path)
