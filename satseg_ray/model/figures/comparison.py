"""Figures of several models: a forest of their intervals, and how far each can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from satseg_ray.model.bootstrap import Estimates
from satseg_ray.model.calibration import Reliability

_PANELS = 9
"""The most panels of a forest: the mean, and of classes the first ones."""
_ACROSS = 3


def write_forest(
    path: Path, models: Mapping[str, Estimates], classes: Sequence[str], level: float
) -> None:
    """Write a PNG with a panel for the mean IoU and one for that of each class.

    Each model is a line from the lower to the upper end of its interval, with a dot at the figure.
    """
    from matplotlib.figure import Figure

    panels = ["mean_iou", *(f"iou_{name}" for name in classes)][:_PANELS]
    rows, columns = -(-len(panels) // _ACROSS), min(len(panels), _ACROSS)
    height = 0.9 + 0.28 * len(models)
    figure = Figure(figsize=(2.2 + 3.2 * columns, rows * height + 0.3), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    places = np.arange(len(models))[::-1]
    for axes, panel in zip(grid.flat, panels, strict=False):
        found = [estimates[panel] for estimates in models.values()]
        axes.hlines(places, [e.low for e in found], [e.high for e in found], color="#1F6FD0")
        axes.plot([e.value for e in found], places, "o", color="#1F6FD0", markersize=5)
        axes.set_title(panel.replace("mean_iou", "mean IoU").replace("iou_", "IoU "), fontsize=9)
        axes.set_yticks(places, list(models), fontsize=8)
        axes.set_ylim(-0.6, len(models) - 0.4)
        axes.tick_params(axis="x", labelsize=8)
        axes.grid(axis="x", alpha=0.3)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    figure.suptitle(f"{level:.0%} intervals over blocks", fontsize=9)
    figure.savefig(path, dpi=110, format="png")


def write_reliabilities(path: Path, models: Mapping[str, Reliability]) -> None:
    """Write a PNG of accuracy against confidence, a line for each model, and how many pixels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for name, reliability in models.items():
        rows = reliability.rows()
        confidence = [row["confidence"] for row in rows]
        total = sum(row["pixels"] for row in rows)
        label = f"{name}: error {reliability.error:.3f}"
        above.plot(confidence, [row["accuracy"] for row in rows], "o-", markersize=4, label=label)
        below.plot(confidence, [row["pixels"] / total for row in rows], "o-", markersize=3)
    above.set_ylabel("accuracy")
    above.set_xlim(0, 1)
    above.set_ylim(0, 1)
    above.legend(fontsize=8)
    below.set_xlabel("highest probability of a pixel")
    below.set_ylabel("share of pixels")
    figure.savefig(path, dpi=110, format="png")
