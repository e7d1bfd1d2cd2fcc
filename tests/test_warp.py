"""Scenes on other grids: any window is part of the whole, and the whole is what others compute."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyproj
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.enums import Resampling
from rasterio.transform import Affine, from_origin
from rasterio.warp import reproject

from satseg_ray.errors import ConfigError
from satseg_ray.geo import warp
from satseg_ray.geo.grid import Window
from satseg_ray.geo.raster import SceneReader, Tile, inspect_scene
from satseg_ray.geo.source import BandFile, SceneSource, TargetGrid
from tests.factories import random_pixels, write_raster

METHODS = ("nearest", "bilinear", "cubic", "average")
QUIET = [HealthCheck.function_scoped_fixture]


@pytest.fixture(autouse=True)
def small_squares(monkeypatch):
    """Squares as small as the scenes of these tests, so that windows cut through many."""
    monkeypatch.setattr(warp, "BLOCK", 16)


def whole(source: SceneSource, **options) -> Tile:
    with SceneReader(source, **options) as reader:
        return reader.read(reader.info.window)


def smooth(height: int, width: int, dtype: str = "uint16") -> np.ndarray:
    rows, cols = np.mgrid[:height, :width]
    return np.stack([1000 + 7 * rows + 3 * cols, 2000 - 5 * rows + 4 * cols]).astype(dtype)


def on_grid(path: Path, crs: str, resolution: float, method="nearest", **more) -> SceneSource:
    return SceneSource((BandFile(str(path)),), None, TargetGrid(crs, resolution), method, **more)


@st.composite
def scenes(draw):
    """Files of two resolutions and maybe two zones, with holes, as a stack or on a grid."""
    dtype = draw(st.sampled_from(["uint8", "int16", "uint16", "float32"]))
    files = []
    for number in range(draw(st.integers(1, 3))):
        size = draw(st.tuples(st.integers(3, 40), st.integers(3, 40)))
        values = random_pixels(size, draw(st.integers(1, 2)), dtype, seed=number)
        values[:, : size[0] // 3, : size[1] // 2] = 0
        step = draw(st.sampled_from([10, 20, 60, 13.7]))
        zone = draw(st.sampled_from(["EPSG:32631", "EPSG:32631", "EPSG:32632"]))
        left = (700_000 if zone == "EPSG:32631" else 237_000) + draw(st.sampled_from([0, 5, 30.3]))
        nodata = draw(st.sampled_from([None, 0]))
        transform = from_origin(left, 5_300_000 + draw(st.sampled_from([0, 60, -7])), step, step)
        files.append((values, {"crs": zone, "transform": transform, "nodata": nodata}))
    grid = draw(st.sampled_from([None, None, TargetGrid("EPSG:3857", 25.0)]))
    method = draw(st.sampled_from(METHODS))
    return files, grid, method


@given(scene=scenes(), data=st.data())
@settings(suppress_health_check=QUIET, max_examples=60)
def test_any_window_is_that_part_of_the_whole_bit_for_bit(tmp_path, scene, data):
    files, grid, method = scene
    paths = [
        write_raster(tmp_path / f"{number}.tif", values, **options)
        for number, (values, options) in enumerate(files)
    ]
    source = SceneSource(tuple(BandFile(str(path)) for path in paths), None, grid, method)
    with SceneReader(source) as reader:
        info = reader.info
        tile = reader.read(info.window)
    place = st.integers(-9, 50), st.integers(-9, 50), st.integers(1, 60), st.integers(1, 60)
    with SceneReader(source) as reader:
        for _ in range(3):
            window = Window(*(data.draw(number) for number in place))
            part = reader.read(window)
            inside = window.intersection(info.window)
            rows, cols = inside.relative_to(window).slices()
            np.testing.assert_array_equal(
                part.pixels[:, rows, cols], tile.pixels[:, *inside.slices()]
            )
            np.testing.assert_array_equal(part.valid[rows, cols], tile.valid[inside.slices()])
            assert part.valid.sum() == part.valid[rows, cols].sum()


@pytest.mark.parametrize("budget", [200, 3000])
def test_where_much_of_the_file_is_needed_squares_are_halved(tmp_path, monkeypatch, budget):
    path = write_raster(tmp_path / "a.tif", smooth(90, 110))
    source = on_grid(path, "EPSG:32619", 13.0, "bilinear")
    before = whole(source)
    monkeypatch.setattr(warp, "MAX_SOURCE_BYTES", budget << 4)
    after = whole(source)
    np.testing.assert_array_equal(after.valid, before.valid)
    np.testing.assert_allclose(after.pixels, before.pixels, atol=1)


@pytest.mark.parametrize(
    ("crs", "target", "resolution"),
    [
        ("EPSG:32631", "EPSG:32632", 10),
        ("EPSG:32631", "EPSG:4326", 1e-4),
        ("EPSG:4326", "EPSG:3857", 9),
    ],
)
def test_the_nearest_pixel_is_the_one_that_proj_finds(tmp_path, crs, target, resolution):
    origin = (9.2, 47.9, 1e-4) if crs == "EPSG:4326" else (700_000, 5_300_000, 10)
    transform = Affine(origin[2], 0, origin[0], 0, -origin[2], origin[1])
    values = random_pixels((70, 90), 1, "uint16") + 1
    path = write_raster(tmp_path / "a.tif", values, crs=crs, transform=transform)
    source = on_grid(path, target, resolution)
    info, tile = inspect_scene(source), whole(source)
    rows, cols = np.mgrid[: info.height, : info.width] + 0.5
    xs, ys = info.affine @ (cols.ravel(), rows.ravel())
    way = pyproj.Transformer.from_crs(target, crs, always_xy=True)
    cols, rows = ~transform @ way.transform(xs, ys)
    near = np.abs(np.stack([cols, rows]) - np.rint([cols, rows])).min(axis=0) < 1e-6
    inside = (rows >= 0) & (rows < 70) & (cols >= 0) & (cols < 90)
    expected = np.where(
        inside, values[0, rows.clip(0, 69).astype(int), cols.clip(0, 89).astype(int)], 0
    )
    sure = ~near.reshape(tile.valid.shape)
    assert sure.mean() > 0.99
    np.testing.assert_array_equal(tile.valid[sure], inside.reshape(tile.valid.shape)[sure])
    np.testing.assert_array_equal(
        (tile.pixels[0] * tile.valid)[sure], expected.reshape(tile.valid.shape)[sure]
    )
    assert tile.valid.mean() > 0.7


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("resolution", [4.0, 10.0, 37.0])
def test_squares_together_are_what_gdal_warps_in_one_go(tmp_path, method, resolution):
    values = smooth(80, 100)
    path = write_raster(tmp_path / "a.tif", values, crs="EPSG:32631", transform=UTM)
    source = on_grid(path, "EPSG:32632", resolution, method)
    info, tile = inspect_scene(source), whole(source)
    scale = warp.GridChange(inspect_scene(SceneSource((BandFile(str(path)),))), info).scale
    expected = np.zeros_like(tile.pixels)
    reproject(
        values, expected, src_crs="EPSG:32631", src_transform=UTM, src_nodata=0,
        dst_crs="EPSG:32632", dst_transform=info.affine, resampling=Resampling[method],
        tolerance=0, XSCALE=1 / scale[0], YSCALE=1 / scale[1],
    )  # fmt: skip
    assert ((expected[0] > 0) == tile.valid).mean() > 0.99  # average reaches over the edge
    both = (expected[0] > 0) & tile.valid
    apart = np.abs(expected.astype(int) - tile.pixels)[:, both]
    assert apart.max() <= (12 if method == "nearest" else 1)  # a neighbour, or the rounding
    assert (apart == 0).mean() > 0.98


UTM = from_origin(700_000, 5_300_000, 10, 10)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_grid_that_is_the_same_or_only_moved_gives_the_same_pixels(tmp_path, method, dtype):
    values = random_pixels((40, 30), 2, dtype)
    path = write_raster(tmp_path / "a.tif", values, crs="EPSG:32631", transform=UTM)
    tile = whole(on_grid(path, "EPSG:32631", 10, method))
    np.testing.assert_array_equal(tile.pixels, values)
    assert tile.valid.all()
    moved = from_origin(699_970, 5_300_050, 10, 10)
    wide = write_raster(tmp_path / "b.tif", values, crs="EPSG:32631", transform=moved)
    files = (BandFile(str(path)), BandFile(str(wide)))
    tile = whole(SceneSource(files, None, None, method))
    np.testing.assert_array_equal(tile.pixels[2:, :35, :27], values[:, 5:, 3:])
    assert tile.valid[:35, :27].all()
    assert tile.valid.sum() == 35 * 27


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_nodata_has_no_part_in_a_valid_pixel(tmp_path, dtype):
    values = np.full((1, 20, 20), 100, dtype)
    values[0, 5:9, 5:9] = 255 if dtype == "uint8" else 9999
    if dtype == "float32":
        values[0, 15, 15] = np.nan
    options = {"crs": "EPSG:32631", "transform": UTM, "nodata": float(values[0, 5, 5])}
    path = write_raster(tmp_path / "a.tif", values, **options)
    for method in ("bilinear", "cubic", "average"):
        tile = whole(on_grid(path, "EPSG:32631", 4, method))
        assert (tile.pixels[0][tile.valid] == 100).all()
        hole = 16 / 0.16 if dtype != "float32" else 17 / 0.16
        assert abs((~tile.valid).sum() - hole) < 30


def test_a_pixel_is_valid_by_its_centre_and_by_average_where_anything_of_it_is(tmp_path):
    values = np.full((1, 8, 8), 9, np.uint8)
    values[0, :, 2:4] = 0  # half of a wide pixel, its centre
    values[0, 4:, 4:] = 0  # a whole wide pixel
    path = write_raster(tmp_path / "a.tif", values, crs="EPSG:32631", transform=UTM, nodata=0)
    fine = values[0] > 0
    centres = fine[2::4, 2::4]
    covered = fine.reshape(2, 4, 2, 4).any(axis=(1, 3))
    for method, expected in (("nearest", centres), ("average", covered)):
        tile = whole(on_grid(path, "EPSG:32631", 40, method))
        np.testing.assert_array_equal(tile.valid, expected)
        assert (tile.pixels[:, tile.valid] == 9).all()


def test_a_mask_and_an_alpha_band_hide_pixels_also_when_warped(tmp_path):
    values = np.full((4, 20, 20), 9, np.uint8)
    values[:3, :10] = 200
    values[3] = 255
    values[3, :10] = 0
    path = write_raster(
        tmp_path / "a.tif", values, crs="EPSG:32631", transform=UTM, photometric="rgb", alpha="yes"
    )
    tile = whole(on_grid(path, "EPSG:32631", 5, "bilinear"))
    assert tile.pixels.shape[0] == 3
    assert (tile.pixels[:, tile.valid] == 9).all()
    np.testing.assert_array_equal(tile.valid, np.repeat(np.repeat(values[3] > 0, 2, 0), 2, 1))


def test_the_grid_is_the_smallest_of_whole_multiples_that_covers_the_scene(tmp_path):
    path = write_raster(tmp_path / "a.tif", smooth(33, 47), crs="EPSG:32631", transform=UTM)
    for crs, step in (("EPSG:32632", 10.0), ("EPSG:3857", 0.3 * 50), ("EPSG:4326", 0.00015)):
        info = inspect_scene(on_grid(path, crs, step))
        assert info.crs_name == crs
        assert info.bounds
        left, bottom, right, top = info.bounds
        cols, rows = np.meshgrid(np.linspace(0, 47, 60), np.linspace(0, 33, 60))
        xs, ys = UTM @ (cols.ravel(), rows.ravel())
        way = pyproj.Transformer.from_crs("EPSG:32631", crs, always_xy=True)
        xs, ys = way.transform(xs, ys)
        assert left <= xs.min() < left + step
        assert bottom <= ys.min() < bottom + step
        assert right - step < xs.max() <= right
        assert top - step < ys.max() <= top
        edges = np.array([left, bottom, right, top]) / step
        np.testing.assert_allclose(edges, np.rint(edges), atol=1e-6)


def test_scenes_of_two_zones_share_the_edges_of_pixels(tmp_path):
    west = write_raster(tmp_path / "a.tif", smooth(30, 30), crs="EPSG:32631", transform=UTM)
    east = from_origin(237_000, 5_301_000, 10, 10)
    other = write_raster(tmp_path / "b.tif", smooth(30, 30), crs="EPSG:32632", transform=east)
    grids = [inspect_scene(on_grid(path, "EPSG:3857", 14.3)).affine for path in (west, other)]
    for apart in (grids[0].c - grids[1].c, grids[0].f - grids[1].f):
        assert abs(apart / 14.3 - round(apart / 14.3)) < 1e-6


@pytest.mark.parametrize(
    ("crs", "step"),
    [("EPSG:4326", 10.0), ("EPSG:4326", 0.3), ("EPSG:4326", 0.03), ("EPSG:32631", 1e-4)],
)
def test_a_resolution_in_other_units_than_those_of_the_crs_is_refused(tmp_path, crs, step):
    path = write_raster(tmp_path / "a.tif", smooth(200, 200), crs="EPSG:32631", transform=UTM)
    with pytest.raises(ConfigError, match="in units of"):
        inspect_scene(on_grid(path, crs, step))


@pytest.mark.parametrize("factor", [1 / 15, 15])
def test_pixels_may_be_some_times_larger_or_smaller(tmp_path, factor):
    path = write_raster(tmp_path / "a.tif", smooth(200, 200), crs="EPSG:32631", transform=UTM)
    for crs, side in (("EPSG:32631", 10), ("EPSG:4326", 0.000109)):  # 10 m at 48 degrees north
        info = inspect_scene(on_grid(path, crs, side * factor))
        assert math.sqrt(info.height * info.width) == pytest.approx(200 / factor, rel=0.2)


@pytest.mark.parametrize("crs", ["EPSG:5773", "EPSG:4978", "EPSG:4979"])
def test_a_crs_that_is_none_of_maps_is_refused_by_name(tmp_path, crs):
    path = write_raster(tmp_path / "a.tif", smooth(20, 20), crs="EPSG:32631", transform=UTM)
    with pytest.raises(ConfigError, match=f"is {crs}, .*, which is neither projected"):
        inspect_scene(on_grid(path, crs, 10.0))
    with pytest.raises(ConfigError, match="is nowhere, which is no CRS"):
        inspect_scene(on_grid(path, "nowhere", 10.0))


def test_a_scene_without_crs_is_used_as_it_is(tmp_path):
    pixels = random_pixels((9, 9))
    path = write_raster(tmp_path / "a.png", pixels)
    source = on_grid(path, "EPSG:3857", 1.0)
    assert inspect_scene(source).crs is None
    with SceneReader(source) as reader:
        np.testing.assert_array_equal(reader.read(reader.info.window).pixels, pixels)


def test_where_a_crs_is_not_defined_a_scene_is_refused(tmp_path):
    world = from_origin(-180, 90, 5, 5)
    path = write_raster(tmp_path / "a.tif", smooth(36, 72), crs="EPSG:4326", transform=world)
    with pytest.raises(ConfigError, match="does not lie where"):
        inspect_scene(on_grid(path, "EPSG:32631", 100_000.0))
