"""The labels of one scene, of whatever kind, as class indexes on the grid that it is read on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from satseg_ray.findings import Finding
from satseg_ray.geo.labels import LabelRule, burn_labels
from satseg_ray.geo.raster import RasterInfo, inspect_scene
from satseg_ray.geo.source import SceneSource


def image_name(source: SceneSource) -> str:
    """Return the file name by which annotations speak of a scene."""
    return Path(source.files[0].path).name


def burn_scene_labels(
    path: str, rule: LabelRule, source: SceneSource, info: RasterInfo, target: Path
) -> tuple[Finding, ...]:
    """Write the labels at ``path`` as class indexes on the grid of ``info`` to ``target``.

    ``info`` is what ``source`` is read with. On a grid that the scene was put on, annotations
    still count the pixels of its image, and label rasters that say where they lie are warped.

    Raises:
        As :func:`satseg_ray.geo.labels.open_labels`.
    """
    own = inspect_scene(replace(source, grid=None)) if source.grid else info
    rule = replace(rule, warp=source.grid is not None)
    return burn_labels(path, rule, info, target, image_name(source), own)
