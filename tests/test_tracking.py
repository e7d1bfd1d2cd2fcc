"""Runs and the registry; a registered model must load anywhere MLflow and TensorFlow are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from satseg_ray.errors import ConfigError, ModelVersionNotFound
from satseg_ray.model.network import build_network
from satseg_ray.model.segmenter import Segmenter
from satseg_ray.model.spec import ModelSpec
from satseg_ray.model.store import read_spec, save_model
from satseg_ray.process import LEGACY_KERAS
from satseg_ray.tracking import (
    Run,
    Tracking,
    fetch,
    log_model,
    register_model,
    registry,
    resolve,
    tracking_uri,
)
from satseg_ray.tracking.registry import entry_alias
from tests.test_model_network import SPEC, settled_threads

STRANGER = """
import json, os, sys
import numpy as np

class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("satseg_ray", "segmentation_models", "tf_keras", "pickle5"):
            raise ImportError(name + " is not here")

sys.meta_path.insert(0, Forbid())
import mlflow
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
np.save(sys.argv[4], model.predict(np.load(sys.argv[3])))
assert not {"satseg_ray", "segmentation_models", "tf_keras"} & set(sys.modules)
assert "TF_USE_LEGACY_KERAS" not in os.environ
schema = model.metadata.signature.inputs.to_dict()
example = model.input_example is not None
print(json.dumps({"shape": schema[0]["tensor-spec"]["shape"], "example": example}))
"""


@pytest.fixture(scope="module")
def tracking(tmp_path_factory) -> Tracking:
    return Tracking.open(tmp_path_factory.mktemp("a workspace"))


@pytest.fixture
def run(tracking) -> Run:
    return tracking.create_run("train", "a run", {"dataset_version": "abc"})


def model_of(spec: ModelSpec, directory: Path) -> Path:
    network = build_network(spec, seed=1)
    kernel = network.trainable_variables[-2]
    kernel.assign(100 * kernel)  # some untrained networks hardly tell one pixel from another
    save_model(network, spec, directory)
    return directory


def test_the_address_is_the_workspaces_unless_a_server_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI"):
        tracking_uri("s3://bucket/workspace")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert tracking_uri("s3://bucket/workspace") == "http://mlflow:5000"


def test_a_run_keeps_what_is_logged_by_its_id(tracking, run, tmp_path):
    note = tmp_path / "note.txt"
    note.write_text("x")
    run.log_params({f"p{i}": i for i in range(150)} | {"list": [1, 2]})
    for step in (1, 2):
        run.log_metrics({"loss": 1 / step, "val_iou_absent": float("nan")}, step)
    run.log_artifact(note, "notes")
    run.finish()
    found = tracking.client().get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "a run"
    assert found.data.tags["dataset_version"] == "abc"
    assert found.data.params["p149"] == "149"
    assert found.data.metrics["loss"] == 0.5


def test_files_stay_in_the_workspace(tracking, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    note = tmp_path / "note.txt"
    note.write_text("x")
    run.log_artifact(note)
    workspace = Path(tracking.uri.removeprefix("sqlite:///")).parent
    assert list(workspace.rglob(f"{run.run_id}/**/note.txt"))
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_opening_a_workspace_again_finds_its_runs(tracking, run):
    again = Tracking.open(Path(tracking.uri.removeprefix("sqlite:///")).parent)
    assert again == tracking
    second = again.create_run("train", "b run")
    runs = [again.client().get_run(r.run_id).info.experiment_id for r in (run, second)]
    assert runs[0] == runs[1]


@pytest.mark.parametrize("name", ["", "a/b", "a:b", "../x", "ä", "-x", "x" * 129])
def test_a_name_outside_the_alphabet_is_refused(tracking, run, name, tmp_path):
    with pytest.raises(ConfigError, match="name"):
        register_model(run, tmp_path, name)
    with pytest.raises(ConfigError, match="name"):
        resolve(tracking, name)


@pytest.mark.parametrize("alias", ["latest", "v3", "7", "a b", "a.b"])
def test_an_alias_that_mlflow_reserves_is_refused(run, alias, tmp_path):
    with pytest.raises(ConfigError, match="alias"):
        register_model(run, tmp_path, "water", alias)


@pytest.mark.parametrize("version", ["champion", "3"])
def test_an_unknown_model_is_named(tracking, version):
    with pytest.raises(ModelVersionNotFound, match=f"models:/nowhere.{version}"):
        resolve(tracking, "nowhere", version)


def test_the_same_model_of_a_run_is_stored_and_registered_once(
    tracking, run, tmp_path, monkeypatch
):
    digests = {"best": "1", "last": "2"}
    stored = []

    def store(client, run, directory, tags):
        stored.append(directory.name)
        experiment = client.get_run(run.run_id).info.experiment_id
        logged = client.create_logged_model(experiment, source_run_id=run.run_id, tags=tags)
        if len(stored) == 1:
            return logged  # as if the job had been killed here
        return client.finalize_logged_model(logged.model_id, "READY")

    monkeypatch.setattr(registry, "read_spec", lambda directory: SPEC)
    monkeypatch.setattr(registry, "model_digest", lambda directory: digests[directory.name])
    monkeypatch.setattr(registry, "_log_model", store)
    best, last = tmp_path / "best", tmp_path / "last"
    cut_short = log_model(run, best)
    logged = log_model(run, best)
    assert logged != cut_short
    assert (log_model(run, best), stored) == (logged, ["best", "best"])
    first = register_model(run, best, "once", entry_alias(run, "once"))
    again = register_model(run, best, "once", entry_alias(run, "once"))
    assert (again, stored) == (first, ["best", "best"])
    stored_model = tracking.client().get_logged_model(logged.removeprefix("models:/"))
    assert first.source == stored_model.artifact_location
    assert resolve(tracking, "once") == first
    with pytest.raises(ModelVersionNotFound):
        resolve(tracking, "once", "challenger")
    assert register_model(run, last, "once", None).version == "2"
    later = tracking.create_run("train", "a later run")
    assert register_model(later, best, "once", entry_alias(later, "once")).version == "3"
    assert resolve(tracking, "once", "challenger").version == "3"
    assert register_model(run, best, "twin").version == "1"
    assert stored == ["best", "best", "last", "best"]


@pytest.mark.tensorflow
def test_a_registered_model_is_found_by_version_and_alias_and_fetched(tracking, run, tmp_path):
    settled_threads()
    directory = model_of(SPEC, tmp_path / "result")
    before = tracking.create_run("train", "the run before")
    first = register_model(before, directory, "found", alias=None)
    second = register_model(run, directory, "found")
    assert (first.version, second.version) == ("1", "2")
    assert resolve(tracking, "found") == resolve(tracking, "found", "2") == second
    assert second.run_id == run.run_id
    with pytest.raises(ModelVersionNotFound):
        resolve(tracking, "found", "3")
    fetched = fetch(tracking, second, tmp_path / "cache")
    assert fetch(tracking, second, tmp_path / "cache") == fetched
    assert read_spec(fetched) == SPEC
    pixels = np.random.default_rng(0).integers(0, 4000, (2, 64, 64, 4), dtype=np.uint16)
    threads = settled_threads()
    ours, theirs = (Segmenter.load(path, 4, threads) for path in (directory, fetched))
    assert np.array_equal(ours.predict_proba(pixels), theirs.predict_proba(pixels))
    assert ours.numerics_key() == theirs.numerics_key()
    tags = tracking.client().get_model_version("found", "2").tags
    assert tags["dataset"] == "test"
    assert tags["classes"] == "land,water,cloud"
    assert tags["model_sha256"] == ours.numerics_key().model


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("architecture", "backbone"),
    [
        ("linknet", "mobilenetv2"),
        pytest.param("unet", "mobilenetv2", marks=pytest.mark.slow),
        pytest.param("fpn", "mobilenetv2", marks=pytest.mark.slow),
        pytest.param("pspnet", "mobilenetv2", marks=pytest.mark.slow),
        pytest.param("unet", "resnet18", marks=pytest.mark.slow),
        pytest.param("fpn", "efficientnetb0", marks=pytest.mark.slow),
        pytest.param("pspnet", "resnet18", marks=pytest.mark.slow),
    ],
)
def test_a_stored_model_loads_without_us_a_flag_or_a_pickle(
    tracking, run, tmp_path, architecture, backbone
):
    side = 96 if architecture == "pspnet" else 64
    spec = replace(SPEC, architecture=architecture, backbone=backbone, patch_size=side)
    spec = replace(spec, input_scale=0.9, input_offset=-0.1)
    settled_threads()
    directory = model_of(spec, tmp_path / "result")
    name = f"{architecture}-{backbone}"
    logged = log_model(run, directory)
    register_model(run, directory, name)
    address = logged if backbone == "resnet18" else f"models:/{name}@champion"
    pixels = np.random.default_rng(0).integers(0, 4000, (5, side, side, 4), dtype=np.uint16)
    theirs, said = as_a_stranger(tracking.uri, address, pixels, tmp_path)
    rows = side if architecture == "pspnet" else -1
    assert said == {"shape": [-1, rows, rows, 4], "example": True}
    ours = Segmenter.load(directory, 4, settled_threads()).predict_proba(pixels)
    assert theirs.dtype == np.float32
    assert theirs.shape == ours.shape
    assert ours.std() > 1e-2
    assert np.abs(theirs - ours).max() < 1e-6


def as_a_stranger(
    tracking_uri: str, model_uri: str, pixels: np.ndarray, folder: Path
) -> tuple[np.ndarray, dict]:
    """Probabilities and signature of a model in a process that has neither this package nor a flag.

    ``-I`` leaves the repository and the environment's paths out of ``sys.path``; what is installed
    beside MLflow and TensorFlow is forbidden by name; pickles are refused.
    """
    paths = [str(folder / name) for name in ("in.npy", "out.npy")]
    np.save(paths[0], pixels)
    environment = {k: v for k, v in os.environ.items() if k not in LEGACY_KERAS}
    environment["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    done = subprocess.run(
        [sys.executable, "-I", "-c", STRANGER, tracking_uri, model_uri, *paths],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return np.load(paths[1]), json.loads(done.stdout.splitlines()[-1])


@pytest.mark.tensorflow
def test_the_first_version_of_a_name_is_its_champion_and_later_ones_challenge_it(
    tracking, run, tmp_path
):
    directory = model_of(SPEC, tmp_path / "result")
    later = tracking.create_run("train", "a later run")
    assert entry_alias(run, "rivals") == "champion"
    first = register_model(run, directory, "rivals", entry_alias(run, "rivals"))
    assert entry_alias(later, "rivals") == "challenger"
    second = register_model(later, directory, "rivals", entry_alias(later, "rivals"))
    assert resolve(tracking, "rivals") == first
    assert resolve(tracking, "rivals", "challenger") == second
