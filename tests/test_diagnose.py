"""Diagnostics of a training: written by rank 0, logged by the driver, never at the model's cost."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from satseg_ray.model.diagnostics import Diagnostics
from satseg_ray.model.numerics import NumericsKey
from satseg_ray.model.spec import ModelSpec
from satseg_ray.patches.store import PatchStore
from satseg_ray.tracking import Run, Tracking
from satseg_ray.tracking.system import environment_lock, log_environment, system_metrics
from satseg_ray.train import diagnose as module
from satseg_ray.train.checkpoint import TrainState
from satseg_ray.train.diagnose import (
    FAILED,
    REPORT,
    diagnose,
    folder_of,
    log_diagnostics,
    look,
    tempered,
)
from tests.test_train_loop import SoloSession, make_task, write_patches

FIGURES = {
    *("learning_curves.png", "confusion.png", "iou.png", "precision_recall.png"),
    *("reliability.png", "best_patches.png", "worst_patches.png"),
}


@dataclass(frozen=True)
class Brightness:
    """A model that calls bright pixels of the toy patches water."""

    spec: ModelSpec
    batch_size: int = 4

    def predict_proba(self, batch: Any) -> Any:
        water = 1 / (1 + np.exp(-(batch.mean(axis=-1) - 100) / 8))
        return np.stack([1 - water, water], axis=-1).astype(np.float32)

    def numerics_key(self) -> NumericsKey:
        raise NotImplementedError


def state_of(epochs: int = 3) -> TrainState:
    state = TrainState()
    for epoch in range(epochs):
        figures = {"loss": 1 / (epoch + 1), "val_loss": 1.0, "val_mean_iou": 0.5}
        state.advance([], [], figures)
    return state


@pytest.fixture(scope="module")
def patches(tmp_path_factory) -> Path:
    return write_patches(tmp_path_factory.mktemp("toy") / "patches", train=2, val=10)


@pytest.fixture(scope="module")
def tracking(tmp_path_factory) -> Tracking:
    return Tracking.open(tmp_path_factory.mktemp("workspace"))


@pytest.fixture
def run(tracking) -> Run:
    return tracking.create_run("train", "a run")


@pytest.fixture
def toy(monkeypatch, patches, tmp_path):
    """A task whose trained model is :class:`Brightness`."""
    task = make_task(patches, tmp_path / "model")
    monkeypatch.setattr(module, "_loaded", lambda directory: Brightness(task.spec))
    return task


def test_whole_split_is_looked_at_in_any_batches(toy, patches):
    reader = PatchStore.open(patches).split("val")
    found = [look(Brightness(toy.spec, size), reader).diagnostics for size in (1, 4, 64)]
    assert found[0] == found[1] == found[2]
    batch = reader.read(range(10))
    whole = Diagnostics.of(Brightness(toy.spec).predict_proba(batch.image), batch.mask, range(10))
    assert found[0] == whole
    assert whole.confusion.mean_iou > 0.9


def test_figures_and_report_are_written_beside_the_model(toy):
    diagnose(toy, state_of())
    folder = folder_of(Path(toy.model))
    assert {path.name for path in folder.iterdir()} == FIGURES | {REPORT}
    report = json.loads((folder / REPORT).read_text())
    assert report["best_epoch"] == report["epochs"] == 3
    assert report["patches"] == 10
    assert {"iou_water", "precision_land", "average_precision_water"} <= set(report["metrics"])
    losses = [patch["loss"] for patch in report["worst"]]
    assert losses == sorted(losses, reverse=True)
    assert {"scene": "toy", "row": 0}.items() <= report["best"][0].items()


def test_same_training_gives_the_same_files(toy):
    folder = folder_of(Path(toy.model))
    diagnose(toy, state_of())
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    diagnose(toy, state_of())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first


def test_without_a_validation_split_there_are_learning_curves_alone(toy, tmp_path):
    task = replace(toy, patches=str(write_patches(tmp_path / "patches", train=1)))
    diagnose(task, state_of())
    folder = folder_of(Path(task.model))
    assert {path.name for path in folder.iterdir()} == {"learning_curves.png", REPORT}


def test_whatever_goes_wrong_is_said_and_the_training_goes_on(toy, monkeypatch, capsys, run):
    def broken(directory):
        raise MemoryError("no room for the model")

    monkeypatch.setattr(module, "_loaded", broken)
    diagnose(toy, state_of())
    folder = folder_of(Path(toy.model))
    assert [path.name for path in folder.iterdir()] == [FAILED]
    assert "no room for the model" in (folder / FAILED).read_text()
    assert "no room for the model" in capsys.readouterr().err
    log_diagnostics(run, folder)
    found = run.tracking.client().get_run(run.run_id)
    assert found.data.tags["diagnostics"] == "failed"
    names = run.tracking.client().list_artifacts(run.run_id, "diagnostics")
    assert [artifact.path for artifact in names] == [f"diagnostics/{FAILED}"]


def test_run_shows_figures_metrics_of_the_best_epoch_and_a_table(toy, run):
    diagnose(toy, state_of())
    log_diagnostics(run, folder_of(Path(toy.model)))
    client = run.tracking.client()
    found = client.get_run(run.run_id)
    paths = {artifact.path for artifact in client.list_artifacts(run.run_id, "diagnostics")}
    assert paths == {f"diagnostics/{name}" for name in FIGURES | {REPORT}}
    for name in ("iou", "precision", "recall", "f1", "average_precision", "ece"):
        assert 0 <= found.data.metrics[f"best/{name}_water"] <= 1
    assert {"best/mean_iou", "best/accuracy", "best/ece"} <= set(found.data.metrics)
    assert client.get_metric_history(run.run_id, "best/mean_iou")[0].step == 3
    assert "| water | 1.000 | 1.000 |" in found.data.tags["mlflow.note.content"]


def test_an_mlflow_that_takes_nothing_costs_the_figures_alone(toy, capsys):
    class Away:
        def log_artifact(self, path: Path, folder: str) -> None:
            raise ConnectionError("no server")

    diagnose(toy, state_of())
    folder = folder_of(Path(toy.model))
    away: Any = Away()
    log_diagnostics(away, folder)
    assert f"they are in {folder}: no server" in capsys.readouterr().err


def test_temperature_is_taken_out_of_probabilities_again():
    logits = np.random.default_rng(0).normal(0, 3, (50, 4))

    def softmax(values):
        powers = np.exp(values - values.max(-1, keepdims=True))
        return powers / powers.sum(-1, keepdims=True)

    np.testing.assert_allclose(tempered(softmax(logits / 1.7), 1.7), softmax(logits), atol=1e-9)


def test_environment_is_sorted_pinned_and_the_same_each_time(run, tmp_path):
    text = environment_lock()
    head, own, *lines = text.splitlines()
    assert re.match(r"# CPython 3\.\d+\.\d+", head)
    assert re.match(r"# satseg_ray \S+, code \S+", own)  # is on no index
    assert not any("satseg" in line for line in lines)
    assert lines == sorted(lines, key=str.lower)
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==\S+", line) for line in lines)
    assert any(line.startswith("numpy==") for line in lines)
    assert environment_lock() == text
    log_environment(run)
    found = run.tracking.client().download_artifacts(run.run_id, "environment.txt", str(tmp_path))
    assert Path(found).read_text() == text


def test_system_metrics_go_to_the_run_alone_and_go_on_after_a_restart(run, monkeypatch, tmp_path):
    import mlflow

    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    client = run.tracking.client()

    def steps() -> list[int]:
        name = "system/process_memory_megabytes"
        return [point.step for point in client.get_metric_history(run.run_id, name)]

    def recorded(count: int) -> None:
        with system_metrics(run, seconds=0.05):
            end = time.monotonic() + 30
            while len(steps()) < count and time.monotonic() < end:
                time.sleep(0.05)

    recorded(2)
    first = steps()
    assert len(first) >= 2
    recorded(len(first) + 1)
    assert steps() == list(range(len(steps())))
    names = set(client.get_run(run.run_id).data.metrics)
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= names
    assert mlflow.active_run() is None
    assert mlflow.get_tracking_uri() == before


def test_system_metrics_go_on_after_an_outage_of_mlflow(run, monkeypatch):
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    answer, asked = MlflowClient.get_run, list[str]()

    def get_run(self, run_id):
        asked.append(run_id)
        if len(asked) in (3, 4):
            raise MlflowException("nobody is there")
        return answer(self, run_id)

    monkeypatch.setattr(MlflowClient, "get_run", get_run)
    client, name = run.tracking.client(), "system/process_memory_megabytes"
    with system_metrics(run, seconds=0.05):
        end = time.monotonic() + 30
        while len(client.get_metric_history(run.run_id, name)) < 3 and time.monotonic() < end:
            time.sleep(0.05)
    assert len(asked) > 4
    steps = [point.step for point in client.get_metric_history(run.run_id, name)]
    assert steps[:3] == [0, 1, 2]


def test_machines_beside_the_first_have_names_of_their_own(run):
    with system_metrics(run, "node-1", seconds=0.05):
        time.sleep(0.3)
    names = run.tracking.client().get_run(run.run_id).data.metrics
    assert all(name.startswith("system/node-1/") for name in names)


@pytest.mark.tensorflow
def test_a_trained_network_is_diagnosed_from_the_graph_that_is_stored(tmp_path):
    from satseg_ray.train.loop import fit

    patches = write_patches(tmp_path / "patches", train=4, val=3)
    task = make_task(patches, tmp_path / "run" / "model", epochs=2)
    state = fit(task, SoloSession(tmp_path / "checkpoints"))
    folder = folder_of(Path(task.model))
    assert {path.name for path in folder.iterdir()} == FIGURES | {REPORT}
    report = json.loads((folder / REPORT).read_text())
    assert report["mean_iou"] == pytest.approx(state.best["val_mean_iou"], abs=1e-3)
    assert report["metrics"]["iou_water"] == pytest.approx(state.best["val_iou_water"], abs=1e-3)
