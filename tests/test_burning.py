"""Ingest and evaluate burn the labels of a scene in one and the same way, on whatever grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from shapely import box

from satseg_ray.classes import ClassDef, ClassTable
from satseg_ray.config import EvaluateConfig
from satseg_ray.data.rows import Pool
from satseg_ray.model.spec import ModelSpec
from satseg_ray.predict.evaluate import Pieces, scene_pieces
from tests.factories import GRID
from tests.label_factories import frame_of, geojson, write_json, write_vectors

SPEC = ModelSpec(
    architecture="unet",
    backbone="any",
    bands=("red", "green", "blue"),
    band_indexes=(1, 2, 3),
    dtype="uint8",
    classes=ClassTable((ClassDef(0, "land"), ClassDef(1, "roof"))),
    patch_size=32,
    stride=16,
    mean=(1.0, 1.0, 1.0),
    std=(1.0, 1.0, 1.0),
)
HEIGHT, WIDTH = 64, 80


@pytest.fixture
def finer(tmp_path: Path, make_raster) -> Path:
    """A scene of 10 m pixels that is read on a grid of 5 m."""
    make_raster("photo.tif")
    grid = {"crs": "EPSG:32618", "resolution": 5}
    body = {"files": ["photo.tif"], "grid": grid, "resampling": "nearest"}
    (tmp_path / "scene.yaml").write_text(yaml.safe_dump(body))
    return tmp_path / "scene.yaml"


def burnt(scene: Path, labels: Path, folder: Path, **options: object) -> tuple[np.ndarray, Pieces]:
    """The class indexes that an evaluation compares a scene with."""
    body = {"model": "toy", "scene": str(scene), "labels": str(labels), **options}
    pieces = scene_pieces(EvaluateConfig.model_validate(body), SPEC, folder / "burnt", Pool(1))
    with rasterio.open(pieces.task.labels) as file:
        return file.read(1), pieces


def on_fine(mask: np.ndarray) -> np.ndarray:
    """What a mask of the photo is on the grid of half as large pixels."""
    return mask.repeat(2, 0).repeat(2, 1)


@pytest.mark.parametrize("size", [{"height": HEIGHT, "width": WIDTH}, {}])
def test_annotations_of_a_scene_on_a_grid_count_the_pixels_of_its_image(finer, tmp_path, size):
    images = [
        {"id": 1, "file_name": "other.tif", **size},
        {"id": 2, "file_name": "photo.tif", **size},
    ]
    drawn = {"category_id": 7, "segmentation": [[10, 20, 30, 20, 30, 40, 10, 40]]}
    document = {
        "images": images,
        "categories": [{"id": 7, "name": "roof"}],
        "annotations": [{"id": 1, "image_id": 2, **drawn}],
    }
    mask, _ = burnt(finer, write_json(tmp_path / "coco.json", document), tmp_path)
    expected = np.full((HEIGHT, WIDTH), 255)
    expected[20:40, 10:30] = 1
    np.testing.assert_array_equal(mask, on_fine(expected))


@pytest.mark.parametrize("place", [{}, {"crs": None, "transform": None}])
def test_labels_on_the_grid_of_the_image_are_warped_with_it(finer, tmp_path, make_raster, place):
    values = np.random.default_rng(0).integers(0, 2, (HEIGHT, WIDTH)).astype(np.uint8)
    labels = make_raster("labels.tif", values, **place)
    mask, pieces = burnt(finer, labels, tmp_path)
    np.testing.assert_array_equal(mask, on_fine(values))
    assert [finding.code for finding in pieces.findings] == ["warped-labels"]


def test_what_the_labels_of_an_evaluation_met_is_said_and_kept(tmp_path, make_raster, capsys):
    scene = make_raster("photo.tif")
    left, top = GRID @ (10, 20)
    shapes = [None, box(left, top - 200, left + 200, top)]
    labels = write_vectors(tmp_path / "a.gpkg", frame_of(shapes, "EPSG:32618"))
    mask, pieces = burnt(scene, labels, tmp_path, shapes={"every": "roof"})
    assert (mask == 1).sum() == 400
    assert [finding.code for finding in pieces.findings] == ["null-geometry"]
    assert "without a geometry" in capsys.readouterr().err


def test_a_plain_scene_without_a_crs_takes_labels_in_pixels(tmp_path, make_raster):
    scene = make_raster("photo.png")
    labels = write_json(tmp_path / "a.json", geojson([box(1, 2, 5, 6)]))
    mask, pieces = burnt(scene, labels, tmp_path, shapes={"every": "roof"})
    assert (mask[2:6, 1:5] == 1).all()
    assert not pieces.findings
