"""The five jobs on the head of ``cluster/local/up``: as on a private Ray, and stopped."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import psutil
import pytest
import rasterio
import yaml

from satseg_ray.lineage import file_digest
from tests.factories import write_raster

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.tensorflow]

ROOT = Path(__file__).resolve().parent.parent
HEIGHT, WIDTH = 701, 613
NAMES = ("ingest", "tile", "train", "predict", "evaluate")


@dataclass(frozen=True)
class Shell:
    """A user's shell: an environment with a workspace, and maybe the lines of ``up``."""

    environment: dict[str, str]

    @property
    def workspace(self) -> Path:
        return Path(self.environment["SATSEG_WORKSPACE"])

    def run(self, *command: str, code: int = 0) -> str:
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == code, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return done.stdout

    def local(self, job: str, *flags: str) -> dict:
        return json.loads(self.run(sys.executable, f"jobs/{job}.py", *flags).splitlines()[-1])

    def submitted(self, job: str, *flags: str) -> dict:
        said = self.run(*submit(), "--", "python", f"jobs/{job}.py", *flags)
        return json.loads([line for line in said.splitlines() if line.startswith("{")][-1])


def submit() -> list[str]:
    return [str(Path(sys.prefix) / "bin" / "ray"), "job", "submit", "--working-dir", "."]


def clean_environment(workspace: Path) -> dict[str, str]:
    """Return this environment without what the tests put there for their own Ray."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "SATSEG_"))}
    return kept | {"SATSEG_WORKSPACE": str(workspace)}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return Shell(clean_environment(tmp_path_factory.mktemp("private")))


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """The shell of a user after ``eval "$(cluster/local/up)"``; the head ends with the module."""
    if not (ROOT / ".venv/bin/ray").exists():
        pytest.skip("cluster/local/up starts the Ray of .venv, which is not there")
    environment = clean_environment(tmp_path_factory.mktemp("cluster")) | {
        "XDG_STATE_HOME": str(tmp_path_factory.mktemp("state")),
        "SATSEG_DASHBOARD_PORT": str(free_port()),
    }
    said = Shell(environment).run("cluster/local/up", "--num-cpus", "2")
    exported = dict(re.findall(r"^export (\w+)=(\S+)$", said, re.M))
    assert {"RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"} <= set(exported)
    shell = Shell(environment | exported)
    try:
        yield shell
    finally:
        (pid_file,) = Path(environment["XDG_STATE_HOME"]).rglob("pid")
        started = psutil.Process(int(pid_file.read_text()))
        family = [started, *started.children(recursive=True)]
        shell.run("cluster/local/down")
        assert [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The flags of each job on one small scene with labels."""
    folder = tmp_path_factory.mktemp("input")
    rng = np.random.default_rng(5)
    blobs = (rng.random((16, 16)) < 0.5).repeat(44, 0).repeat(44, 1)[:HEIGHT, :WIDTH]
    noise = rng.integers(0, 60, (3, HEIGHT, WIDTH))
    pixels = (noise + np.where(blobs, 40, 150)).astype(np.uint8)
    scene = write_raster(folder / "scene.tif", pixels)
    labels = write_raster(folder / "labels.tif", np.where(blobs, 2, 1).astype(np.uint8))
    config = folder / "ingest.yaml"
    classes = [{"value": 1, "name": "land"}, {"value": 2, "name": "water"}]
    config.write_text(yaml.safe_dump({"dataset": "toy", "classes": classes, "scenes": []}))
    network = ["--architecture", "linknet", "--backbone", "mobilenetv2", "--threads", "1"]
    return {
        "ingest": ["--config", str(config), "--scenes", str(scene), "--labels", str(labels)],
        "tile": ["--dataset", "toy", "--patch-size", "64", "--stride", "64"],
        "train": ["--dataset", "toy", "--epochs", "2", "--register", "toy", *network],
        "predict": ["--scene", str(scene), "--model", "toy", "--core", "512"],
        "evaluate": ["--model", "toy", "--dataset", "toy"],
    }


def dashboard(shell: Shell, path: str) -> dict:
    """Return what the head's dashboard says, to whoever has its token."""
    token = Path(shell.environment["RAY_AUTH_TOKEN_PATH"]).read_text().strip()
    address = f"http://127.0.0.1:{shell.environment['SATSEG_DASHBOARD_PORT']}{path}"
    asked = Request(address, headers={"Authorization": f"Bearer {token}"})
    with urlopen(asked, timeout=60) as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def sweep(flags: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The flags of a sweep of two trials, one after the other: what the second is, is certain."""
    config = tmp_path_factory.mktemp("sweep") / "sweep.yaml"
    train = {"architecture": "linknet", "backbone": "mobilenetv2", "epochs": 1, "threads": 1}
    space = {"learning_rate": [0.001, 0.003], "loss.dice": [0.0, 1.0]}
    body = {"dataset": "toy", "name": "toy-sweep", "train": train, "space": space}
    limits = {"trials": 2, "concurrent": 1, "grace": 1}
    config.write_text(yaml.safe_dump(body | limits))
    return ["--config", str(config)]


def digests(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): file_digest(p) for p in folder.rglob("*.parquet")}


def test_submitted_jobs_make_what_they_make_on_a_private_ray(
    private: Shell, head: Shell, flags: dict[str, list[str]]
) -> None:
    local = {job: private.local(job, *flags[job]) for job in NAMES}
    submitted = {job: head.submitted(job, *flags[job]) for job in NAMES}

    assert submitted["ingest"]["version"] == local["ingest"]["version"]
    patches = [digests(shell.workspace / "data/patches/toy") for shell in (private, head)]
    assert patches[0]
    assert patches[0] == patches[1]
    # One worker of one thread: the same figures, and the same model to the last bit
    losses = [results["train"]["metrics"]["loss"] for results in (local, submitted)]
    assert losses[0] == losses[1]
    with (
        rasterio.open(local["predict"]["map"]) as a,
        rasterio.open(submitted["predict"]["map"]) as b,
    ):
        np.testing.assert_array_equal(a.read(1), b.read(1))
        assert a.shape == (HEIGHT, WIDTH)
    assert submitted["evaluate"]["confusion"] == local["evaluate"]["confusion"]

    listed = head.run(submit()[0], "job", "list")
    for job in NAMES:
        assert f"python jobs/{job}.py" in listed


def test_a_job_that_is_stopped_leaves_no_half_product(
    head: Shell, flags: dict[str, list[str]], tmp_path: Path
) -> None:
    if not (head.workspace / "mlflow.db").exists():
        for job in ("ingest", "tile", "train"):
            head.submitted(job, *flags[job])
    noise = np.random.default_rng(0).integers(0, 255, (3, 6000, 6000), dtype=np.uint8)
    scene = write_raster(tmp_path / "large.tif", noise)
    predict = [
        "python",
        "jobs/predict.py",
        "--scene",
        str(scene),
        "--model",
        "toy",
        "--core",
        "512",
    ]
    head.run(*submit(), "--submission-id", "to-be-stopped", "--no-wait", "--", *predict)
    products = head.workspace / "predictions"
    deadline = time.monotonic() + 120
    while not list(products.glob(".large.*.partial/cores/core-*")):
        assert time.monotonic() < deadline, "no core was written in two minutes"
        time.sleep(0.5)
    head.run(submit()[0], "job", "stop", "to-be-stopped")
    assert not (products / "large").exists()
    assert list(products.glob(".large*")) == []
    assert "STOPPED" in head.run(submit()[0], "job", "list")


def test_a_submitted_sweep_finds_what_it_finds_by_hand_under_names_that_tell(
    private: Shell, head: Shell, flags: dict[str, list[str]], sweep: list[str]
) -> None:
    for shell, run in ((private, private.local), (head, head.submitted)):
        for job in ("ingest", "tile"):
            if not (shell.workspace / "data/patches/toy").exists():
                run(job, *flags[job])
    local, submitted = private.local("tune", *sweep), head.submitted("tune", *sweep)

    def told(result: dict) -> list[dict]:
        return [{k: v for k, v in trial.items() if k != "name"} for trial in result["trials"]]

    assert told(local) == told(submitted)
    names = {trial["name"] for trial in submitted["trials"]}
    assert all(name.startswith("toy-sweep-") for name in names)
    ray = [submit()[0], "list", "actors", "--detail", "--format", "json", "--limit", "1000"]
    assert names <= {actor["repr_name"] for actor in json.loads(head.run(*ray))}
    assert names <= {run["name"] for run in dashboard(head, "/api/train/v2/runs/v1")["train_runs"]}
