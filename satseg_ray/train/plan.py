"""Which patches go into which batch of which epoch on which worker: plain numbers only.

Everything follows from the seed, the epoch and the number of patches, nothing from the number of
workers: step ``i`` trains on the same patches with the same random changes on one worker or ten.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from satseg_ray.errors import ConfigError, EmptySplit

Chances: TypeAlias = NDArray[np.float64]
"""How likely each patch is drawn (patches,), together 1."""


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


@dataclass(frozen=True, eq=False)
class EpochPlan:
    """The batches of all epochs over ``patches`` patches.

    Each epoch is a permutation of its own, cut into ``steps`` batches of ``batch_size``; the last
    batch is filled up from the start of the permutation, so every step has the same shape, every
    patch is seen at least once, and no worker waits for a step that another does not have.

    With ``chances`` (patches,) or a number of steps in ``epoch_steps`` the patches of an epoch are
    drawn by :func:`drawn_ids` instead.
    """

    patches: int
    batch_size: int
    seed: int = 0
    chances: Chances | None = None
    epoch_steps: int | None = None

    def __post_init__(self) -> None:
        if self.patches < 1:
            raise EmptySplit("train", "holds no patch", "Label more, or change the split.")

    @property
    def steps(self) -> int:
        """Steps in each epoch."""
        return self.epoch_steps or -(-self.patches // self.batch_size)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the patch ids of an epoch as int64 (steps, batch_size)."""
        rng, shape = np.random.default_rng((self.seed, epoch)), (self.steps, self.batch_size)
        if self.chances is None and self.epoch_steps is None:
            return np.resize(rng.permutation(self.patches), shape).astype(np.int64)
        even = np.full(self.patches, 1 / self.patches)
        chances = even if self.chances is None else self.chances
        return drawn_ids(chances, self.steps * self.batch_size, rng).reshape(shape)

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


def drawn_ids(chances: Chances, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return ``count`` patches drawn by their chances, int64, in random order.

    Law: a patch comes ``count * chance`` times, rounded up or down (systematic sampling).
    """
    order = rng.permutation(len(chances))
    ends = np.cumsum(chances[order])
    ticks = (rng.random() + np.arange(count)) * (ends[-1] / count)
    places = np.minimum(np.searchsorted(ends, ticks, side="right"), len(order) - 1)
    return rng.permutation(order[places]).astype(np.int64)


def validation_batches(patches: int, batch_size: int, worker: Worker) -> list[Batch]:
    """Return the worker's share of the patches in order, in batches of at most ``batch_size``.

    The workers' shares partition ``range(patches)``; their numbers of batches may differ, so
    nothing collective may happen between batches.
    """
    ids = worker.share(patches)
    runs = [ids[start : start + batch_size] for start in range(0, len(ids), batch_size)]
    return [Batch(tuple(run), tuple(run)) for run in runs]
