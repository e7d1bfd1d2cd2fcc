"""Blocks: the pieces of ground that a split holds out as one, which a bootstrap draws."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from satseg_ray.patches.ground import carried, known
from satseg_ray.patches.ground_grid import GroundGrid
from satseg_ray.patches.split import SceneSize

Places = dict[str, dict[str, Any]]
"""Of each scene that does not stand for itself: see :func:`places_of`."""

_DIGITS = 9


def places_of(groups: Sequence[Sequence[SceneSize]], patch: int, divided: bool) -> Places:
    """Return where scenes lie among the blocks, as JSON values, for the patches' manifest.

    ``groups`` are scenes that show the same ground or near; ``divided`` says that parts of them
    are held out. ``place`` names the ground; ``cells`` are six numbers from column and row of a
    pixel to column and row of a cell, none where the ground is held out as a whole. A lone scene
    is left out where the split's words say it all: held out as a whole by them, or by the cells
    of its own patch-sized grid.
    """
    found: Places = {}
    for group in groups:
        grid = GroundGrid.of(group, patch) if divided else None
        whole = grid is None or grid.block.whole
        if len(group) == 1 and whole != divided:
            continue
        name = grid.block.name if grid else group[0].name
        lead = next(scene for scene in group if scene.name == name)
        for scene in group:
            cells = None if whole else _cells(scene, lead, patch)
            found[scene.name] = {"place": name, "cells": cells}
    return dict(sorted(found.items()))


def _cells(scene: SceneSize, lead: SceneSize, patch: int) -> list[float]:
    """Return the affine map a, b, c, d, e, f from (column, row) to a cell of ``lead``."""
    corners = np.array([[0, 0], [scene.width, 0], [0, scene.height]], float)
    there = carried(corners, known(scene.footprint), known(lead.footprint)) / patch
    if not np.isfinite(there).all():
        return [0.0] * 6
    start = there[0]
    (a, d), (b, e) = (there[1] - start) / scene.width, (there[2] - start) / scene.height
    return [round(float(v), _DIGITS) for v in (a, b, start[0], d, e, start[1])]


@dataclass(frozen=True)
class Blocks:
    """The names of blocks; ``side`` is theirs in pixels of the scene that leads a place.

    Two patches of one block show ground that was held out as one. Scenes of one place, such as
    dates, share their blocks.
    """

    patch: int
    side: int
    places: Mapping[str, Mapping[str, Any]]
    whole: bool = False

    @classmethod
    def of(
        cls,
        patch: int,
        places: Mapping[str, Mapping[str, Any]],
        lineage: Mapping[str, str],
        side: int | None = None,
    ) -> Blocks:
        """Return the blocks of a data set's patches, from what their manifest holds.

        Patches tiled before places were written follow the split's words: whole scenes, or the
        patch-sized cells of each scene. ``side`` makes larger blocks than cells.
        """
        split = json.loads(lineage.get("split", "{}"))
        return cls(patch, side or patch, places, split.get("by", "blocks") != "blocks")

    def name(self, scene: str, row: int, col: int) -> str:
        """Return the block of the patch at a row and column of a scene.

        >>> Blocks(64, 128, {}).name("coast", 64, 320)
        'coast 0 2'
        """
        place = self.places.get(scene, {"place": scene, "cells": None if self.whole else ()})
        if place["cells"] is None:
            return str(place["place"])
        a, b, c, d, e, f = place["cells"] or (1 / self.patch, 0, 0, 0, 1 / self.patch, 0)
        x, y = col + self.patch / 2, row + self.patch / 2
        cells = self.patch / self.side
        across = math.floor((a * x + b * y + c) * cells)
        down = math.floor((d * x + e * y + f) * cells)
        return f"{place['place']} {down} {across}"
