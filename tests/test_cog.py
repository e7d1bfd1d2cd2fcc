"""Class maps on disk: a valid COG with colours, names and lineage, or nothing at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS

from satseg_ray.classes import IGNORE, ClassDef, ClassTable
from satseg_ray.errors import UnwritableProduct
from satseg_ray.geo.cog import (
    MapFormat,
    assemble_cog,
    class_values,
    core_file,
    write_core,
    write_label_raster,
)
from satseg_ray.geo.grid import TileGrid, Window
from satseg_ray.geo.raster import RasterInfo, inspect_raster
from tests.factories import write_raster

SIZE = (1289, 1151)
TABLE = ClassTable(
    (
        ClassDef(7, "bare land", "#C8B27D"),
        ClassDef(0, "Wässer & <Ufer>", "#1F6FD0"),
        ClassDef(40, "roof", "#FF0000"),
    )
)
TAGS = {"model_name": "coast", "model_version": "3", "numerics_key": '{"threads": 1}'}


def random_map(size: tuple[int, int]) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.choice([*TABLE.values, TABLE.nodata], size).astype(np.uint8)


def make_map(folder: Path, grid: RasterInfo, values: np.ndarray, core: int = 512) -> Path:
    cores = TileGrid(grid.height, grid.width, core, 2 * core).cores
    (folder / "cores").mkdir(parents=True)
    (folder / "out").mkdir()
    for window in cores:
        write_core(folder / "cores", window, values[window.slices()])
    form = MapFormat(grid, TABLE, TAGS)
    assemble_cog(folder / "out" / "map.tif", form, folder / "cores", cores)
    return folder / "out" / "map.tif"


@pytest.fixture(scope="module")
def product(tmp_path_factory) -> tuple[Path, RasterInfo, np.ndarray]:
    """A map with the scene's grid and the values it was made of."""
    folder = tmp_path_factory.mktemp("product")
    grid = inspect_raster(write_raster(folder / "scene.tif", shape=SIZE, bands=1))
    values = random_map(SIZE)
    return make_map(folder, grid, values), grid, values


def test_the_map_is_a_cog_with_blocks_of_512_and_overviews(product):
    with rasterio.open(product[0]) as file:
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert file.block_shapes == [(512, 512)]
        assert file.overviews(1) == [2, 4]
        assert file.compression.name == "deflate"


def ifd_offsets(body: bytes) -> list[int]:
    """Offsets of the directories of a little-endian classic TIFF."""
    offsets, at = [], int.from_bytes(body[4:8], "little")
    while at:
        offsets.append(at)
        entries = int.from_bytes(body[at : at + 2], "little")
        at = int.from_bytes(body[at + 2 + 12 * entries :][:4], "little")
    return offsets


def test_all_directories_stand_before_the_pixels(product):
    body = product[0].read_bytes()
    assert body[:4] == b"II*\0"
    assert b"LAYOUT=IFDS_BEFORE_DATA" in body[:200]
    offsets = ifd_offsets(body)
    assert len(offsets) == 3
    assert offsets == sorted(offsets)
    assert max(offsets) < len(body) * 0.05


def test_the_map_lies_on_the_grid_of_its_scene(product):
    path, grid, values = product
    info = inspect_raster(path)
    assert (info.crs, info.transform) == (grid.crs, grid.transform)
    assert (info.height, info.width, info.dtype) == (*SIZE, "uint8")
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(file.read(1), values)


def test_the_map_names_its_classes_colours_nodata_and_lineage(product):
    with rasterio.open(product[0]) as file:
        tags, colors = file.tags(), file.colormap(1)
        assert file.nodata == TABLE.nodata == 255
        assert file.colorinterp[0].name == "palette"
    assert {key: tags[key] for key in TAGS} == TAGS
    assert ClassTable.from_list(json.loads(tags["CLASSES"])) == TABLE
    assert {f"CLASS_{c.value}": c.name for c in TABLE}.items() <= tags.items()
    assert {c.value: (*c.rgb, 255) for c in TABLE}.items() <= colors.items()
    assert colors[255][3] == 0


def test_overviews_hold_no_value_that_no_pixel_has(product):
    for level in (0, 1):
        with rasterio.open(product[0], overview_level=level) as file:
            assert set(np.unique(file.read(1))) <= {*TABLE.values, TABLE.nodata}


def test_no_file_stands_beside_the_map(product):
    with rasterio.open(product[0]) as file:
        file.read(1)
        assert file.files == [str(product[0])]
    assert [path.name for path in product[0].parent.iterdir()] == ["map.tif"]


def test_a_scene_without_georeference_gives_a_map_without(tmp_path):
    grid = inspect_raster(write_raster(tmp_path / "scene.png", shape=(70, 90)))
    values = random_map((70, 90))
    info = inspect_raster(make_map(tmp_path, grid, values))
    assert (info.crs, info.transform, info.height, info.width) == (None, None, 70, 90)
    with rasterio.open(tmp_path / "out" / "map.tif") as file:
        np.testing.assert_array_equal(file.read(1), values)
        assert "AREA_OR_POINT" not in file.tags()


@pytest.mark.parametrize("transform", [(5, 0.1, 0.02, 7, 0.03, -0.1), (0.1, 1 / 3, 0, 0.7, 0, 0.1)])
def test_a_rotated_or_south_up_grid_is_kept_to_the_last_bit(tmp_path, transform):
    affine = rasterio.Affine.from_gdal(*transform)
    scene = write_raster(tmp_path / "scene.tif", shape=(30, 30), transform=affine, crs="EPSG:4326")
    info = inspect_raster(make_map(tmp_path, inspect_raster(scene), random_map((30, 30))))
    assert info.transform == inspect_raster(scene).transform == transform


def test_a_map_in_a_crs_without_a_code_is_in_the_crs_of_its_scene(tmp_path):
    crs = CRS.from_string("+proj=utm +zone=18 +ellps=WGS84 +towgs84=100,200,300 +units=m")
    scene = write_raster(tmp_path / "scene.tif", shape=(30, 30), crs=crs)
    made = make_map(tmp_path, inspect_raster(scene), random_map((30, 30)))
    with rasterio.open(scene) as given, rasterio.open(made) as file:
        assert file.crs == given.crs


def test_a_failing_map_leaves_nothing_and_keeps_the_older_one(tmp_path, make_raster):
    grid = inspect_raster(make_raster(shape=(600, 700)))
    path = make_map(tmp_path, grid, random_map((600, 700)))
    before = path.read_bytes()
    cores = TileGrid(600, 700, 512, 1024).cores
    damaged = core_file(tmp_path / "cores", cores[1])
    damaged.write_bytes(damaged.read_bytes()[:400])
    with pytest.raises(UnwritableProduct):
        assemble_cog(path, MapFormat(grid, TABLE, TAGS), tmp_path / "cores", cores)
    assert [file.name for file in path.parent.iterdir()] == ["map.tif"]
    assert path.read_bytes() == before


def test_a_core_that_is_missing_fails_the_map(tmp_path, make_raster):
    grid = inspect_raster(make_raster(shape=(600, 700)))
    path = make_map(tmp_path, grid, random_map((600, 700)))
    path.unlink()
    cores = TileGrid(600, 700, 512, 1024).cores
    core_file(tmp_path / "cores", cores[1]).unlink()
    with pytest.raises(UnwritableProduct):
        assemble_cog(path, MapFormat(grid, TABLE, TAGS), tmp_path / "cores", cores)
    assert not list(path.parent.iterdir())


def test_a_failing_core_leaves_nothing(tmp_path, monkeypatch):
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="no space"):
        write_core(tmp_path, Window(0, 0, 4, 4), np.zeros((4, 4), np.uint8))
    assert not list(tmp_path.iterdir())


def test_writing_a_core_again_overwrites_it(tmp_path):
    core = Window(512, 0, 4, 4)
    for value in (1, 2):
        path = write_core(tmp_path, core, np.full((4, 4), value, np.uint8))
    assert list(tmp_path.iterdir()) == [path]
    with rasterio.open(path) as file:
        assert (file.read(1) == 2).all()


@given(st.integers(0, 5))
@settings(max_examples=6)
def test_map_values_are_the_class_values_and_nodata_elsewhere(seed):
    rng = np.random.default_rng(seed)
    classes = rng.choice([0, 1, 2, IGNORE], (20, 20)).astype(np.uint8)
    valid = rng.random((20, 20)) < 0.5
    values = class_values(classes, valid, TABLE)
    known = valid & (classes != IGNORE)
    np.testing.assert_array_equal(values[known], np.array(TABLE.values)[classes[known]])
    assert (values[~known] == TABLE.nodata).all()


def test_nodata_is_a_value_that_no_class_has():
    full = ClassTable(tuple(ClassDef(v, str(v)) for v in range(2, 256)))
    assert full.nodata == 1


@pytest.mark.parametrize("fails", [False, True])
def test_a_label_raster_appears_whole_or_not_at_all(tmp_path, make_raster, fails):
    grid = inspect_raster(make_raster(shape=(40, 30)))
    target = tmp_path / "out" / "labels.tif"
    target.parent.mkdir()
    rows = np.full((20, 30), 1, np.uint8)

    def strips():
        yield Window(0, 0, 20, 30), rows
        if fails:
            raise ValueError("half way")
        yield Window(20, 0, 20, 30), rows + 1

    if fails:
        with pytest.raises(ValueError, match="half way"):
            write_label_raster(target, grid, strips(), TABLE, IGNORE)
        assert not list(target.parent.iterdir())
        return
    write_label_raster(target, grid, strips(), TABLE, IGNORE)
    assert [path.name for path in target.parent.iterdir()] == ["labels.tif"]
    info = inspect_raster(target)
    assert (info.crs, info.transform, info.nodata) == (grid.crs, grid.transform, IGNORE)
    with rasterio.open(target) as file:
        assert file.colormap(1)[1] == (*TABLE.classes[1].rgb, 255)
        assert np.unique(file.read(1)).tolist() == [1, 2]
