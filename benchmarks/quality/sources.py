"""Where each data set's scenes and labels are, under the folder that is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.quality.belgium_labels import join_layers
from benchmarks.quality.dubai_parts import join_areas


@dataclass(frozen=True)
class Files:
    """Patterns of scenes and labels, and the scene of which a map is drawn."""

    scenes: Path
    labels: Path
    shown: Path | None = None


def _dubai(source: Path, target: Path) -> Files:
    joined = join_areas(source, target)
    images = joined / "images"
    return Files(images / "*.png", joined / "labels" / "*.png", images / "area_5.png")


def _water(source: Path, target: Path) -> Files:
    return Files(source / "images" / "*.tif", source / "labels" / "*.png")


def _belgium(source: Path, target: Path) -> Files:
    (scene,) = (source / "input_raster").glob("*.tif")
    return Files(scene, join_layers(source / "labels", target), scene)


def _kampala(source: Path, target: Path) -> Files:
    images = source / "input"
    return Files(images / "*.png", images / "labels.geojson")


FILES: Mapping[str, Callable[[Path, Path], Files]] = {
    "dubai": _dubai,
    "water": _water,
    "belgium": _belgium,
    "kampala": _kampala,
}
"""By data set: from its folder, and one for what has to be made, to its files."""
