"""The plan of a prediction, in integers: lattice, tile grid, and the picture's decimation."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from satseg_ray.errors import BandMismatch, ConfigError
from satseg_ray.geo.grid import CoreLimits, Lattice, TileGrid, Window, computed_patches, plan_cores
from satseg_ray.geo.quicklook import Decimation
from satseg_ray.geo.raster import RasterInfo, misplaced_bands
from satseg_ray.model.spec import ModelSpec

QUICKLOOK_SIDE = 1024


@dataclass(frozen=True)
class TileBudget:
    """What bounds a tile: the most pixels of its core and bytes of its strips, or a core's side."""

    pixels: int = 32 << 20
    strip_bytes: int = 384 << 20
    side: int | None = None


def column_bytes(spec: ModelSpec) -> int:
    """Return the bytes that a column of a strip costs: its pixels thrice, and its sums."""
    pixel = 3 * len(spec.bands) * np.dtype(spec.dtype).itemsize + 4 * len(spec.classes)
    return spec.patch_size * pixel


@dataclass(frozen=True)
class ScenePlan:
    """Which cores a scene is cut into, and which patches they need."""

    scene: RasterInfo
    lattice: Lattice
    grid: TileGrid
    preview: Decimation

    @classmethod
    def of(cls, scene: RasterInfo, spec: ModelSpec, budget: TileBudget, workers: int) -> ScenePlan:
        """Return the plan that wastes least with at least one tile a worker."""
        lattice = Lattice.of(scene.height, scene.width, spec.patch_size, spec.stride)
        if budget.side:
            grid = TileGrid(scene.height, scene.width, budget.side, budget.side)
        else:
            halo = 2 * spec.patch_size
            limits = CoreLimits(budget.pixels, budget.strip_bytes // column_bytes(spec) - halo)
            grid = plan_cores(lattice, limits, at_least=workers)
        preview = Decimation.to_fit(scene.height, scene.width, QUICKLOOK_SIDE)
        return cls(scene, lattice, grid, preview)

    @property
    def cores(self) -> tuple[Window, ...]:
        """The cores, in row-major order."""
        return self.grid.cores

    @property
    def computed(self) -> int:
        """The patches that are computed, those at tile borders more than once."""
        return computed_patches(self.lattice, self.grid)


def refuse_other_scene(report: Path, key: str, scene: str) -> None:
    """Refuse to replace the result of a scene that only has the same file name.

    ``report`` is the JSON file of the result that is there, if any, and ``key`` names its scene.

    Raises:
        ConfigError: with both scenes.
    """
    if not report.is_file():
        return
    other = str(json.loads(report.read_text(encoding="utf-8")).get(key))
    if other != scene and Path(other).is_file():
        raise ConfigError(
            "output",
            f"is not given, and {report.parent} holds the result of {other}, not of {scene}",
            "Name the result with --output.",
        )


def check_bands(scene: RasterInfo, spec: ModelSpec) -> None:
    """Refuse a scene whose bands or pixel type are not the model's.

    Raises:
        BandMismatch: with what the scene has and what the model reads.
    """
    if scene.count < max(spec.band_indexes):
        raise BandMismatch(
            scene.path,
            f"has {scene.count} bands, the model reads bands {list(spec.band_indexes)} "
            f"({', '.join(spec.bands)})",
            "Give a scene with these bands, or use another model.",
        )
    if strangers := misplaced_bands(scene, spec.bands, spec.band_indexes):
        raise BandMismatch(
            scene.path,
            f"has {strangers}",
            f"Give a scene whose bands {list(spec.band_indexes)} are {', '.join(spec.bands)}.",
        )
    if scene.dtype != spec.dtype:
        raise BandMismatch(
            scene.path,
            f"has {scene.dtype} pixels, the model was trained on {spec.dtype}",
            "Give a scene of the same kind, or use another model.",
        )
