"""One trial of a sweep in Ray Tune: a training whose epochs the scheduler sees."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.trainable import wrap_function

from satseg_ray.config import TrainConfig
from satseg_ray.errors import SatsegError
from satseg_ray.products import fresh_file
from satseg_ray.train.checkpoint import is_best
from satseg_ray.train.job import Supervision, train_supervised
from satseg_ray.tune.space import with_values
from satseg_ray.workspace import Workspace

SCORE = "score"
"""What Tune compares: the sweep's metric in the epoch whose weights a trial would keep now."""

EXPORTED = "exported"
"""Whether a trial has come to its end and has a model."""


@dataclass(frozen=True)
class TrialTask:
    """What all trials of a sweep share; ``notes`` is a folder that every node reaches."""

    base: TrainConfig
    workspace: Workspace
    metric: str
    parent: str
    notes: str


class KeptScore:
    """The metric of the epoch that a training would keep now, by the training's own rule."""

    def __init__(self, metric: str) -> None:
        self._metric = metric
        self._best: Mapping[str, float] | None = None

    def after(self, figures: Mapping[str, float]) -> float:
        """Return the score after one more epoch of these figures."""
        if is_best(figures, self._best):
            self._best = figures
        return (self._best or figures).get(self._metric, float("-inf"))


class ScoreCallback(TuneReportCallback):  # type: ignore[misc]  # Ray has no types for it
    """Hands each epoch's figures to Tune, with the best score so far."""

    def __init__(self, metric: str) -> None:
        super().__init__()
        self._kept = KeptScore(metric)

    def go_on(self, history: Iterable[Mapping[str, float]]) -> None:
        """Take the figures of epochs before into account."""
        for figures in history:
            self._kept.after(figures)

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
    ) -> None:
        """Report one epoch."""
        first = {**metrics[0], SCORE: self._kept.after(metrics[0])}
        super().after_report(run_context, [first, *metrics[1:]], checkpoint)


def trial_class(task: TrialTask) -> type[Any]:
    """Return what Tune makes an actor of for each trial; the dashboard shows its name."""
    base: Any = wrap_function(partial(run_trial, task=task))

    class Trial(base):  # type: ignore[misc]
        def __repr__(self) -> str:
            return str(self.trial_name)

    return Trial


def run_trial(values: dict[str, Any], task: TrialTask) -> None:
    """Train with a trial's values; leaves a note of its run, and of what went wrong."""
    trial = tune.get_context()
    note = Path(task.notes) / f"{trial.get_trial_id()}.json"
    score = ScoreCallback(task.metric)

    def started(run_id: str, history: Sequence[Mapping[str, float]]) -> None:
        write_note(note, {"run_id": run_id})
        score.go_on(history)

    try:
        config = with_values(task.base, values)
        name = str(trial.get_trial_name())
        supervision = Supervision(name, task.parent, (score,), started)
        result = train_supervised(config, task.workspace, supervision)
        # A trial that was interrupted after its last epoch has none to report
        tune.report(final_figures(result, task.metric))
    except SatsegError as error:
        write_note(note, read_note(note) | {"problem": str(error)})
        raise


def final_figures(result: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """Return what Tune is told of a training that came to its end.

    >>> final_figures({"epochs": 5, "metrics": {"val_mean_iou": 0.75}}, "val_mean_iou")
    {'epoch': 5, 'val_mean_iou': 0.75, 'score': 0.75, 'exported': True}
    """
    best = result["metrics"].get(metric, float("-inf"))
    return {"epoch": result["epochs"], metric: best, SCORE: best, EXPORTED: True}


def write_note(path: Path, body: Mapping[str, str]) -> None:
    """Write what is known of a trial."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with fresh_file(path) as partial:
        partial.write_text(json.dumps(dict(body)), encoding="utf-8")


def notes(folder: Path) -> list[dict[str, str]]:
    """Return what is known of all trials that have a run."""
    found = [read_note(path) for path in sorted(folder.glob("*.json"))]
    return [note for note in found if "run_id" in note]


def read_note(path: Path) -> dict[str, str]:
    """Return what is known of a trial; nothing before it has a run."""
    if not path.is_file():
        return {}
    body: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return body
