"""How a sweep ends, and what is left of it: with trials that are told, in place of Ray's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from satseg_ray.config import TrainConfig
from satseg_ray.errors import TrainingFailed
from satseg_ray.tracking import Run, Tracking
from satseg_ray.tracking.registry import ModelVersion
from satseg_ray.train.checkpoint import Checkpoints, TrainState
from satseg_ray.train.job import Supervision
from satseg_ray.train.resume import Unfinished, unfinished
from satseg_ray.tune import record, sweep
from satseg_ray.tune.config import TuneConfig
from satseg_ray.tune.sweep import _Sweep
from satseg_ray.tune.trial import KeptScore, write_note
from satseg_ray.workspace import Workspace

SPACE: dict[str, Any] = {"learning_rate": {"low": 0.001, "high": 0.01}}


class Told:
    """A sweep whose trials are told one by one; ``fit`` stands for Ray Tune."""

    def __init__(self, root: Path) -> None:
        self.workspace, self.tracking = Workspace(root), Tracking.open(root)
        self.results: list[Any] = []
        self.fit: Callable[[], Any] = lambda: list(self.results)

    def run(self, **given: Any) -> Any:
        """Run the sweep, or go on with it."""
        raw = {"dataset": "toy", "name": "told", "space": SPACE} | given
        base = TrainConfig(dataset="toy")
        made = _Sweep(TuneConfig.model_validate(raw), base, self.workspace, self.tracking, "digest")
        made.folder.mkdir(parents=True, exist_ok=True)
        return made.run()

    def trial(
        self, number: int, problem: str | None = None, started: bool = True, **metrics: Any
    ) -> Run:
        """Add a trial with a run and what it left; ``problem`` is what it failed by."""
        run = self.tracking.create_run("satseg", f"t{number}")
        note = {"run_id": run.run_id} if started else {}
        write_note(
            self.workspace.sweep("told") / "trials" / f"t{number}.json",
            note | ({"problem": problem} if problem else {}),
        )
        checkpoints = self.workspace.run(run.run_id) / "checkpoints"
        checkpoints.mkdir(parents=True)
        if not metrics.get("exported"):
            with unfinished(self.workspace, {"trial": number}) as there:
                there.begin(run.run_id)
        path, values = str(self.folder(number)), {"learning_rate": 0.002}
        error = RuntimeError(f"a trace\nof {problem}") if problem else None
        self.results.append(SimpleNamespace(path=path, metrics=metrics, config=values, error=error))
        return run

    def folder(self, number: int) -> Path:
        """Where Tune keeps what it knows of a trial."""
        found = self.workspace.sweep("told") / "ray" / f"t{number}"
        found.mkdir(parents=True, exist_ok=True)
        return found

    def unfinished(self) -> set[str | None]:
        """Return the runs that a command would go on with."""
        records = (self.workspace.root / "runs" / "unfinished").glob("*.json")
        return {Unfinished(path).run_id() for path in records}

    def status(self, run_id: str) -> str:
        return str(self.tracking.client().get_run(run_id).info.status)

    def parent(self) -> Any:
        (found,) = self.tracking.client().search_runs(
            [e.experiment_id for e in self.tracking.client().search_experiments()],
            "tags.sweep = 'told'",
        )
        return found


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow: its tables take a second to make."""
    root = tmp_path_factory.mktemp("empty")
    Tracking.open(root)
    return root / "mlflow.db"


@pytest.fixture
def told(tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    shutil.copy(tables, tmp_path)
    found = Told(tmp_path)
    monkeypatch.setattr(_Sweep, "_tuner", lambda self, state, budget: found)
    return found


def test_a_sweep_of_failed_trials_alone_says_the_first_problem_in_one_line(told):
    first = told.trial(0, problem="weights.h5: holds no weights. Name others.")
    told.trial(1, problem="out of memory")
    with pytest.raises(TrainingFailed) as failure:
        told.run()
    said = str(failure.value)
    assert "none of 2 trials came to its end: weights.h5: holds no weights. Name others." in said
    assert "\n" not in said
    assert failure.value.exit_code == 18
    assert told.status(first.run_id) == "FAILED"
    assert told.parent().info.status == "FAILED"
    assert told.parent().data.tags["error"] == said
    assert first.run_id in told.unfinished()  # it is tried again
    assert (told.workspace.run(first.run_id) / "checkpoints").is_dir()


def test_of_an_unforeseen_failure_the_last_line_is_told(told):
    told.trial(0, problem="out of memory", started=False)
    (told.workspace.sweep("told") / "trials" / "t0.json").unlink()
    with pytest.raises(TrainingFailed, match="none of 1 trials came to its end: of out of memory"):
        told.run()


def test_nobody_goes_on_with_a_trial_that_was_stopped_or_failed(told):
    told.trial(0, epoch=4, score=0.7, exported=True)
    stopped, failed = told.trial(1, epoch=2, score=0.4), told.trial(2, problem="no weights")
    assert told.unfinished() == {stopped.run_id, failed.run_id}
    assert told.run()["best"]["score"] == 0.7
    assert told.unfinished() == set()
    assert not told.workspace.run(stopped.run_id).exists()
    assert (told.status(stopped.run_id), told.status(failed.run_id)) == ("FINISHED", "FAILED")


def test_a_sweep_that_goes_on_is_running_again(told):
    told.trial(0, epoch=4, score=0.7, exported=True)
    told.fit = interrupted
    with pytest.raises(KeyboardInterrupt):
        told.run()
    seen = []

    def going_on() -> Any:
        seen.append(told.parent().info.status)
        return told.results

    told.fit = going_on
    told.run()
    assert seen == ["RUNNING"]
    assert told.parent().info.status == "FINISHED"


def test_the_best_is_registered_by_every_name_that_is_asked_for_and_once_by_each(told, monkeypatch):
    names: list[str] = []

    def registered(run: Run, directory: Path, name: str, alias: str) -> ModelVersion:
        names.append(name)
        return ModelVersion(name, "1", run.run_id, "")

    monkeypatch.setattr(record, "register_model", registered)
    best = told.trial(0, epoch=4, score=0.7, exported=True)
    assert told.run()["registered"] is None
    for name in ("coast", "coast", "shore"):
        result = told.run(challenger=name)
        assert result["registered"]["name"] == name
        assert result["best"]["run_id"] == best.run_id
    assert names == ["coast", "shore"]
    assert told.run()["registered"]["name"] == "shore"


def test_tune_compares_the_metric_of_the_epoch_that_is_kept():
    figures = [(0.5, 0.9), (0.6, 0.4), (0.6, 0.5), (0.2, 0.8)]
    history = [{"val_mean_iou": mean, "val_iou_water": water} for mean, water in figures]
    state, kept = TrainState(), KeptScore("val_iou_water")
    for epoch in history:
        state.advance([], [], epoch)
        assert kept.after(epoch) == state.best["val_iou_water"]


def test_a_trial_without_a_figure_has_no_score_and_the_result_is_json(told):
    told.trial(0, epoch=4, score=float("-inf"), exported=True)
    told.trial(1, epoch=4, score=0.1, exported=True)
    result = told.run()
    assert [trial["score"] for trial in result["trials"]] == [0.1, None]
    json.dumps(result, allow_nan=False)


def test_a_trial_that_leads_when_the_time_is_over_is_the_best_and_has_a_model(told, monkeypatch):
    ended = told.trial(0, epoch=4, score=0.5, exported=True)
    leading = told.trial(1, epoch=2, score=0.7)
    told.results[1].metrics, told.results[1].config = {"timestamp": 1}, None  # as Tune forgets them
    (told.folder(1) / "params.json").write_text('{"learning_rate": 0.002}')
    state = TrainState()
    for score in (0.8, 0.6):
        state.advance([np.zeros(1)], [], {"val_mean_iou": score})
    checkpoints = Checkpoints(str(told.workspace.run(leading.run_id) / "checkpoints"))
    checkpoints.write(state)

    def ending(config: TrainConfig, workspace: Workspace, supervision: Supervision) -> Any:
        assert (config.learning_rate, supervision.ends_after) == (0.002, 2)
        assert supervision.parent == told.parent().info.run_id
        return {"epochs": 2, "metrics": state.best}

    monkeypatch.setattr(sweep, "train_supervised", ending)
    result = told.run()
    assert result["best"]["run_id"] == leading.run_id
    assert result["best"]["score"] == 0.8
    assert told.workspace.run(leading.run_id).is_dir()
    assert not told.workspace.run(ended.run_id).exists()


def test_where_no_model_can_be_made_the_next_one_is_the_best(told, monkeypatch):
    ended = told.trial(0, epoch=4, score=0.5, exported=True)
    told.trial(1, epoch=2, score=0.7)  # there is no checkpoint
    assert told.run()["best"]["run_id"] == ended.run_id


def interrupted() -> Any:
    raise KeyboardInterrupt("SIGINT")


def test_a_sweep_is_interrupted_though_a_trial_failed_before_it_had_a_run(told):
    told.trial(0, problem="no weights", started=False)
    under_way = told.trial(1)
    told.fit = interrupted
    with pytest.raises(KeyboardInterrupt):
        told.run()
    assert told.status(under_way.run_id) == "KILLED"
    assert told.parent().info.status == "KILLED"
