"""What a run's machine has and does: its packages, and its processor, memory, disk, network."""

from __future__ import annotations

import logging
import platform
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from satseg_ray.lineage import code_revision
from satseg_ray.tracking.runs import Run

ENVIRONMENT = "environment.txt"

_OWN = "satseg_ray"
_PATIENCE = 10.0


def environment_lock() -> str:
    """Return the installed packages as ``name==version``, sorted, and before them the Python.

    It is a requirements file: ``pip install --no-deps -r environment.txt`` installs the same. This
    package is on no index: it stands in a comment, with the revision of its code.
    """
    found = {(d.metadata["Name"], d.version) for d in distributions() if d.metadata["Name"]}
    own = {version for name, version in found if name.replace("-", "_") == _OWN}
    lines = sorted(
        (f"{name}=={version}" for name, version in found if name.replace("-", "_") != _OWN),
        key=str.lower,
    )
    python = f"# {platform.python_implementation()} {platform.python_version()}"
    comments = [
        f"{python}, {platform.platform()}",
        *(f"# {_OWN} {version}, code {code_revision()}" for version in sorted(own)),
    ]
    return "\n".join([*comments, *lines]) + "\n"


def log_environment(run: Run) -> None:
    """Store :func:`environment_lock` of this process as ``environment.txt`` of a run."""
    with tempfile.TemporaryDirectory(prefix="satseg-environment-") as scratch:
        path = Path(scratch, ENVIRONMENT)
        path.write_text(environment_lock(), encoding="utf-8")
        run.log_artifact(path)


@contextmanager
def system_metrics(run: Run, node: str | None = None, seconds: float = 10) -> Iterator[None]:
    """Record this machine's figures as ``system/...`` metrics of a run while the block runs.

    Those are MLflow's own, and ``process_memory_megabytes`` of this process. The steps go on where
    an earlier process of the run ended; ``node`` stands in the names, for other machines than the
    first. Figures of an outage of MLflow are missing; after it they go on. A server that does not
    answer holds the end of the block up for ten seconds at most.
    """
    monitor = _monitor(run, node, seconds)
    monitor.start()
    try:
        yield
    finally:
        ending = threading.Thread(target=monitor.finish, daemon=True)
        ending.start()
        ending.join(_PATIENCE)


def _monitor(run: Run, node: str | None, seconds: float) -> Any:
    run.tracking.client()  # imports MLflow quietly
    logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)  # it tells that it starts
    import psutil
    from mlflow.system_metrics import system_metrics_monitor as untyped
    from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor

    class ProcessMonitor(BaseMetricsMonitor):
        """Memory that this process holds."""

        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]

        def collect_metrics(self) -> None:
            held = psutil.Process().memory_info().rss / 1e6
            self._metrics["process_memory_megabytes"].append(held)

        def aggregate_metrics(self) -> dict[str, float]:
            return {name: round(sum(v) / len(v), 1) for name, v in self._metrics.items()}

    class Monitor(untyped.SystemMetricsMonitor):
        """MLflow's monitor ends where MLflow does not answer; this one tries again."""

        def monitor(self) -> None:
            while not self._shutdown_event.is_set():
                super().monitor()  # type: ignore[no-untyped-call]
                self._shutdown_event.wait(self.sampling_interval)

    psutil.cpu_percent()  # the first answer of a process is 0
    library: Any = Monitor
    monitor = library(
        run.run_id, seconds, resume_logging=True, node_id=node, tracking_uri=run.tracking.uri
    )
    monitor.monitors.append(ProcessMonitor())
    return monitor
