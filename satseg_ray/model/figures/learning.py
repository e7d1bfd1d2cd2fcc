"""How a training went, epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from satseg_ray.classes import ClassTable
from satseg_ray.model.figures.canvas import (
    BLUE,
    INK,
    WARN,
    Color,
    line_colors,
    new_figure,
    plain,
    save,
    short,
)
from satseg_ray.model.metrics import Ratios

if TYPE_CHECKING:
    from matplotlib.axes import Axes

History: TypeAlias = Sequence[Mapping[str, float]]

_NAMED = 12


def write_learning_curves(path: Path, history: History, best_epoch: int, table: ClassTable) -> None:
    """Write a PNG of loss, IoU on validation, learning rate and throughput by epoch.

    ``history`` holds the figures of each epoch from the first on, under the names of their
    metrics (``loss``, ``val_loss``, ``val_mean_iou``, ``val_iou_<class>``, ``learning_rate``,
    ``patches_per_second``); one that is missing leaves a gap. The best epoch is marked.
    """
    figure = new_figure(11, 6.6)
    (loss, iou), (rate, speed) = figure.subplots(2, 2, height_ratios=(2.4, 1), sharex=True)
    _loss(loss, history)
    _iou(iou, history, best_epoch, table)
    _line(rate, series(history, "learning_rate"), color=INK)
    plain(rate, "Learning rate", xlabel="epoch")
    rate.yaxis.set_major_formatter("{x:.3g}")
    _line(speed, series(history, "patches_per_second"), color=INK)
    plain(speed, "Patches per second", xlabel="epoch")
    speed.set_ylim(bottom=0)
    for axes in (loss, iou, rate, speed):
        axes.axvline(best_epoch, color="#bbbbbb", linewidth=1, linestyle="--", zorder=0)
        axes.xaxis.get_major_locator().set_params(integer=True)
    rate.set_xlim(min(0.5, 1 - 0.02 * len(history)), len(history) + max(0.5, 0.02 * len(history)))
    save(figure, path)


def series(history: History, name: str) -> Ratios:
    """Return one figure of every epoch, float64; ``nan`` where it is missing."""
    return np.array([figures.get(name, math.nan) for figures in history], np.float64)


def _loss(axes: Axes, history: History) -> None:
    own, held_out = series(history, "loss"), series(history, "val_loss")
    _line(axes, own, color=BLUE, label="training")
    _line(axes, held_out, color=WARN, label="validation")
    plain(axes, "Loss")
    known = np.concatenate([own, held_out])
    known = known[np.isfinite(known)]
    if known.size and known.min() > 0 and known.max() > 20 * known.min():
        axes.set_yscale("log")
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)


def _iou(axes: Axes, history: History, best_epoch: int, table: ClassTable) -> None:
    for item, color in zip(table, line_colors(table), strict=True):
        label = short(item.name, 16) if len(table) <= _NAMED else None
        _line(axes, series(history, f"val_iou_{item.name}"), color=color, width=1.1, label=label)
    mean = series(history, "val_mean_iou")
    _line(axes, mean, color=INK, width=2.4, label="mean")
    title = "IoU on validation"
    if mean.size and not math.isnan(mean[best_epoch - 1]):
        title += f": mean {mean[best_epoch - 1]:.3f} in epoch {best_epoch}"
        axes.scatter(best_epoch, mean[best_epoch - 1], s=46, color=INK, zorder=5)
    elif np.isnan(mean).all():
        title = "No validation split"
    plain(axes, title)
    axes.set_ylim(0, 1)
    if not np.isnan(mean).all():
        axes.legend(
            frameon=False, fontsize=8, labelcolor=INK, loc="center left", bbox_to_anchor=(1, 0.5)
        )


def _line(
    axes: Axes, values: Ratios, color: str | Color, width: float = 1.8, label: str | None = None
) -> None:
    """Draw values by epoch; a dot where a value has no neighbour."""
    if np.isnan(values).all():
        return
    options: dict[str, Any] = {"color": color, "linewidth": width, "label": label}
    if len(values) <= 30:
        options |= {"marker": "o", "markersize": 2 + width}
    axes.plot(np.arange(1, len(values) + 1), values, **options)
