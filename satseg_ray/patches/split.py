"""Which patches a scene gives, and to which split: spatial blocks with a buffer, in integers."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from satseg_ray.geo.grid import Lattice, Window

SPLITS = ("train", "val", "test")
_TRAIN, _VAL, _TEST = range(3)
_PASSES = 10
_SMALLEST_TO_DIVIDE = 4
"""A scene of fewer patches than this on its longer side goes to one split as a whole."""


class SplitSpec(BaseModel):
    """Shares of the scenes' area held out for validation and test, and the seed of the choice."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    val: float = Field(0.1, ge=0, lt=1, description="Share of the area for validation.")
    test: float = Field(0.2, ge=0, lt=1, description="Share of the area for the test.")
    seed: int = Field(
        0, ge=0, description="Decides among blocks whose classes are those of the whole alike."
    )

    @model_validator(mode="after")
    def _leave_some_for_training(self) -> Self:
        if self.val + self.test >= 1:
            raise ValueError("val and test together leave nothing for training")
        return self


@dataclass(frozen=True)
class PatchPlan:
    """How patches are cut: side, stride of the training patches, and the split."""

    patch_size: int = 256
    stride: int = 128
    split: SplitSpec = field(default_factory=SplitSpec)


@dataclass(frozen=True, order=True)
class PatchKey:
    """One planned patch: its split, its scene and its window there."""

    split: str
    scene: str
    window: Window


Cells = npt.NDArray[np.int8]
"""The split of each cell of a scene's patch-sized grid."""


@dataclass(frozen=True)
class SceneSize:
    """Name and size of a scene in pixels.

    ``classes`` counts the pixels of each class in each cell of the patch-sized grid, int64
    (rows, columns, classes), the last one the unlabelled: the blocks held out are chosen so that
    they resemble the whole.
    """

    name: str
    height: int
    width: int
    classes: npt.NDArray[np.int64] = field(compare=False)


def plan_patches(scenes: Sequence[SceneSize], plan: PatchPlan) -> list[PatchKey]:
    """Return every patch of a data set with its split, in a stated order.

    Held-out patches lie side by side and never overlap, so each of their pixels counts once in a
    metric. Law: between a training patch and any held-out patch of the same scene there is at
    least one patch side of pixels.
    """
    order = sorted(scenes, key=lambda scene: scene.name)
    random.Random(plan.split.seed).shuffle(order)
    keys: list[PatchKey] = []
    for scene, cells in zip(order, _assigned(order, plan), strict=True):
        keys.extend(_held_out(scene, plan, cells))
        keys.extend(_training(scene, plan, cells))
    return sorted(keys)


def _assigned(scenes: Sequence[SceneSize], plan: PatchPlan) -> list[Cells]:
    """Return the split of each cell of each scene: one run for test, the next one for val."""
    debt = {_TEST: 0.0, _VAL: 0.0}
    options = [_options(scene, plan, debt) for scene in scenes]
    return _most_alike(options, [scene.classes for scene in scenes])


def _options(scene: SceneSize, plan: PatchPlan, debt: dict[int, float]) -> list[Cells]:
    """Return the ways to hold out blocks of a scene, the one of the shortest border first.

    What rounding leaves is carried on in ``debt`` (cells), so that the shares hold over all scenes.
    """
    grid = _cells(scene, plan)
    shape = (grid.rows.count, grid.cols.count)
    size = shape[0] * shape[1]
    whole = max(shape) < _SMALLEST_TO_DIVIDE
    counts: dict[int, int] = {}
    for split, share in ((_TEST, plan.split.test), (_VAL, plan.split.val)):
        debt[split] += share * size
        taken = any(counts.values())
        all_or_none = size if debt[split] * 2 >= size and not taken else 0
        # Not more than twice its own share, however much small scenes have left to it
        most = min(size - sum(counts.values()), math.ceil(2 * share * size))
        counts[split] = all_or_none if whole else min(most, max(0, int(debt[split] + 0.5)))
        debt[split] -= counts[split]
    rng = random.Random(f"{plan.split.seed}:{scene.name}")
    return [_runs(shape, walk, counts) for walk in _walks(shape, rng)]


def _most_alike(
    options: Sequence[Sequence[Cells]], classes: Sequence[npt.NDArray[np.int64]]
) -> list[Cells]:
    """Return one option a scene such that what is held out has the classes of the whole.

    Scene by scene the best option while the others stay, until none changes: a local optimum.
    """
    wanted = _shares(sum(counts.sum(axis=(0, 1)) for counts in classes))
    held = [
        [np.stack([counts[cells == s].sum(axis=0) for s in (_TEST, _VAL)]) for cells in ways]
        for ways, counts in zip(options, classes, strict=True)
    ]
    chosen = [0] * len(options)
    total = sum(ways[0] for ways in held)
    for _ in range(_PASSES):
        before = list(chosen)
        for scene, ways in enumerate(held):
            others = total - ways[chosen[scene]]
            chosen[scene] = int(np.argmin([_distance(others + way, wanted) for way in ways]))
            total = others + ways[chosen[scene]]
        if chosen == before:
            break
    return [ways[choice] for ways, choice in zip(options, chosen, strict=True)]


def _distance(held: npt.NDArray[np.int64], wanted: npt.NDArray[np.float64]) -> float:
    """Return how far the classes (splits, classes) held out are from the wanted shares."""
    return sum(float(np.abs(_shares(counts) - wanted).sum()) for counts in held if counts.any())


def _shares(counts: Any) -> npt.NDArray[np.float64]:
    shares: npt.NDArray[np.float64] = counts / max(int(counts.sum()), 1)
    return shares


def _runs(
    shape: tuple[int, int], walk: Sequence[tuple[int, int]], counts: Mapping[int, int]
) -> Cells:
    """Return the cells with the first run of the walk for one split, the next for another."""
    cells = np.full(shape, _TRAIN, np.int8)
    start = 0
    for split, count in counts.items():
        for row, col in walk[start : start + count]:
            cells[row, col] = split
        start += count
    return cells


def _cells(scene: SceneSize, plan: PatchPlan) -> Lattice:
    return Lattice.of(scene.height, scene.width, plan.patch_size, plan.patch_size)


def _walks(shape: tuple[int, int], rng: random.Random) -> list[list[tuple[int, int]]]:
    """Return walks through all cells from each corner and along each axis, in seeded order.

    A walk turns at the sides, so that its runs are compact. The first one turns at the short
    sides: its runs have the shortest border.
    """
    long_first = shape[0] >= shape[1]
    corners = [(back, flip) for back in (False, True) for flip in (False, True)]
    rng.shuffle(corners)
    along = [_serpentine(shape, long_first, back, flip) for back, flip in corners]
    return along + [_serpentine(shape, not long_first, back, flip) for back, flip in corners]


def _serpentine(
    shape: tuple[int, int], by_rows: bool, back: bool, flip: bool
) -> list[tuple[int, int]]:
    """Return the cells line by line, each second line backwards."""
    lines, length = shape if by_rows else shape[::-1]
    order = range(lines - 1, -1, -1) if back else range(lines)
    walk = [
        (line, place if (turn % 2 == 0) != flip else length - 1 - place)
        for turn, line in enumerate(order)
        for place in range(length)
    ]
    return walk if by_rows else [(row, col) for col, row in walk]


def _held_out(scene: SceneSize, plan: PatchPlan, cells: Cells) -> Iterator[PatchKey]:
    grid = _cells(scene, plan)
    for row, col in np.argwhere(cells != _TRAIN).tolist():
        yield PatchKey(SPLITS[cells[row, col]], scene.name, grid.window(row, col))


def _training(scene: SceneSize, plan: PatchPlan, cells: Cells) -> Iterator[PatchKey]:
    size = plan.patch_size
    held = cells != _TRAIN
    for window in Lattice.of(scene.height, scene.width, size, plan.stride).windows():
        near = window.grown(size)
        rows = slice(max(0, near.row // size), -(-near.row_stop // size))
        cols = slice(max(0, near.col // size), -(-near.col_stop // size))
        if not held[rows, cols].any():
            yield PatchKey(SPLITS[_TRAIN], scene.name, window)
