"""The plan of a prediction, in integers: lattice, tile grid, and the picture's decimation."""

from __future__ import annotations

from dataclasses import dataclass

from satseg_ray.errors import BandMismatch
from satseg_ray.geo.grid import Lattice, TileGrid, Window, computed_patches, plan_cores
from satseg_ray.geo.quicklook import Decimation
from satseg_ray.geo.raster import RasterInfo
from satseg_ray.model.spec import ModelSpec

QUICKLOOK_SIDE = 1024


@dataclass(frozen=True)
class TileBudget:
    """What bounds a tile: the most pixels of its core, or the side of a square core."""

    pixels: int = 32 << 20
    side: int | None = None


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
            grid = plan_cores(lattice, budget.pixels, at_least=workers)
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
    if scene.dtype != spec.dtype:
        raise BandMismatch(
            scene.path,
            f"has {scene.dtype} pixels, the model was trained on {spec.dtype}",
            "Give a scene of the same kind, or use another model.",
        )
