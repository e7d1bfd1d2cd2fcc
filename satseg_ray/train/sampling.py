"""Which of the training patches are used, and how often each is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from satseg_ray.model.training_spec import TrainingSpec
from satseg_ray.patches.stats import count_classes
from satseg_ray.patches.store import PatchBatch, SplitReader
from satseg_ray.train.plan import Chances

Ids: TypeAlias = NDArray[np.int64]

_SUBSET = 1
"""The stream of the seed that chooses patches; epochs have others."""


@dataclass(frozen=True)
class ChosenPatches:
    """Some patches of a split by their place among the chosen; ``classes`` is their number."""

    split: SplitReader
    ids: Ids
    classes: int

    @classmethod
    def of(cls, split: SplitReader, spec: TrainingSpec, classes: int) -> ChosenPatches:
        """Return the share of a split that a spec trains on."""
        return cls(split, chosen_ids(len(split), spec.train_share, spec.seed), classes)

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, ids: Sequence[int]) -> PatchBatch:
        """Return the patches at these places, in this order."""
        return self.split.read(self.ids[list(ids)].tolist())

    def key(self, position: int) -> tuple[str, int, int]:
        """Return scene, row and column of the patch at a place."""
        return self.split.key(int(self.ids[position]))

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """The pixels of each class in each patch, int64 (patches, classes); reads every mask."""
        rows = (count_classes(self.split.mask(int(i)), self.classes)[:-1] for i in self.ids)
        return np.array(list(rows), np.int64).reshape(-1, self.classes)

    def chances(self, spec: TrainingSpec) -> Chances | None:
        """Return how the patches are drawn, None where all alike."""
        return draw_chances(self.counts, spec.rare_sampling) if spec.rare_sampling else None


def chosen_ids(patches: int, share: float, seed: int) -> Ids:
    """Return the ids of a share of ``range(patches)`` in order, at least one of any.

    Law: with one seed the ids of a smaller share are among those of a larger one.

    >>> chosen_ids(8, 1.0, seed=0).tolist()
    [0, 1, 2, 3, 4, 5, 6, 7]
    """
    stream = np.random.SeedSequence(seed, spawn_key=(_SUBSET,))
    ranked = np.random.default_rng(stream).permutation(patches)
    return np.sort(ranked[: max(1, round(share * patches))]).astype(np.int64)


def draw_chances(counts: NDArray[np.int64], rare: float) -> Chances:
    """Return the chance of each patch to be drawn, float64 (patches,), together 1.

    With the chance ``rare`` a patch is that of a labelled pixel, every class being as likely and
    every pixel within a class; else any patch is as likely as another. ``counts`` (patches,
    classes) are pixels; a class that no patch holds does not count.

    >>> draw_chances(np.array([[90, 0], [90, 0], [70, 20]]), rare=0.5).round(2).tolist()
    [0.26, 0.26, 0.49]
    """
    totals = counts.sum(axis=0)
    held = totals > 0
    even: Chances = np.full(len(counts), 1 / max(1, len(counts)))
    if not held.any():
        return even
    by_class: Chances = (counts[:, held] / totals[held]).mean(axis=1)
    return (1 - rare) * even + rare * by_class
