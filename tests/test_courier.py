"""Figures on their way to MLflow: a server that is away holds nobody up and misses nothing."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import cast

import pytest

from satseg_ray.tracking import Run, Tracking
from satseg_ray.tracking.courier import PATIENT, Courier, reconcile


class Store:
    """Stands for a run: takes figures, or fails while it is away."""

    def __init__(self) -> None:
        self.away = False
        self.taken: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics, step=0, when=None) -> None:
        if self.away:
            raise ConnectionError("nobody is there")
        self.taken.append((step, dict(metrics)))

    def steps(self, metric: str) -> set[int]:
        return {step for step, metrics in self.taken if metric in metrics}


def _courier(store: Store, **options) -> Courier:
    return Courier(cast(Run, store), **{"pause": 0.01} | options)


def test_figures_arrive_late_but_in_order():
    store = Store()
    courier = _courier(store)
    store.away = True
    for step in range(1, 6):
        courier.add({"loss": 1.0 / step}, step)
    time.sleep(0.05)
    store.away = False
    assert courier.close(timeout=20) == 0
    assert store.taken == [(step, {"loss": 1.0 / step}) for step in range(1, 6)]


def test_what_does_not_fit_or_never_arrives_is_counted():
    store = Store()
    store.away = True
    courier = _courier(store, room=3)
    for step in range(5):
        courier.add({"loss": 1.0}, step)
    assert courier.close(timeout=0.1) == 5
    assert store.taken == []


def test_epochs_that_were_missed_are_recorded_once():
    store = Store()
    store.log_metrics({"loss": 3.0}, 1)
    history = [{"loss": 3.0}, {"loss": 2.0}, {"loss": 1.0}]
    assert reconcile(cast(Run, store), history, "loss") == 2
    assert reconcile(cast(Run, store), history, "loss") == 0
    assert [step for step, _ in store.taken] == [1, 2, 3]


def serve(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """Start an MLflow server and wait until it answers."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    store = ["--backend-store-uri", f"sqlite:///{folder}/m.db", "--workers", "1"]
    place = ["--artifacts-destination", str(folder / "artifacts")]
    log = (folder / "server.log").open("ab")
    process = subprocess.Popen(
        [*command, *store, *place], stdout=log, stderr=log, start_new_session=True
    )
    end = time.monotonic() + 200
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process
        time.sleep(0.2)
    raise AssertionError((folder / "server.log").read_text())


def stop(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, 9)
    process.wait()


@pytest.mark.slow
def test_a_server_that_is_killed_and_comes_back_has_every_figure(tmp_path, monkeypatch):
    for name, value in PATIENT.items():
        monkeypatch.setenv(name, value)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    server = serve(tmp_path, port)
    try:
        run = Tracking.open(tmp_path).create_run("e", "r")
        courier = Courier(run, pause=0.5)
        courier.add({"loss": 1.0}, 1)
        end = time.monotonic() + 60
        while run.steps("loss") != {1} and time.monotonic() < end:
            time.sleep(0.2)
        stop(server)
        start = time.monotonic()
        for step in (2, 3, 4):
            courier.add({"loss": 1.0 / step}, step)
        assert time.monotonic() - start < 1
        time.sleep(5)
        server = serve(tmp_path, port)
        assert courier.close(timeout=120) == 0
        assert run.steps("loss") == {1, 2, 3, 4}
    finally:
        stop(server)
