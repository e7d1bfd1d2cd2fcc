"""Rasters and geometry, no Ray and no TensorFlow: grid, reading, labels, blending, maps."""

from satseg_ray.geo.blend import RowBlender, best_class, taper
from satseg_ray.geo.cog import MapFormat, assemble_cog, write_core
from satseg_ray.geo.grid import Axis, CoreLimits, Lattice, PatchBlock, TileGrid, Window, plan_cores
from satseg_ray.geo.labels import LabelReader, LabelRule
from satseg_ray.geo.raster import RasterInfo, SceneReader, Tile, inspect_raster

__all__ = [
    "Axis",
    "CoreLimits",
    "LabelReader",
    "LabelRule",
    "Lattice",
    "MapFormat",
    "PatchBlock",
    "RasterInfo",
    "RowBlender",
    "SceneReader",
    "Tile",
    "TileGrid",
    "Window",
    "assemble_cog",
    "best_class",
    "inspect_raster",
    "plan_cores",
    "taper",
    "write_core",
]
