"""One grid of cells under scenes that lie near each other, on which blocks are held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from satseg_ray.patches.choose import Block
from satseg_ray.patches.ground import carried, known, pixel_area
from satseg_ray.patches.split import SceneSize

_SMALLEST_TO_DIVIDE = 4
"""Ground of fewer cells than this on its longer side goes to one split as a whole."""
_SPARSE = 1 << 20
"""Cells that a grid may have beyond those of its scenes, before it takes larger ones."""
_ROUNDING = 0.01
"""Pixels by which cells that are the same may differ."""

Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class GroundGrid:
    """The cells to choose among, and in ``places`` for each scene its cells' flat positions.

    A lone scene's grid is its own. Several share that of the scene with the largest pixels: a
    cell belongs where its centre lies. Where scenes lie far scattered the cells are larger, so
    that memory is bounded by the number of the scenes' cells.
    """

    block: Block
    places: tuple[Places, ...]

    @classmethod
    def of(cls, scenes: Sequence[SceneSize], patch: int) -> Self:
        """Return the grid of scenes that are near each other, or of one scene."""
        if len(scenes) == 1:
            scene = scenes[0]
            shape = scene.classes.shape[:2]
            free = np.ones(shape, np.bool_)
            block = Block(scene.name, scene.classes, free, max(shape) < _SMALLEST_TO_DIVIDE)
            return cls(block, (np.arange(free.size).reshape(shape),))
        lead = min(scenes, key=_rank)
        cells = [_cells_in(scene, lead, patch) for scene in scenes]
        first, last = _bounds(cells)
        factor = 1
        while np.prod((last - first) // factor + 1.0) > _SPARSE + sum(len(c) for c in cells) * 4:
            factor *= 2
        low = first // factor
        shape = tuple((last // factor - low + 1).tolist())
        places = [
            np.ravel_multi_index(tuple((c // factor - low).T), shape).reshape(s.classes.shape[:2])
            for c, s in zip(cells, scenes, strict=True)
        ]
        ragged = not all(_fits(scene, lead, patch * factor) for scene in scenes)
        block = _block(lead, scenes, places, (shape[0], shape[1]))
        return cls(replace(block, ragged=ragged), tuple(places))


def _block(
    lead: SceneSize, scenes: Sequence[SceneSize], places: Sequence[Places], shape: tuple[int, int]
) -> Block:
    counts = np.zeros((shape[0] * shape[1], lead.classes.shape[2]), np.int64)
    free = np.zeros(len(counts), np.bool_)
    for scene, place in zip(scenes, places, strict=True):
        np.add.at(counts, place.reshape(-1), scene.classes.reshape(-1, counts.shape[1]))
        free[place] = True
    whole = max(shape) < _SMALLEST_TO_DIVIDE
    return Block(lead.name, counts.reshape(*shape, -1), free.reshape(shape), whole)


def _rank(scene: SceneSize) -> tuple[int, str]:
    """Return what scenes are ordered by: those of larger pixels first, then by name."""
    return -round(2 * np.log2(pixel_area(known(scene.footprint)))), scene.name


def _fits(scene: SceneSize, lead: SceneSize, side: int) -> bool:
    """Tell whether a scene's cells are those of ``lead``, but for rounding."""
    corners = np.array([[0, 0], [scene.width, 0], [0, scene.height]], float)
    there = carried(corners, known(scene.footprint), known(lead.footprint))
    same_size = np.abs(there - there[0] - corners).max() < _ROUNDING
    start = there[0] / side
    return bool(same_size and np.abs(start - np.round(start)).max() * side < _ROUNDING)


def _bounds(cells: Sequence[Places]) -> tuple[Places, Places]:
    return (
        np.min([own.min(axis=0) for own in cells], axis=0),
        np.max([own.max(axis=0) for own in cells], axis=0),
    )


def _cells_in(scene: SceneSize, lead: SceneSize, patch: int) -> Places:
    """Return row and column (n, 2), counted in cells of ``lead``, that a scene's cells lie in.

    Those that have no place there lie in its first cell.
    """
    rows, cols = np.indices(scene.classes.shape[:2])
    # Of an overhanging cell the centre of what lies within the scene
    centre = np.stack(
        [
            (cols * patch + np.minimum((cols + 1) * patch, scene.width)) / 2,
            (rows * patch + np.minimum((rows + 1) * patch, scene.height)) / 2,
        ],
        axis=-1,
    ).reshape(-1, 2)
    found = carried(centre, known(scene.footprint), known(lead.footprint))[:, ::-1] / patch
    found[np.logical_not(np.isfinite(found)).any(axis=1)] = 0
    return np.floor(found).astype(np.int64)
