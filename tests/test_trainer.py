"""The worker of a training without Ray and TensorFlow: what it does with errors."""

from __future__ import annotations

import sys
import types
from contextlib import nullcontext

import pytest

from satseg_ray.errors import DatasetNotFound, EmptySplit, ModelVersionNotFound, UnwritableProduct
from satseg_ray.model import environment
from satseg_ray.train import trainer
from satseg_ray.train.trainer import TrainResources


class Session:
    """Stands for the session of a Ray worker."""

    def __init__(self, place, readers) -> None:
        self.observed = nullcontext

    def __enter__(self):
        return self

    def __exit__(self, *error: object) -> None:
        pass


@pytest.mark.parametrize(
    "kind", [EmptySplit, DatasetNotFound, ModelVersionNotFound, UnwritableProduct, RuntimeError]
)
def test_a_fact_ends_the_training_and_anything_else_is_tried_again(monkeypatch, kind):
    error = RuntimeError("lost") if kind is RuntimeError else kind("a", "is not there", "Look.")

    def fit(task, session):
        raise error

    loop = types.ModuleType("satseg_ray.train.loop")
    loop.fit = fit  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, loop.__name__, loop)
    monkeypatch.setattr(environment, "use_threads", lambda _: None)
    monkeypatch.setattr(trainer, "RaySession", Session)
    config = {"task": None, "place": None, "resources": TrainResources()}
    if kind is RuntimeError:
        with pytest.raises(RuntimeError):  # Ray Train starts the workers again
            trainer._worker_loop(config)
    else:
        assert trainer._worker_loop(config) == {"failed": error}
