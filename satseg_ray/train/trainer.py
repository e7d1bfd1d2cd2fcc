"""Ray Train around the loop: workers, resources, restarts, checkpoints. No pixel, no TensorFlow."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Self

import ray.train

from satseg_ray.errors import Diverged, SatsegError
from satseg_ray.process import WORKER_ENVIRONMENT, quiet_import
from satseg_ray.progress import say
from satseg_ray.tracking import Run
from satseg_ray.tracking.courier import PATIENT, Courier
from satseg_ray.tracking.system import system_metrics
from satseg_ray.train.batches import Ahead, ahead
from satseg_ray.train.checkpoint import Checkpoints
from satseg_ray.train.ending import FactsEnd, cause
from satseg_ray.train.plan import Worker
from satseg_ray.train.streaming import RayAhead
from satseg_ray.train.task import TrainTask, UnwritableElsewhere

TRAIN_ENVIRONMENT = {
    # Ray itself sets the Keras flag too late: after the loop is unpickled
    **WORKER_ENVIRONMENT,
    **PATIENT,
    # Ray's print repeats each line in the log of the root logger, on the same stderr
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
}

_MET_BY_ALL = (Diverged, UnwritableElsewhere)
"""Facts after which no worker waits for another, so that each ends by itself."""


@dataclass(frozen=True)
class TrainResources:
    """The workers: how many, and what each one holds.

    ``cpus`` are also TensorFlow's threads in each operation: part of what makes two runs equal.
    ``readers`` are more CPUs for each, anywhere, that read and augment; with 0 a thread does.
    """

    workers: int = 1
    cpus: int = 1
    gpu: bool = False
    max_failures: int = 2
    readers: int = 0


@dataclass(frozen=True)
class RunPlace:
    """Where a run is recorded.

    ``name`` is what the dashboard shows and ``storage`` the directory of the run's checkpoints,
    and of what Ray notes; ``run`` is what the driver opened in MLflow. ``callbacks`` are Ray
    Train's own, and stay in the driver.
    """

    name: str
    storage: str
    run: Run | None = None
    callbacks: tuple[Any, ...] = ()

    @property
    def checkpoints(self) -> Checkpoints:
        """The run's states."""
        return Checkpoints(self.storage)


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

    A worker that dies restarts all of them from the newest checkpoint; one that meets a fact ends
    them. The same ``place`` resumes a run that was cut off.

    Raises:
        SatsegError: what a worker met; ``TrainingFailed`` if it was something unforeseen.
    """
    with quiet_import():
        from ray.train.tensorflow import TensorflowTrainer  # imports TensorFlow: seconds

    trainer = TensorflowTrainer(
        _worker_loop,
        train_loop_config={
            "task": task,
            "resources": resources,
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
            callbacks=[FactsEnd(), *place.callbacks],
            worker_runtime_env={"env_vars": TRAIN_ENVIRONMENT},
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),
        ),
    )
    try:
        with _own_interrupt():
            outcome: Any = trainer.fit().return_value
    except ray.train.TrainingFailedError as error:
        raise cause(error, place.name) from error
    if failed := outcome.get("failed"):
        raise failed
    return TrainResult(task.model, outcome["best_epoch"], tuple(outcome["history"]))


@contextmanager
def _own_interrupt() -> Iterator[None]:
    """Keep Ctrl-C an interrupt: Ray answers it by leaving the process with code 0."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stop:
        raise KeyboardInterrupt("SIGINT") from stop
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


def _worker_loop(config: dict[str, Any]) -> dict[str, Any]:
    from satseg_ray.model.environment import use_threads

    resources: TrainResources = config["resources"]
    logging.getLogger("tensorflow").setLevel(logging.WARNING)
    use_threads(resources.cpus)
    from satseg_ray.train.loop import fit

    with RaySession(config["place"], resources.readers) as session, session.observed():
        try:
            state = fit(config["task"], session)
        except SatsegError as error:
            if resources.workers > 1 and not isinstance(error, _MET_BY_ALL):
                raise  # FactsEnd stops the others
            return {"failed": error}  # a fact: another try would end as this one
    return {"best_epoch": state.best_epoch, "history": state.history}


class RaySession:
    """The loop's :class:`~satseg_ray.train.task.Session` in a Ray Train worker."""

    def __init__(self, place: RunPlace, readers: int) -> None:
        context = ray.train.get_context()
        self.worker = Worker(context.get_world_rank(), context.get_world_size())
        self.checkpoints = place.checkpoints
        self.ahead: Ahead = RayAhead(readers) if readers else ahead
        first = self.worker.rank == 0
        self._run = place.run
        self._courier = Courier(place.run) if first and place.run else None

    def observed(self) -> AbstractContextManager[None]:
        """Record what the machine does in the block, by the first worker on each."""
        context = ray.train.get_context()
        if self._run is None or context.get_local_rank():
            return nullcontext()
        node = f"node-{context.get_node_rank()}" if self.worker.rank else None
        return system_metrics(self._run, node)

    def report(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Hand the figures to Ray and, on rank 0, to MLflow; a checkpoint holds them already."""
        if self._courier:
            self._courier.add(metrics, epoch)
        ray.train.report({"epoch": epoch, **metrics})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._courier:
            late = self._courier.close(timeout=5.0 if error[0] else 30.0)
            if late:
                say(f"MLflow does not have the figures of {late} epochs yet")
