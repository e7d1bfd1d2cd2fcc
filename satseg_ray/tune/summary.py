"""The trials of a sweep as a table and as a picture."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure

from satseg_ray.tune.space import Range, Space, Value

Outcome = Literal["finished", "stopped", "failed"]
COLUMNS = ("trial", "outcome", "epochs", "seconds")


@dataclass(frozen=True)
class Trial:
    """One training of a sweep: its values, its best score and how it ended.

    ``stopped`` means early: as worse than others after as many epochs, or as the time was over.
    ``exported`` says that there is a model of it.
    """

    name: str
    values: dict[str, Value]
    score: float | None
    outcome: Outcome
    epochs: int
    seconds: float
    run_id: str | None = None
    problem: str | None = None
    exported: bool = False


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """Return the trial of the highest score that has a model, the first where some are equal."""
    exported = [t for t in trials if t.exported and t.score is not None]
    return max(exported, key=lambda trial: trial.score or 0.0, default=None)


def with_best_exported(
    trials: Sequence[Trial], export: Callable[[Trial], Trial | None]
) -> list[Trial]:
    """Return the trials; the one of the highest score of all has a model now, if it can have one.

    ``export`` returns a trial that was stopped with its model, or ``None`` where it cannot.
    """
    found = list(trials)
    scored = [t for t in found if t.score is not None and t.outcome != "failed"]
    for trial in sorted(ranked(scored), key=lambda t: (-(t.score or 0.0), not t.exported)):
        if trial.exported:
            break
        if made := export(trial):
            found[found.index(trial)] = made
            break
    return found


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Return trials, the best first; those without a score last."""
    return sorted(trials, key=lambda t: (t.score is None, -(t.score or 0.0), t.name))


def write_table(path: Path, trials: Sequence[Trial], metric: str) -> None:
    """Write the trials as CSV, the best first."""
    keys = list(trials[0].values) if trials else []
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS, metric, *keys, "run_id", "problem"])
        for t in ranked(trials):
            own = [t.name, t.outcome, t.epochs, round(t.seconds, 1), t.score]
            writer.writerow([*own, *(t.values[key] for key in keys), t.run_id, t.problem])


@dataclass(frozen=True)
class _Axis:
    """One upright axis of the picture: where a value lies on it, 0 to 1, and what is written."""

    title: str
    places: list[float]
    ticks: list[tuple[float, str]]


def write_parallel(path: Path, trials: Sequence[Trial], space: Space, metric: str) -> None:
    """Draw the trials as lines over one axis for each key and one for the score (PNG).

    The colour is the score; trials that were stopped early are thin, the best one is thick.
    """
    scored = ranked([trial for trial in trials if trial.score is not None])
    figure = Figure(figsize=(2.2 + 1.7 * (len(space) + 1), 4.8), layout="constrained")
    plot = figure.add_subplot()
    if not scored:
        plot.text(0.5, 0.5, "no trial has a score", ha="center", va="center")
        plot.set_axis_off()
        figure.savefig(path, dpi=110)
        return
    scores = [float(trial.score or 0.0) for trial in scored]
    axes = [_axis(key, given, [t.values[key] for t in scored]) for key, given in space.items()]
    axes.append(_numbers(metric, scores, min(scores), max(scores), log=False))
    _draw(plot, axes, scored, scores)
    figure.savefig(path, dpi=110)


def _axis(key: str, given: list[Value] | Range, values: list[Any]) -> _Axis:
    if isinstance(given, Range):
        return _numbers(key, [float(v) for v in values], given.low, given.high, given.log)
    places = {str(value): (index + 0.5) / len(given) for index, value in enumerate(given)}
    ticks = [(place, text) for text, place in places.items()]
    return _Axis(key, [places[str(value)] for value in values], ticks)


def _numbers(title: str, values: list[float], low: float, high: float, log: bool) -> _Axis:
    def place(value: float) -> float:
        if high <= low:
            return 0.5
        if log:
            return float(np.log(value / low) / np.log(high / low))
        return (value - low) / (high - low)

    marks = np.geomspace(low, high, 5) if log else np.linspace(low, high, 5)
    ticks = [(place(float(mark)), f"{mark:.3g}") for mark in marks[: 1 if high <= low else None]]
    return _Axis(title, [place(value) for value in values], ticks)


def _draw(plot: Any, axes: list[_Axis], trials: list[Trial], scores: list[float]) -> None:
    from matplotlib import colormaps

    colors = colormaps["viridis"]
    low, high = min(scores), max(scores)
    across = np.arange(len(axes))
    for row in reversed(range(len(trials))):  # the best one last, on top
        share = (scores[row] - low) / (high - low) if high > low else 1.0
        width = 3.0 if row == 0 else 1.4 if trials[row].outcome == "finished" else 0.6
        heights = [axis.places[row] for axis in axes]
        plot.plot(across, heights, color=colors(share), linewidth=width, alpha=0.9)
    for column, axis in enumerate(axes):
        plot.axvline(column, color="#444444", linewidth=0.8, zorder=0)
        for place, text in axis.ticks:
            plot.annotate(
                text, (column, place), xytext=(4, 0), textcoords="offset points", fontsize=8,
                va="center", bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 1},
            )  # fmt: skip
    plot.set_xticks(across, [axis.title for axis in axes])
    plot.set_yticks([])
    plot.set_xlim(-0.2, len(axes) - 0.35)
    plot.set_ylim(-0.05, 1.05)
    for side in ("top", "right", "left", "bottom"):
        plot.spines[side].set_visible(False)
    plot.set_title(f"{len(trials)} trials; best {trials[0].name}: {scores[0]:.4f}", fontsize=10)
