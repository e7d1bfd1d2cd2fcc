"""One trial of a sweep in Ray Tune: a training whose epochs the scheduler sees."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from satseg_ray.config import TrainConfig
from satseg_ray.errors import SatsegError
from satseg_ray.products import fresh_file
from satseg_ray.train.job import Supervision, train_supervised
from satseg_ray.tune.space import with_values

SCORE = "score"
"""What Tune compares: the highest value of the sweep's metric in a trial so far."""


@dataclass(frozen=True)
class TrialTask:
    """What all trials of a sweep share; ``notes`` is a folder that every node reaches."""

    base: TrainConfig
    metric: str
    parent: str
    notes: str


class ScoreCallback(TuneReportCallback):  # type: ignore[misc]  # Ray has no types for it
    """Hands each epoch's figures to Tune, with the best score so far."""

    def __init__(self, metric: str) -> None:
        super().__init__()
        self._metric, self._best = metric, float("-inf")

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
    ) -> None:
        """Report one epoch."""
        self._best = max(self._best, metrics[0].get(self._metric, float("-inf")))
        first = {**metrics[0], SCORE: self._best}
        super().after_report(run_context, [first, *metrics[1:]], checkpoint)


def run_trial(values: dict[str, Any], task: TrialTask) -> None:
    """Train with a trial's values; leaves a note of its run, its model, and what went wrong."""
    trial = tune.get_context()
    note = Path(task.notes) / f"{trial.get_trial_id()}.json"
    name = str(trial.get_trial_name())
    try:
        config = with_values(task.base, values)
        supervision = Supervision(
            name=name,
            parent=task.parent,
            callbacks=(ScoreCallback(task.metric),),
            started=lambda run_id: write_note(note, {"run_id": run_id}),
        )
        result = train_supervised(config, supervision)
        score = result["metrics"].get(task.metric)
        write_note(note, read_note(note) | {"model": result["model"], "score": score})
    except SatsegError as error:
        write_note(note, read_note(note) | {"problem": str(error)})
        raise


def write_note(path: Path, body: Mapping[str, Any]) -> None:
    """Write what is known of a trial."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with fresh_file(path) as partial:
        partial.write_text(json.dumps(dict(body)), encoding="utf-8")


def read_note(path: Path) -> dict[str, Any]:
    """Return what is known of a trial; nothing before it has a run."""
    if not path.is_file():
        return {}
    body: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return body
