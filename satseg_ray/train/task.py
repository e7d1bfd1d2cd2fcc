"""What travels to a train worker, and what the loop asks of whoever runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from satseg_ray.errors import UnwritableProduct
from satseg_ray.model.pretrained import FirstWeights
from satseg_ray.model.spec import ModelSpec
from satseg_ray.model.training_spec import TrainingSpec
from satseg_ray.train.batches import Ahead
from satseg_ray.train.checkpoint import Checkpoints
from satseg_ray.train.plan import Worker


@dataclass(frozen=True)
class TrainTask:
    """One training: which patches, which network, how, and the directory of the result.

    ``patches`` and ``model`` are absolute and reachable from every worker. At the end rank 0 writes
    the model of the best epoch to ``model``, and that of the last one, where it is another, to
    the folder beside it that :attr:`last_model` names. ``first`` are the weights of a training
    without a checkpoint.
    """

    patches: str
    model: str
    spec: ModelSpec
    training: TrainingSpec
    first: FirstWeights = field(default_factory=FirstWeights)

    @property
    def last_model(self) -> str:
        """The directory of the model of the last epoch."""
        return f"{self.model}-last"


class Session(Protocol):
    """What the loop needs around it: its place among the workers, its state, who hears of it."""

    @property
    def worker(self) -> Worker:
        """This worker's place."""

    @property
    def checkpoints(self) -> Checkpoints:
        """The run's states; all workers read them, rank 0 writes."""

    @property
    def ahead(self) -> Ahead:
        """How batches are made before they are asked for."""

    def report(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Take the figures of a finished epoch; every worker calls."""


class UnwritableElsewhere(UnwritableProduct):
    """Another worker could not write; that one says why."""
