"""Which patches go into which batch of which epoch on which worker: plain numbers only.

Everything follows from the seed, the epoch and the number of patches, nothing from the number of
workers: step ``i`` trains on the same patches with the same random changes on one worker or ten.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from satseg_ray.errors import ConfigError, EmptySplit


@dataclass(frozen=True)
class Batch:
    """One worker's share of a step: the patches to read, and their positions in the epoch.

    A position is unique in its epoch and keys the patch's augmentation.
    """

    ids: tuple[int, ...]
    positions: tuple[int, ...]


@dataclass(frozen=True)
class Worker:
    """The place of one worker among all: ``0 <= rank < size``."""

    rank: int = 0
    size: int = 1

    def share(self, count: int) -> range:
        """Return this worker's run of ``range(count)``; the shares partition it, evenly.

        >>> [list(Worker(rank, 3).share(8)) for rank in range(3)]
        [[0, 1], [2, 3, 4], [5, 6, 7]]
        """
        return range(self.rank * count // self.size, (self.rank + 1) * count // self.size)


def check_shared(batch_size: int, workers: int) -> None:
    """Refuse more workers than a batch has patches.

    Raises:
        ConfigError: with both numbers.
    """
    if workers > batch_size:
        raise ConfigError(
            "batch_size",
            f"{batch_size} patches cannot be shared by {workers} workers",
            "Give each worker at least one patch.",
        )


@dataclass(frozen=True)
class EpochPlan:
    """The batches of all epochs over ``patches`` patches.

    Each epoch is a permutation of its own, cut into ``steps`` batches of ``batch_size``; the last
    batch is filled up from the start of the permutation, so every step has the same shape, every
    patch is seen at least once, and no worker waits for a step that another does not have.
    """

    patches: int
    batch_size: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.patches < 1:
            raise EmptySplit("train", "holds no patch", "Label more, or change the split.")

    @property
    def steps(self) -> int:
        """Steps in each epoch."""
        return -(-self.patches // self.batch_size)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the patch ids of an epoch as int64 (steps, batch_size)."""
        shuffled = np.random.default_rng((self.seed, epoch)).permutation(self.patches)
        return np.resize(shuffled, (self.steps, self.batch_size)).astype(np.int64)

    def batches(self, epoch: int, worker: Worker) -> list[Batch]:
        """Return the worker's share of each step of an epoch."""
        check_shared(self.batch_size, worker.size)
        share = worker.share(self.batch_size)
        return [
            Batch(
                tuple(int(patch) for patch in row[share.start : share.stop]),
                tuple(step * self.batch_size + column for column in share),
            )
            for step, row in enumerate(self.order(epoch))
        ]


def validation_batches(patches: int, batch_size: int, worker: Worker) -> list[Batch]:
    """Return the worker's share of the patches in order, in batches of at most ``batch_size``.

    The workers' shares partition ``range(patches)``; their numbers of batches may differ, so
    nothing collective may happen between batches.
    """
    ids = worker.share(patches)
    runs = [ids[start : start + batch_size] for start in range(0, len(ids), batch_size)]
    return [Batch(tuple(run), tuple(run)) for run in runs]
