"""Reading rasters: what is valid, what lies beyond the scene, and files that must be refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from rasterio.crs import CRS
from rasterio.windows import Window as RasterioWindow

from satseg_ray.errors import BandMismatch, MissingFile, UnreadableRaster
from satseg_ray.geo import check
from satseg_ray.geo import info as info_module
from satseg_ray.geo.grid import Window
from satseg_ray.geo.raster import SceneReader, Tile, check_whole, inspect_raster, raster_files
from tests.factories import random_pixels, write_raster

ROOT = Path(__file__).resolve().parent.parent
WHOLE = Window(0, 0, 2, 2)


def read(path: Path, window: Window = WHOLE, **options) -> Tile:
    with SceneReader(path, **options) as reader:
        return reader.read(window)


def test_in_8_bits_nodata_must_stand_in_every_band(make_raster):
    values = np.array([[[0, 0], [5, 5]], [[0, 7], [0, 5]]], np.uint8)
    np.testing.assert_array_equal(
        read(make_raster(values=values, nodata=0)).valid, [[False, True], [True, True]]
    )


@pytest.mark.parametrize("dtype", ["int16", "uint16", "float32"])
def test_in_deeper_scenes_nodata_in_one_band_is_enough(make_raster, dtype):
    values = np.array([[[0, 0], [5, 5]], [[0, 7], [0, 5]]], dtype)
    np.testing.assert_array_equal(
        read(make_raster(values=values, nodata=0)).valid, [[False, False], [False, True]]
    )


@pytest.mark.parametrize("bands", [(1,), (2,)])
def test_only_the_bands_that_are_read_decide_on_nodata(make_raster, bands):
    values = np.array([[[0, 9], [9, 9]], [[9, 0], [9, 9]]], np.uint16)
    tile = read(make_raster(values=values, nodata=0), bands=bands)
    np.testing.assert_array_equal(tile.valid, values[bands[0] - 1] != 0)


@pytest.mark.parametrize("nodata", [None, 0, float("nan"), -9999])
def test_a_pixel_that_is_not_finite_is_invalid_and_zero(make_raster, nodata):
    values = np.array([[[np.nan, np.inf], [-np.inf, 3]], [[1, 1], [1, 4]]], np.float32)
    tile = read(make_raster(values=values, nodata=nodata))
    np.testing.assert_array_equal(tile.valid, [[False, False], [False, True]])
    np.testing.assert_array_equal(tile.pixels[:, 1, 1], [3, 4])
    assert not tile.pixels[:, ~tile.valid].any()


def test_nodata_beyond_the_pixel_type_hides_nothing(make_raster):
    values = np.full((1, 2, 2), 241, np.uint8)  # -9999 wrapped into eight bits
    assert read(make_raster(values=values), nodata=-9999).valid.all()


def test_the_lowest_float_as_nodata_is_found(make_raster):
    lowest = float(np.finfo(np.float32).min)
    values = np.array([[[lowest, 1], [2, 3]]], np.float32)
    tile = read(make_raster(values=values, nodata=lowest))
    np.testing.assert_array_equal(tile.valid, [[False, True], [True, True]])


def test_nodata_of_the_caller_wins_over_the_tag(make_raster):
    values = np.array([[[0, 7], [7, 1]]], np.uint8)
    path = make_raster(values=values, nodata=0)
    np.testing.assert_array_equal(read(path).valid, values[0] != 0)
    np.testing.assert_array_equal(read(path, nodata=7).valid, values[0] != 7)


def test_a_clear_alpha_hides_a_pixel_whatever_its_bands(make_raster):
    values = np.full((4, 2, 2), 9, np.uint8)
    values[3] = [[0, 255], [255, 0]]
    path = make_raster(values=values, photometric="rgb", alpha="yes")
    np.testing.assert_array_equal(read(path, bands=(1, 2, 3)).valid, values[3] > 0)


def test_a_clear_alpha_hides_a_pixel_where_there_is_a_nodata_tag_too(make_raster):
    values = np.full((4, 2, 2), 9, np.uint8)
    values[3] = [[0, 255], [255, 0]]
    path = make_raster(values=values, photometric="rgb", alpha="yes", nodata=0)
    np.testing.assert_array_equal(read(path).valid, values[3] > 0)


def test_an_alpha_band_is_no_imagery_unless_it_is_asked_for(make_raster):
    values = random_pixels((2, 2), 4) | 1
    path = make_raster(values=values, photometric="rgb", alpha="yes")
    np.testing.assert_array_equal(read(path).pixels, values[:3])
    tile = read(path, bands=(4, 1))
    np.testing.assert_array_equal(tile.pixels, values[[3, 0]])
    assert tile.valid.all()


@pytest.mark.parametrize(
    ("crs", "name"),
    [
        ("EPSG:32618", "EPSG:32618"),
        ("+proj=utm +zone=18 +ellps=WGS84 +towgs84=100,200,300", None),
        ("+proj=utm +zone=33 +ellps=GRS80 +units=m", None),
        ("+proj=laea +lat_0=12 +lon_0=34 +datum=WGS84", None),
    ],
)
def test_a_crs_is_kept_as_it_is_and_called_by_a_code_only_where_it_is_that_code(
    make_raster, crs, name
):
    path = make_raster(crs=CRS.from_string(crs))
    info = inspect_raster(path)
    with rasterio.open(path) as file:
        assert CRS.from_wkt(info.crs) == file.crs
        if name:
            assert info.crs_name == name
        else:
            assert CRS.from_string(info.crs_name) == file.crs


@pytest.mark.parametrize("internal", [True, False])
def test_a_mask_band_hides_pixels_inside_the_file_or_beside_it(make_raster, internal):
    path = make_raster(shape=(2, 2), dtype="uint16")
    mask = np.array([[True, False], [True, True]])
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal), rasterio.open(path, "r+") as file:
        file.write_mask(mask)
    np.testing.assert_array_equal(read(path).valid, mask)
    beside = [] if internal else [path.with_name(path.name + ".msk")]
    assert raster_files(path) == (path, *beside)


@pytest.mark.parametrize(
    "window", [Window(-3, -2, 5, 5), Window(1, 1, 9, 9), Window(50, 50, 3, 3), Window(-9, 0, 2, 2)]
)
def test_beyond_the_scene_pixels_are_zero_and_invalid(make_raster, window):
    values = random_pixels((4, 6), 2, "uint16") + 1
    tile = read(make_raster(values=values), window)
    padded = np.pad(values, ((0, 0), (60, 60), (60, 60)))
    moved = Window(window.row + 60, window.col + 60, window.height, window.width)
    np.testing.assert_array_equal(tile.pixels, padded[:, *moved.slices()])
    np.testing.assert_array_equal(tile.valid, tile.pixels[0] > 0)


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_reading_equals_slicing_the_array(tmp_path, data):
    height, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    count = data.draw(st.integers(1, 4))
    dtype = data.draw(st.sampled_from(["uint8", "int16", "uint16", "float32"]))
    tiled = data.draw(st.booleans())
    layout: dict[str, Any] = {"tiled": True, "blockxsize": 16, "blockysize": 16} if tiled else {}
    values = random_pixels((height, width), count, dtype)
    path = write_raster(tmp_path / "scene.tif", values, **layout)
    place = st.integers(-20, 50), st.integers(-20, 50), st.integers(1, 50), st.integers(1, 50)
    window = Window(*(data.draw(number) for number in place))
    bands = data.draw(st.lists(st.integers(1, count), min_size=1, max_size=4))
    tile = read(path, window, bands=bands)
    far = 100
    padded = np.pad(values[[b - 1 for b in bands]], ((0, 0), (far, far), (far, far)))
    inside = np.pad(np.ones((height, width), np.bool_), far)
    moved = Window(window.row + far, window.col + far, window.height, window.width)
    np.testing.assert_array_equal(tile.pixels, padded[:, *moved.slices()])
    np.testing.assert_array_equal(tile.valid, inside[moved.slices()])
    assert tile.pixels.dtype == dtype


def test_filling_touches_no_valid_pixel_and_keeps_the_type(make_raster):
    values = np.array([[[0, 9], [9, 9]], [[0, 8], [0, 8]]], np.uint8)
    tile = read(make_raster(values=values, nodata=0))
    filled = tile.filled(np.array([100.0, 50.0]))
    assert filled.dtype == np.uint8
    np.testing.assert_array_equal(filled[:, 0, 0], [100, 50])
    np.testing.assert_array_equal(filled[:, tile.valid], values[:, tile.valid])


@pytest.mark.parametrize("bands", [(0,), (4,), (1, 9)])
def test_a_band_that_is_not_there_is_refused(make_raster, bands):
    with pytest.raises(BandMismatch, match="has 3 bands"):
        SceneReader(make_raster(), bands)


def test_a_scene_without_georeference_says_none(make_raster):
    info = inspect_raster(make_raster("plain.png"))
    assert (info.crs, info.transform) == (None, None)
    assert inspect_raster(make_raster()).transform == (500_000, 10, 0, 4_600_000, 0, -10)


def test_a_path_that_names_no_file_is_missing(tmp_path):
    for name in ("no.tif", "."):
        with pytest.raises(MissingFile):
            inspect_raster(tmp_path / name)


@pytest.mark.parametrize("body", [b"", b"just text\n", b"II*\0", b"II*\0\x08\0\0\0\xff\xff"])
def test_a_file_that_is_no_raster_is_refused_by_its_name(tmp_path, body):
    path = tmp_path / "text.tif"
    path.write_bytes(body)
    with pytest.raises(UnreadableRaster, match=r"text\.tif"):
        inspect_raster(path)


@pytest.mark.parametrize("dtype", ["float64", "uint32", "complex64"])
def test_a_pixel_type_no_model_reads_is_refused_with_the_types_that_are(make_raster, dtype):
    path = make_raster(values=np.zeros((1, 4, 4), dtype))
    with pytest.raises(UnreadableRaster, match=rf"{dtype}.*uint8, int16, uint16, float32"):
        inspect_raster(path)


def test_a_size_that_the_bytes_cannot_hold_is_refused_before_reading(tmp_path):
    path = tmp_path / "bomb.tif"
    profile = {"height": 200_000, "width": 200_000, "count": 1, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", tiled=True, sparse_ok=True, **profile):
        pass
    with path.open("r+b") as file:
        file.truncate(400_000)
    with pytest.raises(UnreadableRaster, match="claims 200000 x 200000 x 1 pixels"):
        inspect_raster(path)


def test_the_limit_on_blocks_counts_bands_that_are_stored_together(make_raster, monkeypatch):
    layout = {"blockysize": 64, "compress": "deflate"}
    together = make_raster("pixel.tif", interleave="pixel", **layout)
    apart = make_raster("band.tif", interleave="band", **layout)
    monkeypatch.setattr(info_module, "MAX_BLOCK_BYTES", 2 * 64 * 80)
    inspect_raster(apart)
    with pytest.raises(UnreadableRaster, match="blocks"):
        inspect_raster(together)


@pytest.mark.parametrize("name", ["whole.png", "whole.jpg", "whole.tif"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_file_is_found_also_where_it_is_read_in_one_go(tmp_path, name, share):
    path = tmp_path / name
    Image.fromarray(np.moveaxis(random_pixels((200, 150)), 0, -1)).save(path)
    check_whole(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(UnreadableRaster):  # noqa: PT012
        inspect_raster(path)
        check_whole(path)
    with pytest.raises(UnreadableRaster):
        read(path, Window(0, 0, 200, 150))


@given(
    size=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    tiled=st.booleans(),
    max_bytes=st.integers(1, 100_000),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_the_check_reads_each_pixel_once_in_whole_blocks(tmp_path, size, tiled, max_bytes):
    layout: dict[str, Any] = {"tiled": True, "blockxsize": 32, "blockysize": 16} if tiled else {}
    path = write_raster(tmp_path / "scene.tif", shape=size, **layout)
    with rasterio.open(path) as file:
        windows = list(check._whole_blocks(file, 3, max_bytes))
        rows, cols = file.block_shapes[0]
    seen = np.zeros(size, np.int64)
    for window in windows:
        seen[window.slices()] += 1
        assert window.row % rows == 0 or rows * size[1] * 3 > max_bytes
        assert window.col % cols == 0
        assert window.area * 3 <= max(max_bytes, size[1] * 3)
    assert (seen == 1).all()


ODD = """
import json, re, sys, time, warnings
from pathlib import Path
from satseg_ray.errors import SatsegError
from satseg_ray.geo.raster import SceneReader, Window, check_whole, inspect_raster

warnings.simplefilter("error", RuntimeWarning)

def whole(path):
    inspect_raster(path)
    check_whole(path)

def part(path):
    with SceneReader(path) as reader:
        reader.read(Window(-3, -3, 99, 99))

for name in sys.argv[1:]:
    print(json.dumps([name]), flush=True)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that of this file
    start, outcome, broken = time.process_time(), "opened", []
    for use in (whole, part):
        try:
            use(Path(name))
        except SatsegError as error:
            outcome = f"{type(error).__name__}: {error.problem}"
        except BaseException as error:
            broken.append(f"{use.__name__}: {error!r}")
    seconds = time.process_time() - start
    peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) >> 10
    print(json.dumps([name, outcome, broken, seconds, peak]), flush=True)
"""


def odd_rows(files: list[str], seconds: int = 120) -> list[list[Any]]:
    """What became of each file, read by children; one that dies is followed by another."""
    rows: list[list[Any]] = []
    while files:
        command = [sys.executable, "-c", ODD, *files]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds)
        said = [json.loads(line) for line in done.stdout.splitlines()]
        ended = {row[0]: row for row in said if len(row) > 1}
        rows += ended.values()
        if done.returncode == 0:
            return rows
        died = said[-1][0]
        rows.append([died, "died", [f"code {done.returncode}: {done.stderr[-300:]}"], 0, 0])
        files = files[files.index(died) + 1 :]
    return rows


@pytest.mark.realdata
def test_each_odd_tiff_is_read_or_refused_in_bounded_time_and_memory(realdata, record_property):
    files = [str(path) for path in sorted((realdata / "odd_tiffs").rglob("*")) if path.is_file()]
    rows = odd_rows(files)
    assert [row[0] for row in rows] == files
    assert not [row for row in rows if row[2]], "died, or raised something else than a SatsegError"
    assert not [row for row in rows if row[3] > 5], "took more than five seconds"
    assert not [row for row in rows if row[4] > 512], "took more than 512 MB"
    counts = Counter(row[1].split(":")[0] for row in rows)
    record_property("outcomes", dict(counts))
    assert set(counts) == {"opened", "UnreadableRaster"}
    assert min(counts.values()) > 100


def made_bomb(path: Path, size: tuple[int, int, int], **layout: Any) -> str:
    count, height, width = size
    profile = {"driver": "GTiff", "dtype": "uint8", "sparse_ok": True} | layout
    with rasterio.open(path, "w", count=count, height=height, width=width, **profile):
        pass
    return str(path)


def test_made_bombs_are_refused_before_they_are_read(tmp_path):
    tiles = {"tiled": True, "blockxsize": 16, "blockysize": 16}
    made = {
        "has 40000 bands, the limit is 32": made_bomb(tmp_path / "bands.tif", (40_000, 4, 4)),
        "claims 4000 x 4000 x 1 pixels": made_bomb(
            tmp_path / "strip.tif", (1, 4000, 4000), blockysize=4000
        ),
        "claims 60000 x 60000 x 1 pixels": made_bomb(
            tmp_path / "sparse.tif", (1, 60_000, 60_000), tiled=True, blockxsize=128, blockysize=128
        ),
        "has 1100000 blocks of 1 bytes": made_bomb(
            tmp_path / "strips.tif", (1, 1_100_000, 1), blockysize=1
        ),
        "has 2000000 blocks of 256 bytes": made_bomb(
            tmp_path / "tiles.tif", (32, 4000, 4000), interleave="band", **tiles
        ),
    }
    for row, problem in zip(odd_rows(list(made.values())), made, strict=True):
        assert row[1].startswith(f"UnreadableRaster: {problem}"), row
        assert not row[2]
        assert row[3] < 1
        assert row[4] < 300


def test_a_large_block_and_many_small_ones_are_read_within_the_limit_on_memory(tmp_path):
    layout = {"blockysize": 8_000, "compress": "deflate", "zlevel": 1, "sparse_ok": False}
    block = made_bomb(tmp_path / "block.tif", (1, 8_000, 16_000), **layout)
    tiles = made_bomb(
        tmp_path / "tiles.tif", (1, 8000, 8000), tiled=True, blockxsize=16, blockysize=16
    )
    for row in odd_rows([block, tiles]):
        assert row[1] == "opened", row
        assert row[4] < 512, row


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_the_digest_is_that_of_the_pixels_whatever_their_layout(tmp_path, data):
    size = data.draw(st.integers(1, 700)), data.draw(st.integers(1, 1100))
    dtype = data.draw(st.sampled_from(["uint8", "uint16", "float32"]))
    values = random_pixels(size, data.draw(st.integers(1, 3)), dtype)
    side = data.draw(st.sampled_from([16, 48, 256, 512, 1024]))
    layout: dict[str, Any] = data.draw(
        st.sampled_from(
            [
                {"tiled": True, "blockxsize": side, "blockysize": side},
                {"blockysize": side},
                {"tiled": True, "blockxsize": side, "blockysize": 64, "interleave": "band"},
            ]
        )
    )
    plain = write_raster(tmp_path / "a.tif", values)
    other = write_raster(tmp_path / "b.tif", values, compress="deflate", zlevel=1, **layout)
    budget = data.draw(st.integers(1, 1 << 20).filter(lambda b: b > 20_000 or values.size < 50_000))
    digest = check_whole(plain)
    assert check_whole(other, budget) == digest
    changed = values.copy()
    place = tuple(data.draw(st.integers(0, length - 1)) for length in values.shape)
    changed[place] += 1
    assert check_whole(write_raster(tmp_path / "c.tif", changed)) != digest


def test_the_digest_tells_shapes_and_types_apart(tmp_path):
    values = np.zeros((2, 4, 6), np.uint8)
    kinds: list[np.ndarray] = [values, values.astype(np.int16)]
    kinds += [values.reshape(2, 6, 4), values.reshape(4, 2, 6)]
    paths = [write_raster(tmp_path / f"{i}.tif", kind) for i, kind in enumerate(kinds)]
    assert len({check_whole(path) for path in paths}) == 4


def test_reading_one_window_opens_no_other_part_of_the_file(make_raster):
    path = make_raster(shape=(64, 64), bands=1, tiled=True, blockxsize=16, blockysize=16)
    with rasterio.open(path) as file:
        first = file.read(1, window=RasterioWindow(0, 0, 16, 16))
    body = path.read_bytes()
    path.write_bytes(body[: len(body) - 300])  # damages the last block alone
    np.testing.assert_array_equal(read(path, Window(0, 0, 16, 16)).pixels[0], first)
    with pytest.raises(UnreadableRaster):
        check_whole(path)
