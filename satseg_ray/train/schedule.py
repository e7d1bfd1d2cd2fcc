"""Learning rates and early stopping: functions of the step and of the figures so far.

All of it follows from the history that a checkpoint holds, so a run that is resumed goes on as
one that was not interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from satseg_ray.model.training_spec import PlateauSpec, TrainingSpec

SCORE = "val_mean_iou"
"""The figure whose highest value makes an epoch the best."""

History: TypeAlias = Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class RatePlan:
    """The learning rate of each of ``steps`` steps: a linear rise, then constant or a cosine."""

    highest: float
    steps: int
    warmup: float = 0.0
    cosine: bool = True

    @classmethod
    def of(cls, spec: TrainingSpec, steps: int) -> RatePlan:
        """Return the plan of a training of so many steps; see :func:`highest_rate`."""
        return cls(highest_rate(spec), steps, spec.warmup, spec.schedule == "cosine")

    def rate(self, step: int) -> float:
        """Return the rate of a step, ``0 <= step < steps``; never 0.

        >>> [round(RatePlan(1.0, 4, cosine=False, warmup=0.5).rate(step), 2) for step in range(4)]
        [0.5, 1.0, 1.0, 1.0]
        """
        rising = round(self.warmup * self.steps)
        if step < rising:
            return self.highest * (step + 1) / rising
        if not self.cosine:
            return self.highest
        done = (step - rising) / (self.steps - rising)
        return self.highest * (1 + math.cos(math.pi * done)) / 2


def highest_rate(spec: TrainingSpec) -> float:
    """Return the highest rate: ``learning_rate``, scaled linearly from the batch it is meant for.

    The batch is the global one, so the rate is the same on any number of workers.

    >>> highest_rate(TrainingSpec(learning_rate=0.1, batch_size=32, rate_batch_size=8))
    0.4
    """
    return spec.learning_rate * spec.batch_size / (spec.rate_batch_size or spec.batch_size)


def plateau_factor(spec: TrainingSpec, history: History) -> float:
    """Return what the schedule ``plateau`` multiplies the rate of the next epoch by, else 1."""
    if spec.schedule != "plateau":
        return 1.0
    values = _watched(history, spec.plateau.watch)
    return float(spec.plateau.factor ** falls(values, spec.plateau))


def falls(values: Sequence[float], spec: PlateauSpec) -> int:
    """Return how often the rate has fallen; of ``values`` the highest is the best.

    >>> falls([1, 2, 2, 2, 2, 2, 3], PlateauSpec(patience=2))
    2
    """
    best, waited, count = -math.inf, 0, 0
    for value in values:
        if value > best + spec.min_delta:
            best, waited = value, 0
        else:
            waited += 1
        if waited == spec.patience:
            waited, count = 0, count + 1
    return count


def is_stopped(spec: TrainingSpec, history: History) -> bool:
    """Tell whether training ends here: no epoch is left, or the score stands still."""
    if len(history) >= spec.epochs:
        return True
    patience = spec.stopping.patience
    values = _watched(history, "score")
    return patience is not None and since_best(values, spec.stopping.min_delta) >= patience


def since_best(values: Sequence[float], min_delta: float = 0.0) -> int:
    """Return how many values came after the last one that was better by more than ``min_delta``.

    >>> since_best([0.1, 0.3, 0.2, 0.31], min_delta=0.02)
    2
    """
    best, last = -math.inf, 0
    for number, value in enumerate(values, 1):
        if value > best + min_delta:
            best, last = value, number
    return len(values) - last


def _watched(history: History, watch: str) -> list[float]:
    """Return a figure of each epoch, higher is better; without validation the training loss."""
    if watch == "score" and any(SCORE in figures for figures in history):
        return [figures.get(SCORE, -math.inf) for figures in history]
    name = "val_loss" if any("val_loss" in figures for figures in history) else "loss"
    return [-figures.get(name, math.inf) for figures in history]
