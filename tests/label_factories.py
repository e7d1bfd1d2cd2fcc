"""Label files made on the spot, and masks computed in another way than the code under test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyproj
import shapely
from rasterio.transform import Affine

from satseg_ray.classes import ClassDef, ClassTable
from satseg_ray.findings import Finding
from satseg_ray.geo.labels import LabelRule, open_labels
from satseg_ray.geo.raster import RasterInfo

UTM = "EPSG:32618"
TABLE = ClassTable((ClassDef(7, "land"), ClassDef(0, "water"), ClassDef(3, "roof")))
RULE = LabelRule(TABLE, attribute="kind")


def scene_info(
    height: int = 64,
    width: int = 80,
    crs: str | None = UTM,
    transform: Affine | None = None,
) -> RasterInfo:
    """What a scene of 10 m pixels, or one without a georeference, says of itself."""
    grid = transform or Affine(10, 0, 500_000, 0, -10, 4_600_000)
    return RasterInfo(
        path="scene.tif",
        driver="GTiff",
        height=height,
        width=width,
        count=3,
        dtype="uint8",
        crs=pyproj.CRS(crs).to_wkt("WKT1_GDAL") if crs else None,
        transform=tuple(grid.to_gdal()) if crs else None,
        nodata=None,
        descriptions=("", "", ""),
    )


def burnt(
    path: Path | str, rule: LabelRule, scene: RasterInfo, **where: Any
) -> tuple[np.ndarray, tuple[Finding, ...]]:
    """The whole mask of a label file, and what was found in it."""
    whole = np.full((scene.height, scene.width), 99, np.uint8)
    with open_labels(str(path), rule, scene, **where) as labels:
        for window, indexes in labels.blocks():
            assert indexes.dtype == np.uint8
            whole[window.slices()] = indexes
        return whole, labels.findings


def centers(scene: RasterInfo) -> tuple[np.ndarray, np.ndarray]:
    """x and y (rows, columns) of all pixel centres, in the scene's CRS or in pixels."""
    rows, cols = np.mgrid[: scene.height, : scene.width] + 0.5
    if scene.transform is None:
        return cols, rows
    grid = Affine.from_gdal(*scene.transform)
    return grid.a * cols + grid.b * rows + grid.c, grid.d * cols + grid.e * rows + grid.f


def by_points(
    shapes: list[Any], values: list[int], x: np.ndarray, y: np.ndarray, fill: int = 255
) -> np.ndarray:
    """The mask that asking for every centre whether it is in a shape gives; later over earlier."""
    mask = np.full(x.shape, fill, np.uint8)
    for shape, value in zip(shapes, values, strict=True):
        mask[shapely.contains_xy(shape, x, y)] = value
    return mask


def on_edge(shapes: list[Any], x: np.ndarray, y: np.ndarray, near: float) -> np.ndarray:
    """Where a pixel's centre lies within ``near`` of an edge."""
    edges = shapely.union_all([shapely.boundary(shape) for shape in shapes])
    return np.asarray(shapely.distance(shapely.points(x, y), edges) <= near)


def frame_of(
    shapes: list[Any], crs: str | None = UTM, **columns: list[Any]
) -> geopandas.GeoDataFrame:
    """A table of features."""
    return geopandas.GeoDataFrame(columns, geometry=shapes, crs=crs)


def write_vectors(path: Path, frame: geopandas.GeoDataFrame, **options: Any) -> Path:
    """Write features in the format that the suffix names."""
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_file(path, engine="pyogrio", **options)
    return path


def write_json(path: Path, document: Any) -> Path:
    """Write a JSON file."""
    path.write_text(json.dumps(document))
    return path


def geojson(shapes: list[Any], crs: str | None = None, **columns: list[Any]) -> dict[str, Any]:
    """A feature collection."""
    features = [
        {
            "type": "Feature",
            "properties": {key: column[at] for key, column in columns.items()},
            "geometry": None if shape is None else shapely.geometry.mapping(shape),
        }
        for at, shape in enumerate(shapes)
    ]
    body: dict[str, Any] = {"type": "FeatureCollection", "features": features}
    if crs:
        body["crs"] = {"type": "name", "properties": {"name": crs}}
    return body
