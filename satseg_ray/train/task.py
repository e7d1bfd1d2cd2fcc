"""What travels to a train worker, and what the loop asks of whoever runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from satseg_ray.model.pretrained import FirstWeights
from satseg_ray.model.spec import ModelSpec
from satseg_ray.model.training_spec import TrainingSpec
from satseg_ray.train.plan import Worker


@dataclass(frozen=True)
class TrainTask:
    """One training: which patches, which network, how, and the directory of the result.

    ``patches`` and ``model`` are absolute and reachable from every worker; ``model`` is written
    once, at the end, by rank 0. ``first`` are the weights of a training without a checkpoint.
    """

    patches: str
    model: str
    spec: ModelSpec
    training: TrainingSpec
    first: FirstWeights = field(default_factory=FirstWeights)


class Session(Protocol):
    """What the loop needs around it: its place among the workers, resuming, reporting."""

    @property
    def worker(self) -> Worker:
        """This worker's place."""

    def resume(self, into: Path) -> Path | None:
        """Return the directory of the newest checkpoint (copied below ``into`` if need be)."""

    def report(self, epoch: int, metrics: Mapping[str, float], checkpoint: Path | None) -> None:
        """Take the figures of a finished epoch; every worker calls, rank 0 has a checkpoint."""
