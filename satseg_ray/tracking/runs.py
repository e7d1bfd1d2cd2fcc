"""MLflow of a workspace, and the runs in it, without any global state of MLflow."""

from __future__ import annotations

import fcntl
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from satseg_ray.errors import ConfigError, TrackingUnavailable
from satseg_ray.progress import say
from satseg_ray.workspace import name_from

if TYPE_CHECKING:
    from mlflow import MlflowClient

_QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
_DIGEST = 36  # MLflow's limit
_PER_CALL = 100  # MLflow's limit on the params or tags of one request


def tracking_uri(workspace: str | os.PathLike[str]) -> str:
    """Return the address of a workspace's MLflow: ``MLFLOW_TRACKING_URI``, else its own sqlite.

    Raises:
        ConfigError: the workspace is a bucket or relative, and no server is named.
    """
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        return uri
    if not os.path.isabs(workspace):
        raise ConfigError(
            "MLFLOW_TRACKING_URI",
            f"is not set, and the workspace {str(workspace)!r} is no absolute directory",
            "Name an MLflow server in MLFLOW_TRACKING_URI, or give an absolute workspace.",
        )
    return f"sqlite:///{Path(workspace) / 'mlflow.db'}"


@dataclass(frozen=True)
class Tracking:
    """An MLflow store that is ready for use; travels to workers as it is.

    ``artifact_root`` is where experiments keep their files; ``None`` leaves it to the server.
    """

    uri: str
    artifact_root: str | None = None

    @classmethod
    def open(cls, workspace: str | os.PathLike[str]) -> Tracking:
        """Return the workspace's store, created if need be: once, by the driver.

        Raises:
            ConfigError: see :func:`tracking_uri`.
        """
        uri = tracking_uri(workspace)
        if not os.path.isabs(workspace):
            return cls(uri)
        root = Path(workspace)
        root.mkdir(parents=True, exist_ok=True)
        served = uri.partition(":")[0] in ("http", "https")
        tracking = cls(uri, None if served else (root / "mlflow-artifacts").as_uri())
        with _locked(root / ".mlflow.lock"):  # two drivers must not create the tables at once
            tracking.client().search_experiments(max_results=1)
        return tracking

    def client(self) -> MlflowClient:
        """Return a client of this store; importing MLflow takes seconds, so on first use."""
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def create_run(self, experiment: str, name: str, tags: Mapping[str, str] | None = None) -> Run:
        """Start a run in an experiment, which is created if need be; ``tags`` bear its lineage."""
        client = self.client()
        run = client.create_run(self._experiment_id(client, experiment), run_name=name)
        started = Run(self, run.info.run_id)
        started.set_tags(tags or {})
        return started

    def reopened(self, run_id: str) -> Run | None:
        """Return a run that goes on, ``None`` where there is none of that id, or it was deleted."""
        if self._status(run_id) is None:
            return None
        self.client().update_run(run_id, status="RUNNING")
        return Run(self, run_id)

    def give_up(self, run_id: str) -> None:
        """End a run that nobody goes on with as killed, if it has no end yet."""
        if self._status(run_id) == "RUNNING":
            Run(self, run_id).finish("KILLED")

    def _status(self, run_id: str) -> str | None:
        """Return the status of a run, ``None`` where there is none, or it was deleted."""
        client = self.client()
        from mlflow.exceptions import MlflowException

        try:
            found = client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return str(found.info.status) if found.info.lifecycle_stage == "active" else None

    def _experiment_id(self, client: MlflowClient, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        location = self.artifact_root and f"{self.artifact_root}/{name_from(name)}"
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException:
            found = client.get_experiment_by_name(name)  # created meanwhile by someone else
            if found is None:
                raise
            return str(found.experiment_id)


@dataclass(frozen=True)
class DatasetUse:
    """A data set as a run uses it: its name, the digest of its content, and where it came from.

    ``source`` has the versions by content and, where it is committed, tag and revision.
    """

    name: str
    digest: str
    source: Mapping[str, str]


@dataclass(frozen=True)
class Run:
    """One training as MLflow records it: the store and the run's id; travels to workers."""

    tracking: Tracking
    run_id: str

    def log_params(self, params: Mapping[str, object]) -> None:
        """Record settings, as text."""
        from mlflow.entities import Param

        rows = [Param(key, str(value)) for key, value in params.items()]
        for start in range(0, len(rows), _PER_CALL):
            self._client().log_batch(self.run_id, params=rows[start : start + _PER_CALL])

    def log_metrics(
        self, metrics: Mapping[str, float], step: int = 0, when: float | None = None
    ) -> None:
        """Record figures of a step; what MLflow allows in no name becomes ``_``.

        ``when`` they were taken is in seconds since 1970; ``None`` is now.
        """
        from mlflow.entities import Metric

        now = int((time.time() if when is None else when) * 1000)
        rows = [Metric(_metric_name(k), float(v), now, step) for k, v in metrics.items()]
        self._client().log_batch(self.run_id, metrics=rows)

    def steps(self, metric: str) -> set[int]:
        """Return the steps that ``metric`` is recorded of."""
        history = self._client().get_metric_history(self.run_id, metric)
        return {point.step for point in history}

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags, such as the lineage."""
        from mlflow.entities import RunTag

        rows = [RunTag(key, str(value)) for key, value in tags.items()]
        for start in range(0, len(rows), _PER_CALL):
            self._client().log_batch(self.run_id, tags=rows[start : start + _PER_CALL])

    def log_dataset(self, use: DatasetUse, context: str) -> None:
        """Record the data set that the run uses, as ``mlflow.log_input`` does.

        ``context`` says for what: training, or evaluation.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag
        from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

        source = json.dumps(dict(use.source), sort_keys=True)
        dataset = Dataset(use.name, use.digest[:_DIGEST], source_type="dvc", source=source)
        tags = [InputTag(MLFLOW_DATASET_CONTEXT, context)]
        self._client().log_inputs(self.run_id, datasets=[DatasetInput(dataset, tags)])

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Store a file, or a directory with all that is in it, in a folder of the run."""
        if path.is_dir():
            self._client().log_artifacts(self.run_id, str(path), folder)
        else:
            self._client().log_artifact(self.run_id, str(path), folder)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """End the run with the block: finished, stopped by a signal, or failed with its error."""
        try:
            yield
        except KeyboardInterrupt:
            self._end("KILLED")
            raise
        except BaseException as error:
            self._end("FAILED", error)
            raise
        self.finish()

    def _end(self, status: Literal["FAILED", "KILLED"], error: BaseException | None = None) -> None:
        """End a run that failed; where MLflow is away as well, what happened first matters more."""
        try:
            if error:
                self.set_tags({"error": str(error)[:1000]})
            self.finish(status)
        except Exception as away:
            say(f"MLflow could not be told that run {self.run_id} is {status}: {away}")

    def interrupt(self) -> None:
        """End the run as stopped by a signal, if it is under way."""
        if self._client().get_run(self.run_id).info.status == "RUNNING":
            self._end("KILLED")

    def finish(self, status: Literal["FINISHED", "FAILED", "KILLED"] = "FINISHED") -> None:
        """End the run."""
        self._client().set_terminated(self.run_id, status)

    def _client(self) -> MlflowClient:
        return self.tracking.client()


def unanswered(error: Exception) -> TrackingUnavailable | None:
    """Return what an error says of an MLflow that is away or overloaded; ``None`` of any other."""
    if "mlflow" not in sys.modules or not _is_away(error):
        return None
    return TrackingUnavailable(
        "MLflow",
        f"does not answer: {next(iter(str(error).splitlines()), type(error).__name__)[:300]}",
        "Start the job again with the same command once it does.",
    )


def _is_away(error: Any) -> bool:
    from mlflow.exceptions import MlflowException
    from requests import ConnectionError, HTTPError, Timeout

    if isinstance(error, ConnectionError | Timeout):
        return True
    if not isinstance(error, MlflowException | HTTPError):
        return False
    answer: Any = error
    known = isinstance(error, HTTPError)
    status = answer.response.status_code if known else answer.get_http_status_code()
    return bool(status >= 500 or status == 429)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _metric_name(name: str) -> str:
    return re.sub(r"[^\w\-./: ]", "_", name)
