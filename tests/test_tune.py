"""Sweeps with real trainings, in miniature: run by hand as a job, killed, and gone on with."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from satseg_ray.config import IngestConfig, TileConfig
from satseg_ray.data.ingest import ingest
from satseg_ray.data.tile import tile
from satseg_ray.model.store import read_spec
from satseg_ray.patches.split import SplitSpec
from satseg_ray.tracking import Tracking, resolve
from satseg_ray.workspace import Workspace
from tests.factories import write_raster

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.tensorflow]

JOBS = Path(__file__).resolve().parent.parent / "jobs"
SWEEP: dict[str, Any] = {
    "dataset": "toy",
    "name": "small",
    "train": {
        "architecture": "linknet", "backbone": "mobilenetv2", "epochs": 2, "batch_size": 8,
        "threads": 1,
    },
    "space": {"learning_rate": {"low": 0.0001, "high": 0.01, "log": True}, "loss.dice": [0.0, 1.0]},
    "trials": 3,
    "grace": 1,
    "minutes": 20,
    "challenger": "toy",
}  # fmt: skip


@pytest.fixture
def workspace(ray_cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "workspace"
    monkeypatch.setenv("SATSEG_WORKSPACE", str(root))
    rng = np.random.default_rng(1)
    water = (rng.random((8, 8)) < 0.5).repeat(32, 0).repeat(32, 1)
    pixels = np.where(water, 900, 200) + rng.integers(1, 100, (2, 256, 256))
    labels = write_raster(tmp_path / "labels.tif", water.astype(np.uint8))
    scene = write_raster(tmp_path / "scene.tif", pixels.astype(np.uint16), nodata=0)
    classes = [{"value": 0, "name": "land"}, {"value": 1, "name": "water"}]
    raw = {"dataset": "toy", "scenes": [str(scene)], "labels": [str(labels)], "classes": classes}
    ingest(IngestConfig.model_validate(raw))
    tile(TileConfig(dataset="toy", patch_size=32, stride=32, split=SplitSpec(val=0.1, test=0.1)))
    return root


def start(workspace: Path, **given: Any) -> subprocess.Popen[str]:
    config = workspace.parent / "sweep.yaml"
    config.write_text(yaml.safe_dump(SWEEP | given), encoding="utf-8")
    # As a user at home: a cluster of its own, and the workspace where the command is given
    left_out = ("RAY_ADDRESS", "SATSEG_WORKSPACE")
    environment = {k: v for k, v in os.environ.items() if k not in left_out}
    return subprocess.Popen(
        [sys.executable, str(JOBS / "tune.py"), "--config", str(config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=workspace.parent,
        start_new_session=True,
    )


def test_a_sweep_that_was_killed_and_interrupted_goes_on_and_its_best_is_the_challenger(
    workspace: Path,
) -> None:
    killed = start(workspace)
    until = time.monotonic() + 300
    while not list(workspace.glob("runs/*/checkpoints/epoch-*")) and time.monotonic() < until:
        assert killed.poll() is None, killed.communicate()[1][-3000:]
        time.sleep(0.5)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()

    interrupted = start(workspace)
    assert interrupted.stderr is not None
    while "epoch" not in interrupted.stderr.readline():
        assert interrupted.poll() is None
    interrupted.send_signal(signal.SIGINT)
    out, err = interrupted.communicate(timeout=120)
    assert interrupted.returncode == 130, err[-3000:]
    assert json.loads(out.splitlines()[-1])["error"] == "Interrupted"

    done = start(workspace)
    out, err = done.communicate(timeout=600)
    assert done.returncode == 0, err[-3000:]
    assert "goes on with the sweep small" in err
    result = json.loads(out.splitlines()[-1])
    assert len(result["trials"]) == 3
    best = result["best"]
    assert best["score"] == max(t["score"] for t in result["trials"] if t["score"] is not None)

    rows = list(csv.DictReader(Path(result["table"]).read_text("utf-8").splitlines()))
    assert {row["outcome"] for row in rows} <= {"finished", "stopped"}
    tracking = Tracking.open(workspace)
    version = resolve(tracking, "toy", "challenger")
    assert version.run_id == best["run_id"]
    client = tracking.client()
    everywhere = [e.experiment_id for e in client.search_experiments()]
    (parent,) = client.search_runs(everywhere, "tags.sweep = 'small'")
    assert (parent.info.run_id, parent.info.status) == (result["run_id"], "FINISHED")
    children = client.search_runs(everywhere, f"tags.`mlflow.parentRunId` = '{result['run_id']}'")
    assert {run.info.run_id for run in children} == {row["run_id"] for row in rows}
    assert {a.path for a in client.list_artifacts(result["run_id"])} == {
        "parallel.png",
        "trials.csv",
    }
    for row in rows:
        run = client.get_run(row["run_id"])
        assert run.info.status == "FINISHED"
        losses = client.get_metric_history(row["run_id"], "loss")
        assert [point.step for point in losses] == list(range(1, len(losses) + 1))

    again = start(workspace)
    out, err = again.communicate(timeout=120)
    assert "the sweep small is finished" in err
    assert json.loads(out) == result  # and nothing else on stdout, nor another version
    assert resolve(tracking, "toy", "challenger") == version


def test_the_best_of_a_sweep_that_runs_out_of_time_has_a_model_as_any(workspace: Path) -> None:
    given = {"name": "short", "trials": 1, "train": SWEEP["train"] | {"epochs": 500}}
    stopped = start(workspace, **given)
    assert stopped.stderr is not None
    while "epoch" not in stopped.stderr.readline():
        assert stopped.poll() is None
    stopped.send_signal(signal.SIGINT)
    stopped.communicate(timeout=120)
    state = workspace / "sweeps" / "short" / "sweep.json"
    state.write_text(json.dumps(json.loads(state.read_text("utf-8")) | {"spent": 1e6}))

    ended = start(workspace, **given)
    out, err = ended.communicate(timeout=600)
    assert ended.returncode == 0, err[-3000:]
    result = json.loads(out.splitlines()[-1])
    assert [trial["outcome"] for trial in result["trials"]] == ["stopped"]
    run_id = result["best"]["run_id"]
    folder, tracking = Workspace(workspace).run(run_id), Tracking.open(workspace)
    assert resolve(tracking, "toy", "challenger").run_id == run_id
    assert read_spec(folder / "model").temperature != 1
    report = json.loads((folder / "diagnostics" / "diagnostics.json").read_text("utf-8"))
    assert report["mean_iou"] == pytest.approx(result["best"]["score"], abs=1e-3)
    assert report["epochs"] < 500
    client = tracking.client()
    assert client.get_run(run_id).info.status == "FINISHED"
    assert "diagnostics" in {a.path for a in client.list_artifacts(run_id)}
    assert not list((workspace / "runs" / "unfinished").glob("*.json"))
