"""Ray Train around the loop: workers, resources, restarts, checkpoints. No pixel, no TensorFlow."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray.train

from satseg_ray.errors import SatsegError, TrainingFailed
from satseg_ray.process import WORKER_ENVIRONMENT, quiet_import
from satseg_ray.tracking import Run
from satseg_ray.train.plan import Worker
from satseg_ray.train.task import TrainTask

TRAIN_ENVIRONMENT = {
    # Ray itself sets the Keras flag too late: after the loop is unpickled
    **WORKER_ENVIRONMENT,
    # Ray's print repeats each line in the log of the root logger, on the same stderr
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
}


@dataclass(frozen=True)
class TrainResources:
    """The workers: how many, and what each one holds.

    ``cpus`` are also TensorFlow's threads in each operation: part of what makes two runs equal.
    """

    workers: int = 1
    cpus: int = 1
    gpu: bool = False
    max_failures: int = 2


@dataclass(frozen=True)
class RunPlace:
    """Where a run is recorded.

    ``name`` is what the dashboard shows and ``storage`` the directory below which Ray keeps the
    run's checkpoints; ``run`` is what the driver opened in MLflow. ``callbacks`` are Ray Train's
    own, and stay in the driver.
    """

    name: str
    storage: str
    run: Run | None = None
    callbacks: tuple[Any, ...] = ()


@dataclass(frozen=True)
class TrainResult:
    """What came of a training: where the model is, and the figures of its epochs."""

    model: str
    best_epoch: int
    history: tuple[Mapping[str, float], ...]

    @property
    def best(self) -> Mapping[str, float]:
        """The figures of the epoch whose weights were written."""
        return self.history[self.best_epoch - 1]


def train(task: TrainTask, resources: TrainResources, place: RunPlace) -> TrainResult:
    """Train on the Ray cluster this process is connected to; block until done.

    A worker that dies restarts all of them from the newest checkpoint; the same ``place`` resumes
    a run that was cut off.

    Raises:
        SatsegError: what a worker met; ``TrainingFailed`` if it was something unforeseen.
    """
    with quiet_import():
        from ray.train.tensorflow import TensorflowTrainer  # imports TensorFlow: seconds

    trainer = TensorflowTrainer(
        _worker_loop,
        train_loop_config={
            "task": task,
            "threads": resources.cpus,
            "place": replace(place, callbacks=()),
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=resources.workers,
            use_gpu=resources.gpu,
            resources_per_worker={"CPU": resources.cpus} | ({"GPU": 1} if resources.gpu else {}),
        ),
        run_config=ray.train.RunConfig(
            name=place.name,
            storage_path=place.storage,
            failure_config=ray.train.FailureConfig(max_failures=resources.max_failures),
            callbacks=list(place.callbacks),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            worker_runtime_env={"env_vars": TRAIN_ENVIRONMENT},
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),
        ),
    )
    try:
        outcome: Any = trainer.fit().return_value
    except ray.train.TrainingFailedError as error:
        raise _cause(error, place) from error
    if failed := outcome.get("failed"):
        raise failed
    return TrainResult(task.model, outcome["best_epoch"], tuple(outcome["history"]))


def _cause(error: ray.train.TrainingFailedError, place: RunPlace) -> SatsegError:
    """Return the fact a worker met, or one that says where to read on."""
    failures: Mapping[int, Exception] = getattr(error, "worker_failures", {})
    for failure in failures.values():
        if isinstance(failure, SatsegError):
            return failure
    reason = str(next(iter(failures.values()), error)).strip().splitlines()[-1]
    return TrainingFailed(
        place.name, f"a worker failed: {reason}", "Read the workers' logs in the Ray dashboard."
    )


def _worker_loop(config: dict[str, Any]) -> dict[str, Any]:
    from satseg_ray.model.environment import use_threads

    logging.getLogger("tensorflow").setLevel(logging.WARNING)
    use_threads(config["threads"])
    from satseg_ray.train.loop import fit

    task = config["task"]
    try:
        state = fit(task, RaySession(config["place"]))
    except TrainingFailed as error:  # all workers meet it alike: another try would end as this one
        return {"failed": error}
    return {"best_epoch": state.best_epoch, "history": state.history}


class RaySession:
    """The loop's :class:`~satseg_ray.train.task.Session` in a Ray Train worker."""

    def __init__(self, place: RunPlace) -> None:
        context = ray.train.get_context()
        self.worker = Worker(context.get_world_rank(), context.get_world_size())
        self._place = place

    def resume(self, into: Path) -> Path | None:
        """Copy the newest checkpoint below ``into``; ``None`` at the start of a run."""
        checkpoint = ray.train.get_checkpoint()
        return Path(checkpoint.to_directory(str(into))) if checkpoint else None

    def report(self, epoch: int, metrics: Mapping[str, float], checkpoint: Path | None) -> None:
        """Hand the figures to Ray and, on rank 0, to MLflow, where the driver reads them."""
        if self.worker.rank == 0 and self._place.run:
            self._place.run.log_metrics(metrics, epoch)
        stored = ray.train.Checkpoint.from_directory(checkpoint) if checkpoint else None
        ray.train.report({"epoch": epoch, **metrics}, checkpoint=stored)
