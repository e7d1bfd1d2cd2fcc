"""The pipeline of a data set: its stages, its settings, and what a reproduction leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import psutil
import pytest
import yaml

from satseg_ray.__main__ import _left_behind
from satseg_ray.config import EvaluateConfig, TrainConfig
from satseg_ray.errors import (
    UnwritableProduct,
)
from satseg_ray.predict.evaluate import kept_settings as evaluate_settings
from satseg_ray.tracking.datastore import DataStore
from satseg_ray.tracking.journal import Scope
from satseg_ray.train.job import kept_settings as train_settings
from tests.kills import content, ingest, read_tree, tile
from tests.versioned import (
    JOB,
    ROOT,
    git,
    patches,
    run_dvc,
)

STAND_IN = """
import json, sys
from pathlib import Path
from satseg_ray.tracking.datastore import DataStore
from satseg_ray.workspace import Workspace
stage, base = sys.argv[1], Path("pipelines/coast")
store = DataStore.of(Workspace(Path.cwd().parent))
if stage == "tile":
    with store.reading_raw("coast") as raw, store.replacing_patches("coast", {}) as draft:
        text = (raw / "raw.yaml").read_text()
        if "13" in text:
            sys.exit("thirteen is refused")
        (draft.folder / "patches.json").write_text(json.dumps({"of": text}))
elif stage == "train":
    with store.reading_patches("coast") as patches:
        (base / "model.json").write_text((patches / "patches.json").read_text())
else:
    (base / "evaluation.json").write_text(json.dumps({"iou": 0.5}))
"""


def with_stand_ins(store: DataStore) -> None:
    """Let the stages of the data set be small commands that use the store as the jobs do."""
    script = store.workspace.root / "stand_in.py"
    script.write_text(STAND_IN)
    path = store.root / "pipelines/coast/dvc.yaml"
    body = yaml.safe_load(path.read_text())
    for name, stage in body["stages"].items():
        stage["cmd"] = f"PYTHONPATH={ROOT} python {script} {name}"
    path.write_text(yaml.safe_dump(body))


@pytest.fixture
def described(monkeypatch: pytest.MonkeyPatch) -> None:
    from satseg_ray.tracking import reproduction

    monkeypatch.setattr(reproduction, "_described_patches", lambda folder: {"version": ""})


@pytest.mark.usefixtures("described")
def test_reproduce_with_stand_ins_for_the_stages_commits_model_and_figures(store):
    ingest(store, "coast", 1)
    tile(store, "coast", 1)
    with_stand_ins(store)
    done = store.reproduce("coast")
    assert (done.tag, done.changed) == ("coast-v3", True)
    assert git(store, "show", "HEAD:pipelines/coast/evaluation.json") == '{"iou": 0.5}'
    model = store.root / "pipelines/coast/model.json"
    of_first = model.read_text()
    assert git(store, "status", "--porcelain") == ""
    assert not store.reproduce("coast").changed
    ingest(store, "coast", 2)
    assert store.reproduce("coast").tag == "coast-v5"
    assert model.read_text() != of_first
    store.checkout("coast", "coast-v3")
    assert model.read_text() == of_first
    assert json.loads(run_dvc(store, "status", "--json")) == {}


@pytest.mark.usefixtures("described")
def test_a_stage_that_fails_with_stand_ins_leaves_patches_and_pipeline_as_they_were(store):
    ingest(store, "coast", 1)
    tile(store, "coast", 1)
    with_stand_ins(store)
    store.reproduce("coast")
    before = patches(store), read_tree(store.root / "pipelines")
    ingest(store, "coast", 13)
    with pytest.raises(UnwritableProduct, match="could not be reproduced"):
        store.reproduce("coast")
    assert (patches(store), read_tree(store.root / "pipelines")) == before
    with store.reading_patches("coast"):
        pass


def test_plain_dvc_repro_with_stand_ins_runs_the_stages(store):
    ingest(store, "coast", 1)
    tile(store, "coast", 1)
    with_stand_ins(store)
    run_dvc(store, "repro", "pipelines/coast/dvc.yaml")
    assert patches(store) == {"patches.json": b'{"of": "generation: 1\\n"}'}


def test_a_stage_reads_its_section_and_leaves_a_result(store, tmp_path):
    ingest(store, "coast", 1)
    params, result = tmp_path / "params.yaml", tmp_path / "result.json"
    params.write_text("tile: {dataset: other}\ndata: {action: versions, dataset: coast}\n")
    flags = ["data", "--params", str(params), "--result", str(result)]
    done = subprocess.run(
        [sys.executable, "-m", "satseg_ray", *flags],
        cwd=store.root,
        env=os.environ | {"PYTHONPATH": str(ROOT), "DVC_ROOT": str(store.root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert [version["tag"] for version in json.loads(result.read_text())["versions"]] == [
        "coast-v1"
    ]


def test_what_a_training_leaves_behind_names_no_run_and_no_folder(tmp_path):
    (tmp_path / "spec.json").write_text("{}")
    (tmp_path / "weights.h5").write_bytes(b"w")
    result = {"model": str(tmp_path), "run_id": "r", "dataset_version": "coast@1"}
    body = _left_behind("train", result | {"registered": {"name": "coast", "version": "3"}})
    assert sorted(body) == ["content", "dataset_version", "name", "version"]
    assert str(tmp_path) not in json.dumps(body)


SLOW = """
import os, sys, time
from pathlib import Path
from satseg_ray.tracking.datastore import DataStore
from satseg_ray.workspace import Workspace
root = Path.cwd().parent
store = DataStore.of(Workspace(root))
with store.replacing_patches("coast", {}) as draft:
    (draft.folder / "late").write_text("late")
    (root / "pid").write_text(str(os.getpid()))
    time.sleep(float(sys.argv[1]))
"""


def reproducing(store: DataStore, seconds: float) -> tuple[subprocess.Popen[bytes], int]:
    """Start ``data.py reproduce`` with a stage that takes a while; return it and the stage."""
    ingest(store, "coast", 1)
    tile(store, "coast", 1)
    script, pid = store.workspace.root / "slow.py", store.workspace.root / "pid"
    script.write_text(SLOW)
    path = store.root / "pipelines/coast/dvc.yaml"
    body = yaml.safe_load(path.read_text())
    command = f"PYTHONPATH={ROOT} python {script} {seconds}"
    body["stages"] = {"tile": body["stages"]["tile"] | {"cmd": command}}
    path.write_text(yaml.safe_dump(body))
    job = subprocess.Popen(
        [sys.executable, str(JOB), "reproduce", "--dataset", "coast"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )
    end = time.monotonic() + 60
    while not (pid.is_file() and pid.read_text()) and time.monotonic() < end:
        time.sleep(0.05)
    return job, int(pid.read_text())


def test_who_stops_a_reproduction_stops_its_stages_as_well(store):
    job, stage = reproducing(store, 60)
    job.terminate()
    said, _ = job.communicate(timeout=60)
    assert json.loads(said.splitlines()[-1])["error"] == "Interrupted"
    assert not psutil.pid_exists(stage) or psutil.Process(stage).status() == "zombie"
    assert patches(store) == content("patches", 1)


def test_a_stage_whose_parents_are_dead_replaces_nothing(store):
    job, stage = reproducing(store, 6)
    started = psutil.Process(stage)
    dvc = [p for p in psutil.Process(job.pid).children(True) if "dvc" in " ".join(p.cmdline())]
    job.kill()
    for process in dvc:
        process.kill()
    job.communicate()
    time.sleep(0.2)
    with store.reading_patches("coast"):
        assert patches(store) == content("patches", 1)
        psutil.wait_procs([started], timeout=30)
        assert patches(store) == content("patches", 1)


def test_the_settings_of_a_training_stay_in_the_pipeline_and_make_no_version_of_patches(store):
    ingest(store, "coast", 1)
    store.keep_settings("coast", "train", {"epochs": 3})  # no pipeline, and no error
    tile(store, "coast", 1)
    params = store.root / "pipelines/coast/params.yaml"
    of_tile = yaml.safe_load(params.read_text())["tile"]
    config = TrainConfig(dataset="coast", epochs=3)
    with store.reading_patches("coast"):
        store.keep_settings("coast", "train", train_settings(config))
    evaluation = EvaluateConfig(
        models=["m/1", "n"], dataset="coast", split="val", output="mine", resamples=300
    )
    store.keep_settings("coast", "evaluate", evaluate_settings(evaluation))
    kept = yaml.safe_load(params.read_text())
    assert kept["tile"] == of_tile
    assert TrainConfig(**kept["train"]) == config.model_copy(update={"register_as": "coast"})
    again = EvaluateConfig(**kept["evaluate"], model="m")
    alone: dict[str, object] = {"model": "m", "models": [], "output": None}  # as in its stage
    assert again == evaluation.model_copy(update=alone)
    assert not tile(store, "coast", 1).changed
    assert yaml.safe_load(params.read_text()) == kept
    with store._changing("coast", Scope.PATCHES) as side:
        store._reproduction("coast").undo(side.held)
    assert yaml.safe_load(params.read_text()) == kept
    assert tile(store, "coast", 2).changed
    assert yaml.safe_load(git(store, "show", "HEAD:pipelines/coast/params.yaml")) == kept
