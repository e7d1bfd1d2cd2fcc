"""The worker of a training without Ray and TensorFlow: what it does with errors."""

from __future__ import annotations

import sys
import types
from contextlib import nullcontext

import pytest

from satseg_ray.errors import (
    DatasetNotFound,
    Diverged,
    EmptySplit,
    ModelVersionNotFound,
    SatsegError,
    TrainingFailed,
    UnwritableProduct,
)
from satseg_ray.model import environment
from satseg_ray.train import trainer
from satseg_ray.train.ending import FactsEnd, cause
from satseg_ray.train.task import UnwritableElsewhere
from satseg_ray.train.trainer import TrainResources


class Session:
    """Stands for the session of a Ray worker."""

    def __init__(self, place, readers) -> None:
        self.observed = nullcontext

    def __enter__(self):
        return self

    def __exit__(self, *error: object) -> None:
        pass


@pytest.fixture
def worker(monkeypatch):
    """Return what a worker of so many does when its loop raises an error."""

    def run(error: Exception, workers: int = 1):
        def fit(task, session):
            raise error

        loop = types.ModuleType("satseg_ray.train.loop")
        loop.fit = fit  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, loop.__name__, loop)
        monkeypatch.setattr(environment, "use_threads", lambda _: None)
        monkeypatch.setattr(trainer, "RaySession", Session)
        resources = TrainResources(workers=workers)
        return trainer._worker_loop({"task": None, "place": None, "resources": resources})

    return run


def a_fact(kind: type[SatsegError]) -> SatsegError:
    return kind("a", "is not there", "Look.")


@pytest.mark.parametrize(
    "kind", [EmptySplit, DatasetNotFound, ModelVersionNotFound, UnwritableProduct]
)
def test_a_fact_ends_the_training_and_among_several_workers_is_raised(worker, kind):
    error = a_fact(kind)
    assert worker(error) == {"failed": error}
    with pytest.raises(kind):  # the others may wait for this one
        worker(error, workers=2)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_no_fact_is_tried_again(worker, workers):
    with pytest.raises(RuntimeError):  # Ray Train starts the workers again
        worker(RuntimeError("lost"), workers)


@pytest.mark.parametrize("kind", [Diverged, UnwritableElsewhere])
def test_a_fact_that_all_workers_meet_lets_each_of_them_come_to_its_end(worker, kind):
    error = a_fact(kind)
    assert worker(error, workers=2) == {"failed": error}


def test_the_fact_of_one_worker_is_no_failure_to_be_tried_again():
    """By the rules of Ray Train itself, however many failures it allows."""
    import ray.train
    from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy

    errors = {0: RuntimeError("lost"), 1: a_fact(DatasetNotFound)}
    with pytest.raises(ray.train.ControllerError) as caught:
        FactsEnd().after_exception(None, errors)
    policy = DefaultFailurePolicy(ray.train.FailureConfig(max_failures=-1))
    assert policy.make_decision(caught.value).value == "RAISE"
    assert cause(caught.value, "run") is errors[1]


def test_a_worker_that_is_lost_is_left_to_ray_train():
    FactsEnd().after_exception(None, {0: RuntimeError("lost")})


def test_what_is_no_fact_is_named_by_its_last_line():
    import ray.train

    error = ray.train.WorkerGroupError("all", {1: RuntimeError("first\nlast")})
    found = cause(error, "toy")
    assert type(found) is TrainingFailed
    assert str(found).startswith("toy: a worker failed: last. ")
