"""Ingest: a checked copy with a version, or one sentence and nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import yaml
from PIL import Image

from satseg_ray import errors
from satseg_ray.classes import IGNORE
from satseg_ray.config import IngestConfig
from satseg_ray.data.ingest import ingest
from satseg_ray.errors import (
    BandMismatch,
    ChecksFailed,
    ConfigError,
    LabelsDoNotMatch,
    MissingFile,
    SatsegError,
    UnknownClassValue,
    UnreadableRaster,
)
from satseg_ray.geo.grid import Window
from satseg_ray.geo.raster import SceneReader
from satseg_ray.lineage import file_digest
from satseg_ray.patches.dataset import DatasetManifest
from tests.factories import names, random_pixels, write_raster

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

ROOT = Path(__file__).resolve().parent.parent
CLASSES: list[dict[str, Any]] = [
    {"value": 7, "name": "land", "color": "#C8B27D"},
    {"value": 2, "name": "water", "color": "#1F6FD0"},
]
SHAPE = (60, 50)


def write_pair(folder: Path, name: str, seed: int = 0, **options: Any) -> tuple[Path, Path]:
    """A scene and its labels: 7, 2 and, unlabelled, 0."""
    rng = np.random.default_rng(seed)
    values = rng.choice([7, 2, 0], SHAPE).astype(np.uint8)
    scene = write_raster(folder / "images" / f"{name}.tif", shape=SHAPE, seed=seed, **options)
    return scene, write_raster(folder / "labels" / f"{name}.tif", values)


def config(folder: Path, **changes: Any) -> IngestConfig:
    given: dict[str, Any] = {
        "dataset": "coast",
        "scenes": [str(folder / "images" / "*.tif")],
        "labels": [str(folder / "labels" / "*.tif")],
        "classes": CLASSES,
        "ignore": [0],
    }
    return IngestConfig.model_validate(given | changes)


@pytest.fixture
def inputs(tmp_path: Path, workspace: Path) -> Path:
    folder = tmp_path / "inputs"
    write_pair(folder, "a", 1)
    write_pair(folder, "b", 2)
    return folder


def left_behind(workspace: Path) -> list[str]:
    """Everything in a workspace's data that bears the data set's name or is unfinished."""
    tree = workspace / "data"
    named = [*tree.rglob("*coast*"), *tree.rglob("*.partial")]
    return [str(path) for path in named if ".git" not in path.parts]


def test_scenes_are_copied_and_labels_become_class_indexes(inputs, workspace):
    result = ingest(config(inputs))
    folder = workspace / "data" / "raw" / "coast"
    assert result["directory"] == str(folder)
    assert (result["scenes"], result["labelled"]) == (2, 2)
    for name in ("a", "b"):
        source = inputs / "images" / f"{name}.tif"
        assert (folder / "images" / f"{name}.tif").read_bytes() == source.read_bytes()
        with (
            rasterio.open(folder / "labels" / f"{name}.tif") as taken,
            rasterio.open(inputs / "labels" / f"{name}.tif") as given,
        ):
            lookup = np.full(256, IGNORE, np.uint8)
            lookup[[7, 2]] = 0, 1
            np.testing.assert_array_equal(taken.read(1), lookup[given.read(1)])
            assert (taken.crs, taken.transform) == (given.crs, given.transform)
            assert taken.nodata == IGNORE
    assert names(folder) == [
        "dataset.yaml", "images", "labels", "overview.html", "profile.bin", "report.json",
        "thumbnails",
    ]  # fmt: skip
    assert names(folder / "images") == names(folder / "labels") == ["a.tif", "b.tif"]


def test_the_manifest_says_what_is_in_the_data_set(inputs, workspace):
    result = ingest(config(inputs, bands=[3, 1], band_names=["red", "blue"], nodata=0))
    folder = workspace / "data" / "raw" / "coast"
    body = yaml.safe_load((folder / "dataset.yaml").read_text())
    assert body["classes"] == CLASSES
    assert (body["bands"], body["band_indexes"]) == (["red", "blue"], [3, 1])
    assert (body["nodata"], body["dtype"]) == (0, "uint8")
    first, second = body["scenes"]
    assert (first["name"], second["name"]) == ("a", "b")
    assert (first["height"], first["width"], first["crs"]) == (*SHAPE, "EPSG:32618")
    assert first["source"] == {"files": [{"path": "images/a.tif"}]}
    assert first["checksums"] == {"images/a.tif": file_digest(inputs / "images" / "a.tif")}
    assert first["labels_sha256"] == file_digest(folder / first["labels"])
    manifest = DatasetManifest.read(folder)
    assert manifest.to_dict() == body
    assert manifest.version == result["version"]


def test_bands_take_their_names_from_the_file(tmp_path, workspace):
    scene, labels = write_pair(tmp_path, "a")
    with rasterio.open(scene, "r+") as file:
        file.set_band_description(2, "nir")
    result = ingest(config(tmp_path, scenes=[str(scene)], labels=[str(labels)]))
    assert result["bands"] == ["band_1", "nir", "band_3"]


def test_the_version_follows_from_content_and_not_from_place_or_order(inputs, tmp_path):
    first = ingest(config(inputs))["version"]
    elsewhere = inputs.rename(tmp_path / "elsewhere")
    images = [str(elsewhere / "images" / f"{name}.tif") for name in ("b", "a")]
    assert ingest(config(elsewhere, scenes=images))["version"] == first
    assert ingest(config(elsewhere, nodata=1))["version"] != first
    with rasterio.open(elsewhere / "labels" / "a.tif", "r+") as file:
        file.write(np.full(SHAPE, 7, np.uint8), 1)
    assert ingest(config(elsewhere, scenes=images))["version"] != first


def test_ingesting_again_replaces_the_data_set(inputs, workspace):
    ingest(config(inputs))
    (inputs / "images" / "b.tif").unlink()
    (inputs / "labels" / "b.tif").unlink()
    assert ingest(config(inputs))["scenes"] == 1
    folder = workspace / "data" / "raw" / "coast"
    assert [path.name for path in (folder / "images").iterdir()] == ["a.tif"]


def test_a_scene_may_have_no_labels_among_others(inputs):
    (inputs / "labels" / "b.tif").unlink()
    assert ingest(config(inputs))["labelled"] == 1


def test_one_scene_and_one_label_raster_need_no_common_stem(inputs):
    pair = {"scenes": [str(inputs / "images" / "a.tif")], "labels": [str(inputs / "labels/b.tif")]}
    assert ingest(config(inputs, **pair))["labelled"] == 1


@pytest.mark.parametrize("internal", [True, False])
def test_a_mask_comes_along_inside_the_file_or_beside_it(inputs, workspace, internal):
    scene = inputs / "images" / "a.tif"
    before = ingest(config(inputs))["version"]
    mask = np.tri(*SHAPE) > 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal), rasterio.open(scene, "r+") as file:
        file.write_mask(mask)
    assert ingest(config(inputs))["version"] != before
    with SceneReader(workspace / "data" / "raw" / "coast" / "images" / "a.tif") as reader:
        np.testing.assert_array_equal(reader.read(Window(0, 0, *SHAPE)).valid, mask)


def test_a_world_file_comes_along(tmp_path, workspace):
    Image.fromarray(np.moveaxis(random_pixels(SHAPE), 0, -1)).save(tmp_path / "photo.png")
    (tmp_path / "photo.pgw").write_text("10\n0\n0\n-10\n500005\n4599995\n")
    ingest(config(tmp_path, scenes=[str(tmp_path / "photo.png")], labels=[]))
    with rasterio.open(workspace / "data" / "raw" / "coast" / "images" / "photo.png") as file:
        assert file.transform.to_gdal() == (500_000, 10, 0, 4_600_000, 0, -10)


def test_a_view_of_other_files_is_refused(inputs, workspace):
    view = inputs / "view.vrt"
    rasterio.shutil.copy(inputs / "images" / "a.tif", view, driver="VRT")
    with pytest.raises(UnreadableRaster, match=r"view\.vrt.*is a VRT file"):
        ingest(config(inputs, scenes=[str(view)], labels=[]))
    assert not left_behind(workspace)


def break_missing(folder: Path) -> Path:
    (folder / "labels" / "b.tif").unlink()
    (folder / "images" / "b.tif").unlink()
    return folder / "images" / "b.tif"


def break_text(folder: Path) -> Path:
    (folder / "images" / "b.tif").write_text("no picture at all\n")
    return folder / "images" / "b.tif"


def break_image(folder: Path) -> Path:
    path = folder / "images" / "b.tif"
    path.write_bytes(path.read_bytes()[:-2000])
    return path


def break_labels(folder: Path) -> Path:
    path = folder / "labels" / "b.tif"
    path.write_bytes(path.read_bytes()[:-2000])
    return path


def break_size(folder: Path) -> Path:
    return write_raster(folder / "labels" / "b.tif", np.full((60, 49), 7, np.uint8))


def break_grid(folder: Path) -> Path:
    return write_raster(folder / "labels" / "b.tif", np.full(SHAPE, 7, np.uint8), crs="EPSG:4326")


def break_value(folder: Path) -> Path:
    return write_raster(folder / "labels" / "b.tif", np.full(SHAPE, 93, np.uint8))


def break_bands(folder: Path) -> Path:
    return write_raster(folder / "images" / "b.tif", shape=SHAPE, bands=5)


def break_type(folder: Path) -> Path:
    return write_raster(folder / "images" / "b.tif", shape=SHAPE, dtype="uint16")


def break_band_order(folder: Path) -> Path:
    paths = [folder / "images" / f"{name}.tif" for name in ("a", "b")]
    orders = (("red", "green", "blue"), ("blue", "green", "red"))
    for path, order in zip(paths, orders, strict=True):
        with rasterio.open(path, "r+") as file:
            file.descriptions = order
    return paths[1]


BROKEN: list[tuple[Callable[[Path], Path], str, str]] = [
    (break_missing, "MissingFile", "names no file"),
    (break_text, "UnreadableRaster", "is no GeoTIFF, PNG, JPEG or JPEG 2000"),
    (break_image, "UnreadableRaster", "cannot be read as a raster"),
    (break_labels, "UnreadableRaster", "cannot be read as a raster"),
    (break_size, "LabelsDoNotMatch", "is 60 x 49 pixels"),
    (break_grid, "LabelsDoNotMatch", "is in EPSG:4326"),
    (break_value, "UnknownClassValue", "the value 93 in 3000 pixels"),
    (break_bands, "BandMismatch", "has 5 bands of uint8"),
    (break_type, "BandMismatch", "has 3 bands of uint16"),
    (break_band_order, "BandMismatch", "has red in band 3, blue in band 1"),
]
ids = [f"{damage.__name__.removeprefix('break_')}" for damage, *_ in BROKEN]


def job_yaml(folder: Path) -> Path:
    path = folder / "ingest.yaml"
    names = ("a", "b")
    body = config(folder).model_dump() | {"classes": CLASSES}
    body["scenes"] = [str(folder / "images" / f"{name}.tif") for name in names]
    path.write_text(yaml.safe_dump(body))
    return path


def run_job(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "jobs" / "ingest.py"), "--config", str(path)],
        capture_output=True,
        text=True,
        env=dict(os.environ),
        timeout=120,
    )


@pytest.mark.parametrize(("damage", "kind", "problem"), BROKEN[::4], ids=ids[::4])
def test_bad_input_is_one_sentence_with_a_code_and_leaves_nothing(
    inputs, workspace, damage, kind, problem
):
    path = damage(inputs)
    done = run_job(job_yaml(inputs))
    assert done.returncode == getattr(errors, kind).exit_code, done.stderr
    result = json.loads(done.stdout)
    assert result["error"] == kind
    said = done.stderr.splitlines()
    assert "Traceback" not in done.stderr
    assert said[-1].startswith(f"error: {path}: ")
    assert problem in said[-1]
    assert said[-1].endswith(f". {result['remedy']}")
    assert not left_behind(workspace)


@pytest.mark.parametrize(("damage", "kind", "problem"), BROKEN, ids=ids)
def test_bad_input_keeps_the_data_set_that_was_there(inputs, workspace, damage, kind, problem):
    version = ingest(config(inputs))["version"]
    damage(inputs)
    changes = yaml.safe_load(job_yaml(inputs).read_text())
    with pytest.raises(getattr(errors, kind), match=problem):
        ingest(config(inputs, scenes=changes["scenes"]))
    folder = workspace / "data" / "raw" / "coast"
    assert DatasetManifest.read(folder).version == version
    assert [name for name in names(folder.parent) if name[0] != "."] == ["coast", "coast.dvc"]


def test_the_job_prints_its_result_as_one_line(inputs, workspace):
    done = run_job(job_yaml(inputs))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["scenes"] == 2
    assert "ingest: 2 of 2 scenes" in done.stderr


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"dataset": "../out"}, ConfigError),
        ({"scenes": ["{}/images/*.jp2"]}, MissingFile),
        ({"labels": ["{}/labels/none.tif"]}, MissingFile),
        ({"bands": [4]}, BandMismatch),
        ({"bands": [0]}, BandMismatch),
        ({"band_names": ["red"]}, ConfigError),
        ({"classes": CLASSES[:1]}, ConfigError),
        ({"classes": [CLASSES[0], CLASSES[0]]}, ConfigError),
        ({"ignore": ["grey"], "labels_by": "color"}, SatsegError),
        ({"labels_by": "color"}, ConfigError),
    ],
)
def test_a_config_that_cannot_work_is_refused_and_leaves_nothing(inputs, workspace, changes, kind):
    given = {
        key: [v.format(inputs) if isinstance(v, str) else v for v in value]
        if isinstance(value, list)
        else value
        for key, value in changes.items()
    }
    with pytest.raises(kind):
        ingest(config(inputs, **given))
    assert not left_behind(workspace)


def test_names_that_the_file_gives_to_other_bands_are_refused(inputs):
    break_band_order(inputs)
    with pytest.raises(BandMismatch, match="has red in band 3, blue in band 1, not in the order"):
        ingest(config(inputs, band_names=["red", "green", "blue"]))


def test_an_alpha_band_is_left_out_and_said_so(tmp_path, workspace, capsys):
    scene = write_raster(tmp_path / "rgba.tif", bands=4, photometric="rgb", alpha="yes")
    made = ingest(config(tmp_path, scenes=[str(scene)], labels=[]))
    assert len(made["bands"]) == 3
    assert "band 4 is marked as alpha" in capsys.readouterr().err
    named = ingest(config(tmp_path, scenes=[str(scene)], labels=[], bands=[1, 2, 3, 4]))
    assert len(named["bands"]) == 4


def test_scenes_of_one_stem_are_named_by_their_folders_too(inputs, workspace):
    write_raster(inputs / "more" / "a.tif", shape=SHAPE, seed=9)
    scenes = [str(inputs / "images" / "a.tif"), str(inputs / "more" / "a.tif")]
    ingest(config(inputs, scenes=scenes, labels=[]))
    folder = workspace / "data" / "raw" / "coast"
    assert [s.name for s in DatasetManifest.read(folder).scenes] == ["images-a", "more-a"]
    assert (folder / "images" / "more-a" / "a.tif").read_bytes() == (
        inputs / "more" / "a.tif"
    ).read_bytes()


def test_labels_that_may_be_of_two_scenes_are_refused(inputs, workspace):
    write_raster(inputs / "more" / "a.tif", shape=SHAPE, seed=9)
    both = [str(inputs / "images" / "a.tif"), str(inputs / "more" / "a.tif")]
    with pytest.raises(LabelsDoNotMatch, match="cannot tell which"):
        ingest(config(inputs, scenes=both))
    assert not left_behind(workspace)


def test_labels_without_a_scene_are_left_out_with_a_warning_and_refused_if_strict(inputs, capsys):
    write_raster(inputs / "labels" / "stranger.tif", np.full(SHAPE, 7, np.uint8))
    assert ingest(config(inputs))["findings"]["warning"] == 1
    assert "warning: 1 label file: without a scene of that name" in capsys.readouterr().err
    with pytest.raises(ChecksFailed, match=r"stranger\.tif"):
        ingest(config(inputs, strict=True))


def test_labels_that_are_of_none_of_the_scenes_are_refused(inputs):
    stranger = write_raster(inputs / "others" / "stranger.tif", np.full(SHAPE, 7, np.uint8))
    with pytest.raises(LabelsDoNotMatch, match="belongs to a scene by its name"):
        ingest(config(inputs, labels=[str(stranger)]))


def test_bad_scenes_can_be_left_out_and_are_counted(inputs, workspace):
    write_pair(inputs, "c", 3)
    break_image(inputs)
    break_size_of = write_raster(inputs / "labels" / "c.tif", np.full((60, 49), 7, np.uint8))
    assert break_size_of.is_file()
    made = ingest(config(inputs, on_bad="skip"))
    assert made["outcomes"] == {
        "taken": 1, "refused": {"LabelsDoNotMatch": 1, "UnreadableRaster": 1},
    }  # fmt: skip
    folder = workspace / "data" / "raw" / "coast"
    assert names(folder / "images") == names(folder / "labels") == ["a.tif"]
    report = json.loads((folder / "report.json").read_text())
    assert [f["code"] for f in report["findings"]].count("refused") == 2


def test_a_refused_data_set_leaves_its_report(inputs, workspace):
    break_value(inputs)
    with pytest.raises(UnknownClassValue):
        ingest(config(inputs))
    report = json.loads((workspace / "reports" / "coast" / "report.json").read_text())
    assert any("93 (3,000 pixels)" in finding["problem"] for finding in report["findings"])
    assert not left_behind(workspace)


def test_scenes_by_reference_stay_where_they_are(inputs, workspace):
    plain = ingest(config(inputs))["version"]
    made = ingest(config(inputs, by_reference=True))
    folder = workspace / "data" / "raw" / "coast"
    assert not (folder / "images").exists()
    scene = DatasetManifest.read(folder).scene("a")
    source = inputs / "images" / "a.tif"
    assert scene.by_reference
    assert scene.source.files[0].path == str(source)
    assert scene.checksums == {str(source): file_digest(source)}
    assert made["version"] != plain  # images/ are not part of it


def test_the_same_content_makes_no_new_version_and_other_content_does(inputs, workspace):
    first, again = ingest(config(inputs)), ingest(config(inputs))
    assert (first["tag"], first["new"]) == ("coast-v1", True)
    assert (again["tag"], again["new"]) == ("coast-v1", False)
    other = ingest(config(inputs, nodata=1))
    assert (other["tag"], other["new"]) == ("coast-v2", True)
