"""The environment of a process, set before Ray, TensorFlow or MLflow is imported in it."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from satseg_ray.lineage import code_revision

LEGACY_KERAS = {"TF_USE_LEGACY_KERAS": "1", "SM_FRAMEWORK": "tf.keras"}
"""What the environment of every process that builds a network must hold."""

WORKER_ENVIRONMENT = {
    **LEGACY_KERAS,
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",  # the dashboard's page of trainings, by their names
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WHYLOGS_NO_ANALYTICS": "1",
    "DVC_NO_ANALYTICS": "1",
    "GDAL_CACHEMAX": "128",  # MB; GDAL's own default is a share of the machine's memory
}
"""What every process of a job has, on every node."""

TUNE_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's own, on stdout
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Tune would call what was interrupted finished
}
"""What a sweep's first process has."""


def joins_cluster() -> bool:
    """Tell whether this process works on a cluster that was there before it."""
    return "RAY_ADDRESS" in os.environ


def in_submitted_job() -> bool:
    """Tell whether this process is the entry point of a job submitted to a cluster."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def prepare_process() -> None:
    """Set the environment of a job's first process; what is set already stays.

    A Ray of its own listens on loopback alone and knows a token that nobody else has.
    """
    wanted = WORKER_ENVIRONMENT | TUNE_ENVIRONMENT
    if not joins_cluster():
        # Else Ray turns 127.0.0.1 into the machine's outer address
        wanted["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        wanted["RAY_AUTH_MODE"] = "token"
        # Idle workers would import Ray while the job's own ones start
        wanted["RAY_prestart_worker_first_driver"] = "0"
        if "RAY_AUTH_TOKEN_PATH" not in os.environ:
            wanted["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("SATSEG_CODE_REVISION", code_revision())


@contextmanager
def quiet_import() -> Iterator[None]:
    """Drop what C++ writes to stderr while the block runs: TensorFlow greets on its import.

    Its log level does not reach these lines. Errors come as exceptions and are not touched.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def passed_on() -> dict[str, str]:
    """Return the part of this process's environment that workers get."""
    names = (*WORKER_ENVIRONMENT, "SATSEG_CODE_REVISION", "MLFLOW_TRACKING_URI")
    return {name: os.environ[name] for name in names if name in os.environ}


def peak_mib() -> int:
    """Return the most memory that this process has held so far, in MiB; 0 where nobody tells."""
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return 0
    line = next(line for line in text.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) >> 10
