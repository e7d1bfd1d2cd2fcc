"""An MLflow server that goes away for a minute in mid-training holds nothing up."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from tests.test_courier import serve, stop
from tests.test_kill_train import Job

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.tensorflow]

EPOCHS = 60
AWAY = 60


def test_training_goes_on_without_the_server_and_its_figures_arrive_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    server = serve(tmp_path, port)
    try:
        job = Job(tmp_path / "workspace", uri, EPOCHS)
        process = job.start()
        job.after_epoch(2, process)
        stop(server)
        before = job.epoch()
        time.sleep(AWAY)
        during = job.epoch() - before
        server = serve(tmp_path, port)
        result = job.finished(process)
        assert 2 <= during < EPOCHS - before, "it went away in mid-training, which went on"
        assert result["metrics_lost"] == 0
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert len(job.curve(result)) == EPOCHS
    finally:
        stop(server)
