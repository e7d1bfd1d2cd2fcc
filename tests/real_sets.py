"""Real imagery through ingest, each set once in a test session."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely

from satseg_ray.config import IngestConfig
from satseg_ray.data.ingest import ingest
from satseg_ray.errors import SatsegError
from satseg_ray.patches.dataset import DatasetManifest

DUBAI = {
    "#3C1098": "building",
    "#8429F6": "land",
    "#6EC1E4": "road",
    "#FEDD3A": "vegetation",
    "#E2A929": "water",
}
LAND_COVER = ("forest", "water", "herbaceous", "barren", "urban")


def two(first: str, second: str) -> list[dict[str, Any]]:
    """Two classes, of the values 0 and 1."""
    return [{"value": 0, "name": first}, {"value": 1, "name": second, "color": "#D0021B"}]


def _dubai(ignore: list[str]) -> dict[str, Any]:
    return {
        "scenes": ["dubai_landcover/tile_*/images/*.jpg"],
        "labels": ["dubai_landcover/tile_*/masks/*.png"],
        "classes": [{"value": v, "name": n, "color": c} for v, (c, n) in enumerate(DUBAI.items())],
        "ignore": ignore,
    }


def _landsat(labels: str) -> dict[str, Any]:
    return {
        "scenes": ["landsat7_landcover/LE70220491999322EDC01_stack.gtif"],
        "labels": [f"landsat7_landcover/{labels}"],
        "classes": [{"value": v, "name": name} for v, name in enumerate(LAND_COVER, 1)],
        "shapes": {"attribute": "class"},
    }


def _terrain(image: str, labels: str, name: str) -> dict[str, Any]:
    return {
        "scenes": [f"json_annotations/{image}"],
        "labels": [f"json_annotations/{labels}"],
        "classes": two("ground", name),
        "background": "ground",
    }


SETS: Mapping[str, dict[str, Any]] = {
    "kampala": {
        "scenes": ["kampala_buildings/input/*.png"],
        "labels": ["kampala_buildings/input/labels.geojson"],
        "classes": two("other", "building"),
        "georeference": "xyz",
        "background": "other",
        "shapes": {"every": "building"},
    },
    "belgium": {
        "scenes": ["belgium_fields/input_raster/*.tif"],
        "labels": ["belgium_fields/labels/fields_BEFL-s2-fields-2023_polygons.gpkg"],
        "classes": two("other", "field"),
        "shapes": {"attribute": "label_name", "layer": "polygons"},
    },
    "landsat-shapes": _landsat("training_data.shp"),
    "landsat-raster": _landsat("training_data.gtif"),
    "water": {
        "scenes": ["water_12band/images/*.tif"],
        "labels": ["water_12band/labels/*.png"],
        "classes": two("land", "water"),
    },
    "dubai": _dubai(["#000000", "#9B9B9B"]),
    "dubai-undeclared": _dubai(["#9B9B9B"]),
    "terrain1-coco": _terrain("terrain1.jpg", "terrain1_coco.json", "human"),
    "terrain1-labelme": _terrain("terrain1.jpg", "terrain1.json", "human"),
    "terrain2-coco": _terrain("terrain2.png", "terrain2_coco.json", "car"),
    "terrain2-labelme": _terrain("terrain2.png", "terrain2.json", "car"),
}


@dataclass(frozen=True)
class Ingested:
    """What ingest made of a set: its result or its error, and the report either way."""

    workspace: Path
    result: Mapping[str, Any] | None
    error: SatsegError | None
    report: Mapping[str, Any]
    folder: Path

    @property
    def manifest(self) -> DatasetManifest:
        """The manifest of a set that was taken."""
        return DatasetManifest.read(self.folder)

    def mask(self, scene: str) -> np.ndarray:
        """The class indexes of a scene."""
        with rasterio.open(self.folder / str(self.manifest.scene(scene).labels)) as file:
            return np.asarray(file.read(1))

    def found(self, code: str) -> list[dict[str, str]]:
        """The findings of a kind."""
        return [finding for finding in self.report["findings"] if finding["code"] == code]


def ingested(config: Mapping[str, Any], workspace: Path, root: Path) -> Ingested:
    """Ingest with a config whose scenes and labels are relative to ``root``."""
    given = {"dataset": "real"} | dict(config)
    for key in ("scenes", "labels"):
        given[key] = [os.path.join(root, path) for path in given.get(key, [])]
    workspace.mkdir()
    result, error = None, None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SATSEG_WORKSPACE", str(workspace))
        try:
            result = ingest(IngestConfig.model_validate(given))
        except SatsegError as met:
            error = met
    raw = workspace / "data" / "raw" / given["dataset"]
    report = (workspace / "reports" / given["dataset"] if error else raw) / "report.json"
    body = json.loads(report.read_text()) if report.is_file() else {}
    return Ingested(workspace, result, error, body, raw)


_MADE: dict[str, Ingested] = {}


def real_set(name: str, realdata: Path, factory: pytest.TempPathFactory) -> Ingested:
    """Return a set as ingest took it, the first time by taking it."""
    if name not in _MADE:
        _MADE[name] = ingested(SETS[name], factory.mktemp("real") / "workspace", realdata)
    return _MADE[name]


def drawn(
    shapes: list[Any], values: list[int], x: np.ndarray, y: np.ndarray, fill: int = 255
) -> np.ndarray:
    """The mask of shapes on a grid whose centres have ``x`` (columns,) and ``y`` (rows,)."""
    mask = np.full((len(y), len(x)), fill, np.uint8)
    for shape, value in zip(shapes, values, strict=True):
        left, bottom, right, top = shape.bounds
        rows = np.flatnonzero((y >= bottom) & (y <= top))
        cols = np.flatnonzero((x >= left) & (x <= right))
        if len(rows) and len(cols):
            shapely.prepare(shape)
            here = np.ix_(rows, cols)
            inside = shapely.contains_xy(shape, *np.meshgrid(x[cols], y[rows]))
            mask[here] = np.where(inside, np.uint8(value), mask[here])
    return mask


def off_edge(
    mask: np.ndarray,
    expected: np.ndarray,
    shapes: list[Any],
    x: np.ndarray,
    y: np.ndarray,
    near: float = 1e-4,
) -> int:
    """Count the pixels that differ though their centre is on no edge, within ``near`` pixels.

    Which side a centre on an edge belongs to is a matter of rounding.
    """
    rows, cols = np.nonzero(mask != expected)
    if not len(rows):
        return 0
    assert len(rows) <= 10, f"{len(rows)} pixels differ"
    edges = shapely.union_all([shapely.boundary(shape) for shape in shapes])
    apart = shapely.distance(shapely.points(x[cols], y[rows]), edges)
    return int((apart > near * abs(x[1] - x[0])).sum())
