"""SIGKILL of a train worker and of the driver: the same command ends as if nothing had happened.

Each job is a process of its own with a Ray of its own, as a user starts it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from satseg_ray.tracking import Tracking
from satseg_ray.train.checkpoint import Checkpoints
from tests.test_train_loop import write_patches

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.tensorflow]

ROOT = Path(__file__).resolve().parent.parent
EPOCHS = 3
LINEAGE = {"dataset_version": "toy@1", "patches_version": "toy@2"}
SETTINGS: dict[str, object] = {
    "dataset": "toy",
    "architecture": "linknet",
    "backbone": "mobilenetv2",
    "batch-size": 4,
    "threads": 1,
    "weight-averaging": 0.9,
}
TIMEOUT = 600


class Job:
    """A training in a workspace, started as often as need be."""

    def __init__(
        self,
        workspace: Path,
        tracking_uri: str | None = None,
        epochs: int = EPOCHS,
        workers: int = 1,
    ) -> None:
        self.workspace, self.epochs = workspace, epochs
        # So many that an epoch outlasts the wait
        write_patches(workspace / "data" / "patches" / "toy", LINEAGE, train=64, val=4)
        settings = SETTINGS | {"epochs": epochs, "workers": workers}
        flags = [f"--{name}={value}" for name, value in settings.items()]
        self._command = [sys.executable, str(ROOT / "jobs" / "train.py"), *flags]
        hidden = ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_MODE")
        self._environment = {k: v for k, v in os.environ.items() if k not in hidden}
        self._environment |= {"SATSEG_WORKSPACE": str(workspace), "PYTHONPATH": str(ROOT)}
        self._environment["SATSEG_CODE_REVISION"] = "test"
        self._environment["RAY_worker_niceness"] = "0"
        if tracking_uri:
            self._environment["MLFLOW_TRACKING_URI"] = tracking_uri
        self.log = workspace / "job.log"

    def start(self) -> subprocess.Popen[str]:
        with self.log.open("a") as log:
            return subprocess.Popen(
                self._command, env=self._environment, stdout=subprocess.PIPE, stderr=log, text=True
            )

    def finished(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        """Return the result of a job that ends well."""
        out, _ = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 0, out + self.log.read_text()
        result: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
        return result

    def after_epoch(self, epoch: int, process: subprocess.Popen[str]) -> None:
        """Wait until a checkpoint of an epoch is there, and for a moment in the next one."""
        self._wait(lambda: self.epoch() >= epoch, process)
        time.sleep(random.Random(epoch).uniform(0.1, 1.0))

    def epoch(self) -> int:
        return max((len(c.history()) for c in self._checkpoints()), default=0)

    def _checkpoints(self) -> Iterator[Checkpoints]:
        for folder in (self.workspace / "runs").glob("*/checkpoints"):
            yield Checkpoints(str(folder))

    def _wait(self, fact: Callable[[], bool], process: subprocess.Popen[str]) -> None:
        end = time.monotonic() + TIMEOUT
        while not fact():
            assert process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.05)

    def curve(self, result: dict[str, Any]) -> list[float]:
        """Return the losses that MLflow has of the only run, one for each epoch."""
        client = Tracking.open(self.workspace).client()
        runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
        assert [run.info.run_id for run in runs] == [result["run_id"]]
        assert runs[0].info.status == "FINISHED"
        points = client.get_metric_history(result["run_id"], "loss")
        assert sorted(p.step for p in points) == list(range(1, self.epochs + 1)), (
            "repeated or missed"
        )
        found = {point.step: point.value for point in points}
        return [found[step] for step in sorted(found)]


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def train_workers(process: subprocess.Popen[str]) -> set[psutil.Process]:
    """Return the train workers that live now."""
    with suppress(psutil.Error):  # one has just ended
        return {p for p in family(process) if is_worker(p)}
    return set()


def workers_until_end(process: subprocess.Popen[str]) -> set[psutil.Process]:
    """Return all train workers that a job has from now on."""
    seen: set[psutil.Process] = set()
    end = time.monotonic() + TIMEOUT
    while process.poll() is None and time.monotonic() < end:
        seen |= train_workers(process)
        time.sleep(0.2)
    return seen


def is_worker(process: psutil.Process) -> bool:
    """Tell it from Ray's own agents, which may outlive their cluster by a minute."""
    return "RayTrainWorker" in " ".join(process.cmdline())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> list[float]:
    job = Job(tmp_path_factory.mktemp("whole") / "workspace")
    return job.curve(job.finished(job.start()))


def test_a_killed_driver_is_taken_up_by_the_same_command(request, tmp_path):
    job = Job(tmp_path / "workspace")
    first = job.start()
    job.after_epoch(1, first)
    workers = [process for process in family(first) if is_worker(process)]
    assert workers
    first.kill()
    first.wait()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive, "workers of a killed driver go on"
    lost_at_most = job.epoch()

    second = job.start()
    job.after_epoch(min(lost_at_most + 1, EPOCHS - 1), second)
    second.send_signal(signal.SIGINT)
    out, _ = second.communicate(timeout=TIMEOUT)
    assert second.returncode == 130, out

    result = job.finished(job.start())
    curve = job.curve(result)
    assert f"going on after epoch {lost_at_most} of {EPOCHS}" in job.log.read_text()
    fresh = list((job.workspace / "runs" / "unfinished").glob("*.json"))
    assert not fresh, "a finished training leaves no record"
    assert curve == pytest.approx(request.getfixturevalue("undisturbed"), rel=1e-3)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_worker_is_started_again_from_the_newest_checkpoint(request, tmp_path, workers):
    """Of two the other waits in an exchange; both are started again, once."""
    job = Job(tmp_path / "workspace", workers=workers)
    process = job.start()
    job.after_epoch(1, process)
    first = train_workers(process)
    assert len(first) == workers
    next(iter(first)).kill()
    seen = workers_until_end(process)
    assert len(seen - first) == workers, "one restart, of all workers"
    curve = job.curve(job.finished(process))
    if workers == 1:
        assert curve == pytest.approx(request.getfixturevalue("undisturbed"), rel=1e-3)
    assert curve[-1] < curve[0]
