"""Strips, previews and blending: what a tile sees is what the scene holds, whatever the tiling."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from satseg_ray.classes import IGNORE, ClassDef, ClassTable
from satseg_ray.geo.blend import RowBlender, best_class, taper
from satseg_ray.geo.grid import Lattice, TileGrid, Window
from satseg_ray.geo.quicklook import Decimation, Preview, colored, overlaid, stretched
from satseg_ray.geo.raster import SceneReader
from satseg_ray.geo.strips import batched, cut_patches, read_strips
from tests.factories import random_pixels, write_raster

SIZE = (83, 61)
lengths = st.integers(1, 90)
patches = st.integers(4, 24).flatmap(lambda p: st.tuples(st.just(p), st.integers(1, p)))


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> tuple[Path, np.ndarray]:
    """A scene of prime size, three bands, with holes."""
    values = random_pixels(SIZE, 3, "uint16") + 1
    values[:, 10:30, 20:25] = 0
    path = tmp_path_factory.mktemp("scene") / "scene.tif"
    return write_raster(path, values, nodata=0, tiled=True, blockxsize=16, blockysize=32), values


def core_of(data: st.DataObject) -> Window:
    grid = TileGrid(*SIZE, data.draw(lengths), data.draw(lengths))
    return data.draw(st.sampled_from(grid.cores))


@given(data=st.data(), shape=patches)
@settings(max_examples=40)
def test_strips_hold_the_pixels_of_one_read_of_the_bounding_box(scene, data, shape):
    lattice = Lattice.of(*SIZE, *shape)
    block = lattice.covering(core_of(data))
    bounds = lattice.bounds(block)
    fill = np.array([5.0, 6.0, 7.0])
    with SceneReader(scene[0]) as reader:
        whole = reader.read(bounds)
        strips = list(read_strips(reader, lattice, block))
    filled = np.moveaxis(whole.filled(fill), 0, -1)
    assert [s.tile.window.row for s in strips] == [lattice.rows.start(r) for r in block.rows]
    for strip in strips:
        rows, cols = strip.tile.window.relative_to(bounds).slices()
        np.testing.assert_array_equal(strip.tile.pixels, whole.pixels[:, rows, cols])
        np.testing.assert_array_equal(strip.tile.valid, whole.valid[rows, cols])
        cut = cut_patches(strip, lattice, block.cols, fill)
        for col, patch in zip(block.cols, cut, strict=True):
            left = lattice.cols.start(col) - bounds.col
            np.testing.assert_array_equal(patch, filled[rows, left : left + lattice.patch])


@given(data=st.data(), shape=patches)
def test_each_row_of_a_tile_is_read_once(scene, data, shape):
    lattice = Lattice.of(*SIZE, *shape)
    block = lattice.covering(core_of(data))
    bounds = lattice.bounds(block)
    with SceneReader(scene[0]) as reader:
        fresh = [strip.fresh for strip in read_strips(reader, lattice, block)]
    rows = [row for window in fresh for row in range(window.row, window.row_stop)]
    assert rows == list(range(bounds.row, bounds.row_stop))


@given(data=st.data(), shape=patches, step=st.integers(1, 40))
@settings(max_examples=30)
def test_previews_of_all_cores_are_every_step_th_pixel_of_the_scene(scene, data, shape, step):
    path, values = scene
    lattice = Lattice.of(*SIZE, *shape)
    decimation = Decimation(step)
    grid = TileGrid(*SIZE, data.draw(st.integers(20, 90)), data.draw(st.integers(20, 90)))
    wanted = values[[2, 0], ::step, ::step]
    picture = np.zeros_like(wanted)
    seen = np.zeros(wanted.shape[1:], np.int64)
    with SceneReader(path) as reader:
        for core in grid.cores:
            preview = Preview(core, decimation, (2, 0))
            for strip in read_strips(reader, lattice, lattice.covering(core)):
                preview.see(strip)
            rows, cols = decimation.window(core).slices()
            assert preview.image is not None
            picture[:, rows, cols] = preview.image
            seen[rows, cols] += 1
    np.testing.assert_array_equal(picture, wanted)
    assert (seen == 1).all()


corners, sides = st.integers(0, 99), st.integers(1, 50)


@given(corners, corners, sides, sides, st.integers(1, 60))
def test_the_offsets_of_a_window_pick_its_pixels_of_the_picture(row, col, height, width, step):
    scene = np.arange(150 * 150).reshape(150, 150)
    window, decimation = Window(row, col, height, width), Decimation(step)
    picked = scene[window.slices()][decimation.offsets(window)]
    np.testing.assert_array_equal(picked, scene[::step, ::step][decimation.window(window).slices()])


@given(st.integers(1, 10_000), st.integers(1, 10_000), st.integers(1, 2000))
def test_a_picture_fits_the_side_asked_for(height, width, side):
    step = Decimation.to_fit(height, width, side)
    picture = step.window(Window(0, 0, height, width))
    assert max(picture.height, picture.width) <= side
    assert step.step == 1 or max(height, width) > side


def test_batches_hold_every_patch_in_order_and_only_the_last_is_short():
    cut = [np.full((2, 2, 1), i, np.uint8) for i in range(7)]
    groups = list(batched(iter(cut), 3))
    assert [len(group) for group in groups] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(groups), np.stack(cut))


@given(st.integers(1, 600))
def test_the_taper_is_above_zero_everywhere_and_symmetric(side):
    weights = taper(side)
    assert weights.min() > 0
    assert weights.max() <= 1
    np.testing.assert_array_equal(weights, weights.T)
    np.testing.assert_allclose(weights, weights[::-1, ::-1], rtol=1e-4)


@given(data=st.data(), shape=patches, classes=st.integers(1, 4), batch=st.integers(1, 5))
@settings(max_examples=40)
def test_blending_equals_adding_weighted_patches_in_one_array(data, shape, classes, batch):
    lattice = Lattice.of(*SIZE, *shape)
    block = lattice.covering(core_of(data))
    bounds = lattice.bounds(block)
    rng = np.random.default_rng(block.count)
    scores = rng.random((block.count, shape[0], shape[0], classes), np.float32)
    wanted = np.zeros((bounds.height, bounds.width, classes), np.float32)
    places = [lattice.window(r, c).relative_to(bounds) for r in block.rows for c in block.cols]
    for window, patch in zip(places, scores, strict=True):
        wanted[window.slices()] += patch * taper(shape[0])[..., None]
    blender = RowBlender(lattice, block, classes)
    got = np.full_like(wanted, np.nan)
    for start in range(0, block.count, batch):
        for window, sums in blender.add(scores[start : start + batch]):
            got[window.relative_to(bounds).slices()] = sums
    np.testing.assert_array_equal(got, wanted)


@given(st.integers(1, 6), st.integers(0, 9))
def test_the_best_class_is_the_first_of_the_highest(classes, seed):
    sums = np.random.default_rng(seed).integers(0, 3, (9, 8, classes)).astype(np.float32)
    np.testing.assert_array_equal(best_class(sums), sums.argmax(axis=-1))


@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_a_stretched_picture_is_white_where_no_pixel_is_valid(bands, dtype):
    image = random_pixels((9, 7), bands, dtype)
    valid = np.ones((9, 7), np.bool_)
    valid[0] = False
    picture = stretched(image, valid)
    assert (picture[0] == 255).all()
    assert picture.shape == (9, 7, 3)
    assert stretched(image, np.zeros_like(valid)).min() == 255
    assert stretched(np.zeros_like(image), valid)[1:].max() == 0


def test_classes_have_their_colours_and_unlabelled_pixels_keep_the_image():
    table = ClassTable((ClassDef(9, "a", "#FF0000"), ClassDef(1, "b", "#0000FF")))
    classes = np.array([[0, 1, IGNORE]], np.uint8)
    np.testing.assert_array_equal(
        colored(classes, table), [[[255, 0, 0], [0, 0, 255], [155, 155, 155]]]
    )
    image = np.full((1, 3, 3), 100, np.uint8)
    mixed = overlaid(image, classes, table)
    np.testing.assert_array_equal(mixed, [[[177, 50, 50], [50, 50, 177], [100, 100, 100]]])
