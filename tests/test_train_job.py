"""The job around a training, without Ray: which run goes on, and what MLflow has of it."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from satseg_ray.classes import ClassDef, ClassTable
from satseg_ray.config import TrainConfig
from satseg_ray.errors import Diverged, EmptySplit, TrainingFailed, UnwritableProduct
from satseg_ray.patches.store import PatchManifest
from satseg_ray.tracking import Run, Tracking
from satseg_ray.train import job
from satseg_ray.train.trainer import RunPlace, TrainResources, TrainResult
from satseg_ray.workspace import Workspace
from tests.test_train_loop import write_patches

EPOCHS = 3
CONFIG = {"dataset": "toy", "architecture": "linknet", "backbone": "mobilenetv2", "epochs": EPOCHS}
FIGURES = {"loss": 1.0, "patches_per_second": 1.0, "epoch_seconds": 1.0, "val_mean_iou": 0.5}


class Fake:
    """Stands for the workers: each call ends with the next of its ends, an epoch further."""

    def __init__(self, *ends: BaseException | None) -> None:
        self.ends, self.began = list(ends), list[int]()

    def __call__(self, task, resources: TrainResources, place: RunPlace) -> TrainResult:
        state = place.checkpoints.read()
        self.began.append(state.epoch)
        end = self.ends.pop(0)
        last = state.epoch + 1 if end else EPOCHS
        while state.epoch < last:
            state.advance([np.zeros(1)], [], FIGURES)
            place.checkpoints.write(state)
        if end:
            raise end
        assert place.run is not None
        place.run.log_metrics(FIGURES, EPOCHS)  # the others are lost on their way
        return TrainResult(task.model, state.best_epoch, tuple(state.history))


@pytest.fixture
def start(workspace: Path, monkeypatch):
    """Start the job with stand-ins for Ray and the workers."""
    lineage = {"dataset_version": "toy@1", "patches_version": "toy@2"}
    write_patches(workspace / "data" / "patches" / "toy", lineage, train=2)
    monkeypatch.setenv("SATSEG_CODE_REVISION", "test")
    monkeypatch.setattr(job, "ray_session", lambda *_, **__: nullcontext())
    monkeypatch.setattr(job, "_resources", lambda _: TrainResources())
    monkeypatch.setattr(job, "log_model", lambda *_: "models:/m-0")  # the fake leaves no model

    def run(fake: Fake, **settings):
        monkeypatch.setattr(job, "train_on_ray", fake)
        return job.train(TrainConfig.model_validate(CONFIG | settings))

    return run


def runs(workspace: Path) -> dict[str, str]:
    client = Tracking.open(workspace).client()
    found = client.search_runs([e.experiment_id for e in client.search_experiments()])
    return {run.info.run_id: run.info.status for run in found}


def test_a_training_that_was_stopped_or_found_no_room_goes_on_in_its_run(start, workspace):
    fake = Fake(KeyboardInterrupt("SIGINT"), UnwritableProduct("c", "no space", "Look."), None)
    with pytest.raises(KeyboardInterrupt):
        start(fake)
    assert list(runs(workspace).values()) == ["KILLED"]
    with pytest.raises(UnwritableProduct):
        start(fake)
    assert list(runs(workspace).values()) == ["FAILED"]
    result = start(fake)
    assert fake.began == [0, 1, 2]
    assert runs(workspace) == {result["run_id"]: "FINISHED"}
    run = Tracking.open(workspace).reopened(result["run_id"])
    assert run is not None
    assert run.steps("loss") == {1, 2, 3}
    assert result["metrics_lost"] == 0
    again = start(Fake(None))
    assert again["run_id"] != result["run_id"]


def test_a_run_that_was_stopped_ends_after_the_epochs_that_it_has(start, workspace, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        start(Fake(KeyboardInterrupt("SIGINT")))
    (stopped,) = runs(workspace)
    given = []

    def end(task, resources: TrainResources, place: RunPlace) -> TrainResult:
        state = place.checkpoints.read()
        given.append((task.training.epochs, state.epoch))
        return TrainResult(task.model, state.best_epoch, tuple(state.history))

    monkeypatch.setattr(job, "train_on_ray", end)
    config, ending = TrainConfig.model_validate(CONFIG), job.Supervision(ends_after=1)
    result = job.train_supervised(config, Workspace(workspace), ending)
    assert (result["run_id"], result["epochs"]) == (stopped, 1)
    assert given == [(1, 1)]  # no step is left
    assert runs(workspace) == {stopped: "FINISHED"}
    with pytest.raises(TrainingFailed, match="has no run that goes on"):
        job.train_supervised(config, Workspace(workspace), ending)
    assert list(runs(workspace)) == [stopped]


def test_where_mlflow_cannot_be_asked_nobody_knows_how_many_epochs_it_lacks(start, monkeypatch):
    def away(run, metric):
        raise ConnectionError("nobody is there")

    monkeypatch.setattr(Run, "steps", away)
    assert start(Fake(None))["metrics_lost"] is None


def test_a_run_whose_driver_was_killed_is_ended_by_a_fresh_start(start, workspace):
    with pytest.raises(KeyboardInterrupt):
        start(Fake(KeyboardInterrupt("SIGINT")))
    (killed,) = runs(workspace)
    Tracking.open(workspace).client().update_run(killed, status="RUNNING")  # as after kill -9
    start(Fake(None), fresh=True)
    assert runs(workspace)[killed] == "KILLED"


def test_a_class_without_a_training_pixel_is_said_and_is_a_tag(start, workspace, capsys):
    start(Fake(None))
    assert "warning: no training pixel" not in capsys.readouterr().err
    patches = workspace / "data" / "patches" / "toy"
    manifest = PatchManifest.read(patches)
    names = ("land", "water", "snow")
    classes = ClassTable(tuple(ClassDef(value, name) for value, name in enumerate(names)))
    replace(manifest, classes=classes).write(patches)
    result = start(Fake(None))
    assert "warning: no training pixel is of snow" in capsys.readouterr().err
    tags = Tracking.open(workspace).client().get_run(result["run_id"]).data.tags
    assert tags["classes_without_training_pixels"] == "snow"


def test_other_settings_a_fresh_start_and_a_lost_number_are_new_runs(start, workspace):
    stop = KeyboardInterrupt("SIGINT")
    for settings in ({}, {"seed": 1}, {"fresh": True}):
        fake = Fake(stop)
        with pytest.raises(KeyboardInterrupt):
            start(fake, **settings)
        assert fake.began == [0]
    fake = Fake(Diverged("training", "the loss is nan", "Lower it."), stop)
    with pytest.raises(Diverged):
        start(fake)
    with pytest.raises(KeyboardInterrupt):
        start(fake)
    assert fake.began == [1, 0]  # the fresh one goes on, and what it lost does not
    assert len(runs(workspace)) == 4


def test_a_set_of_one_class_is_refused(start, workspace):
    patches = workspace / "data" / "patches" / "toy"
    counts = {"train": {"patches": 2, "pixels": {"land": 9, "water": 0, "unlabelled": 0}}}
    replace(PatchManifest.read(patches), counts=counts).write(patches)
    with pytest.raises(EmptySplit, match="toy/train: holds no label of water"):
        start(Fake(None))
    assert runs(workspace) == {}
