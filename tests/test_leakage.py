"""No pixel and no ground in two splits, for any size, stride, buffer and way of splitting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.transform import Affine, from_origin
from rasterio.warp import transform

from satseg_ray.geo.grid import Lattice, Window
from satseg_ray.geo.raster import inspect_raster
from satseg_ray.patches.count import Band, Counting, count_band, footprint_of, whole_scene
from satseg_ray.patches.ground import (
    Footprint,
    Patches,
    carried,
    known,
    neighbours,
    on_ground_of,
    shared_share,
)
from satseg_ray.patches.plan import PatchPlan, Planned, plan_patches
from satseg_ray.patches.sample import SampleSpec, Sampling
from satseg_ray.patches.split import PatchKey, SceneSize, SplitSpec
from tests.factories import write_raster

RARE = SampleSpec(rare=["0"], rare_per_cell=2)
UTM31, UTM32 = (CRS.from_epsg(code).to_wkt() for code in (32631, 32632))
MARKS = {"train": 1, "val": 2, "test": 4}


def sized(
    name: str, size: tuple[int, int], patch: int, seed: int = 0, place: Footprint | None = None
) -> SceneSize:
    """A scene of classes in blobs, with three pixels of a rare class in each cell."""
    cells = Lattice.of(*size, patch, patch)
    shape = cells.rows.count, cells.cols.count
    rng = np.random.default_rng((seed, *size))
    kinds = rng.integers(0, 4, (shape[0] // 2 + 1, shape[1] // 2 + 1)).repeat(2, 0).repeat(2, 1)
    counts = np.eye(4, dtype=np.int64)[kinds[: shape[0], : shape[1]]] * patch * patch
    spots = rng.integers(0, size, (3 * shape[0] * shape[1], 2)).tolist()
    return SceneSize(name, *size, counts, place, tuple((r, c) for r, c in spots))


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[SceneSize], PatchPlan]:
    patch = draw(st.integers(8, 40))
    side = st.integers(1, 260)
    sizes = draw(st.lists(st.tuples(side, side), min_size=1, max_size=4))
    scenes = [sized(f"s{i}", size, patch, draw(st.integers(0, 9))) for i, size in enumerate(sizes)]
    by = draw(st.sampled_from(["blocks", "blocks", "scenes", "given"]))
    named = {s.name: draw(st.sampled_from(["train", "val", "test"])) for s in scenes}
    split = SplitSpec(
        by=by,
        val=draw(st.floats(0, 0.4)),
        test=draw(st.floats(0, 0.4)),
        seed=draw(st.integers(0, 1000)),
        buffer=draw(st.one_of(st.none(), st.just(0), st.integers(0, 3 * patch))),
        given=named if by == "given" else {},
    )
    stride = draw(st.integers(patch // 3, patch))
    return scenes, PatchPlan(patch, stride, split, draw(st.sampled_from([SampleSpec(), RARE])))


def painted(keys: Sequence[PatchKey], scene: SceneSize, split: str, grown: int = 0) -> np.ndarray:
    """How many patches of a split cover each pixel of a scene and of what lies around it."""
    edge = 500
    canvas = np.zeros((scene.height + 2 * edge, scene.width + 2 * edge), np.int16)
    for key in keys:
        if key.scene == scene.name and key.split == split:
            w = key.window.grown(grown)
            canvas[edge + w.row : edge + w.row_stop, edge + w.col : edge + w.col_stop] += 1
    return canvas


@settings(max_examples=80)
@given(cases())
def test_no_pixel_is_in_two_splits_and_training_keeps_the_buffer(case):
    scenes, plan = case
    keys = plan_patches(scenes, plan).keys
    buffer = plan.patch_size if plan.split.buffer is None else plan.split.buffer
    assert len(set(keys)) == len(keys)
    for scene in scenes:
        val, test = (painted(keys, scene, split) for split in ("val", "test"))
        train = painted(keys, scene, "train", grown=buffer)
        assert (val + test).max() <= 1, "held-out patches overlap"
        assert not ((train > 0) & (val + test > 0)).any()


@settings(max_examples=40)
@given(cases())
def test_patches_on_rare_pixels_lie_within_the_scene_and_hold_one(case):
    scenes, plan = case
    keys = plan_patches(scenes, plan).keys
    sizes = {scene.name: scene for scene in scenes}
    lattice = {(k.scene, k.window) for k in keys if off_lattice(k, plan, sizes[k.scene]) is False}
    extra = [k for k in keys if k.split == "train" and (k.scene, k.window) not in lattice]
    for key in extra:
        size, w = sizes[key.scene], key.window
        assert w.row_stop <= max(size.height, plan.patch_size)
        assert w.col_stop <= max(size.width, plan.patch_size)
        assert any(w.row <= r < w.row_stop and w.col <= c < w.col_stop for r, c in size.anchors)


def off_lattice(key: PatchKey, plan: PatchPlan, scene: SceneSize) -> bool:
    windows = Lattice.of(scene.height, scene.width, plan.patch_size, plan.stride)
    row, col = key.window.row, key.window.col
    last = windows.window(windows.rows.count - 1, windows.cols.count - 1)
    return bool(row % plan.stride or col % plan.stride or row > last.row or col > last.col)


# --- the same ground in several scenes


def covered(
    keys: Sequence[PatchKey], scene: SceneSize, points: np.ndarray, crs: str, grown: int
) -> np.ndarray:
    """Bits of the splits whose patches of a scene cover ground points; training grown."""
    assert scene.footprint is not None
    xs, ys = transform(crs, scene.footprint.crs, points[:, 0], points[:, 1])
    back = ~Affine.from_gdal(*scene.footprint.transform)
    east, north = np.array(xs), np.array(ys)
    cols = back.a * east + back.b * north + back.c
    rows = back.d * east + back.e * north + back.f
    bits = np.zeros(len(points), np.int64)
    for key in keys:
        if key.scene == scene.name:
            w = key.window.grown(grown if key.split == "train" else 0)
            # Strictly within: neighbours may have a hundredth of a pixel in common
            inside = (rows > w.row + 0.02) & (rows < w.row_stop - 0.02)
            inside &= (cols > w.col + 0.02) & (cols < w.col_stop - 0.02)
            bits[inside] |= MARKS[key.split]
    return bits


def leaks(planned: Planned, scenes: Sequence[SceneSize], plan: PatchPlan) -> int:
    """Count ground points that patches of two splits cover, training grown by the buffer."""
    first = scenes[0].footprint
    assert first is not None
    rng = np.random.default_rng(0)
    corners = [np.array(list(product((0, s.width), (0, s.height))), float) for s in scenes]
    ground = []
    for scene, own in zip(scenes, corners, strict=True):
        assert scene.footprint is not None
        there = scene.footprint.to_ground(own)
        xs, ys = transform(scene.footprint.crs, first.crs, there[:, 0], there[:, 1])
        ground.append(np.stack([xs, ys], axis=-1))
    low, high = np.concatenate(ground).min(axis=0), np.concatenate(ground).max(axis=0)
    points = rng.uniform(low, high, (4000, 2))
    grown = plan.buffer
    held = np.zeros(len(points), np.int64)
    train = np.zeros(len(points), np.int64)
    for scene in scenes:
        bits = covered(planned.keys, scene, points, first.crs, grown)
        train |= bits & 1
        held |= bits & 6
    return int(((train > 0) & (held > 0)).sum() + (held == 6).sum())


def shifted(crs: str, x: float, y: float, pixel: float, turn: float = 0.0) -> Footprint:
    matrix = Affine.translation(x, y) @ Affine.rotation(turn) @ Affine.scale(pixel, -pixel)
    return Footprint(crs, tuple(matrix.to_gdal()))


places = st.builds(
    shifted,
    st.just(UTM31),
    st.floats(500_000, 501_500),
    st.floats(4_599_000, 4_600_000),
    st.sampled_from([10.0, 10.0, 7.3, 20.0]),
    st.sampled_from([0.0, 0.0, 0.0, 12.5]),
)


@settings(max_examples=40)
@given(
    st.lists(st.tuples(places, st.integers(60, 200), st.integers(60, 200)), min_size=2, max_size=4),
    st.sampled_from(["blocks", "scenes", "given"]),
    st.one_of(st.none(), st.integers(0, 30)),
    st.integers(0, 50),
)
def test_no_ground_is_in_two_splits_whatever_the_grids(scenes, by, buffer, seed):
    sizes = [
        sized(f"s{i}", (height, width), 16, seed, place)
        for i, (place, height, width) in enumerate(scenes)
    ]
    named = {s.name: ("test", "train", "val", "train")[i] for i, s in enumerate(sizes)}
    split = SplitSpec(by=by, buffer=buffer, seed=seed, given=named if by == "given" else {})
    plan = PatchPlan(16, 8, split, RARE)
    assert leaks(plan_patches(sizes, plan), sizes, plan) == 0


@settings(max_examples=15)
@given(st.floats(-400, 400), st.floats(-400, 400), st.integers(0, 20))
def test_no_ground_is_in_two_splits_across_utm_zones(dx, dy, seed):
    xs, ys = transform(UTM31, UTM32, [740_000.0], [4_600_000.0])
    sizes = [
        sized("west", (200, 240), 16, seed, shifted(UTM31, 740_000, 4_600_000, 10)),
        sized("east", (220, 200), 16, seed, shifted(UTM32, xs[0] + dx, ys[0] + dy, 10)),
    ]
    plan = PatchPlan(16, 8, SplitSpec(seed=seed))
    planned = plan_patches(sizes, plan)
    assert leaks(planned, sizes, plan) == 0
    splits = {(k.scene, k.split) for k in planned.keys}
    assert {("west", "test"), ("east", "test"), ("west", "train"), ("east", "train")} <= splits


ARCTIC, UPS, WORLD, UTM60, UTM1 = (
    CRS.from_epsg(code).to_wkt() for code in (3413, 32661, 4326, 32660, 32601)
)


@pytest.mark.parametrize("other", [ARCTIC, UPS])
@pytest.mark.parametrize("shift", [0, 7_300, 29_000])
def test_no_ground_is_in_two_splits_around_the_pole(other, shift):
    (x,), (y,) = transform(ARCTIC, other, [0.0], [0.0])
    sizes = [
        sized("wide", (600, 640), 16, 1, shifted(ARCTIC, -300_000, 300_000, 1000)),
        sized("small", (90, 100), 16, 2, shifted(other, x - 45_000 + shift, y + 45_000, 1000)),
    ]
    for by in ("blocks", "scenes"):
        plan = PatchPlan(16, 16, SplitSpec(by=by, val=0.2, test=0.3))
        assert leaks(plan_patches(sizes, plan), sizes, plan) == 0


def test_a_pole_inside_a_scene_is_ground_of_one_in_degrees():
    around = shifted(ARCTIC, -300_000, 300_000, 1000)
    # Two kilometres around the pole, which no side of the patch comes near
    degrees = Footprint(WORLD, (10.0, 0.0005, 0.0, 90.0, 0.0, -0.0005))
    windows = [Window(0, 0, 600, 600), Window(0, 0, 40, 100)]
    assert neighbours(windows, [around, degrees]) == [(0, 1)]
    pole = Patches(np.array([[290, 290, 20, 20]]), around)
    near = Patches(np.array([[0, 0, 40, 100]]), degrees)
    assert on_ground_of(near, pole).all()
    assert on_ground_of(pole, near).all()


def test_ground_that_bulges_between_the_points_looked_at_is_shared():
    wide = Footprint(WORLD, (0.0, 0.1, 0.0, 10.0, 0.0, -0.1))
    small = Footprint(WORLD, (89.9, 0.001, 0.0, 0.1, 0.0, -0.001))
    windows = [Window(0, 0, 200, 1600), Window(0, 0, 200, 200)]
    assert neighbours(windows, [wide, small]) == [(0, 1)]


@pytest.mark.parametrize("turn", [-360.0, 0.0, 360.0])
def test_once_around_the_earth_is_the_same_ground(turn):
    here = Footprint(WORLD, (179.5, 0.001, 0.0, 10.0, 0.0, -0.001))
    there = Footprint(WORLD, (179.6 + turn, 0.001, 0.0, 10.0, 0.0, -0.001))
    window = Window(0, 0, 1000, 1000)
    assert neighbours([window, window], [here, there]) == [(0, 1)]
    assert shared_share(window, here, window, there) == pytest.approx(0.9)
    far, near = ([[0, 500, 50, 50]], [[0, 390, 50, 50]])
    assert on_ground_of(Patches(np.array(far), here), Patches(np.array(near), there)).all()
    apart = Patches(np.array([[0, 500, 50, 50]]), there)
    assert not on_ground_of(Patches(np.array(far), here), apart).any()
    corner = np.array([[0.0, 0.0]])
    np.testing.assert_allclose(carried(corner, there, here), [[100, 0]], atol=1e-6)


def test_no_ground_is_in_two_splits_across_the_date_line():
    (x,), (y,) = transform(UTM60, UTM1, [820_000.0], [1_000_000.0])
    sizes = [
        sized("west", (200, 260), 16, 1, shifted(UTM60, 820_000, 1_000_000, 10)),
        sized("east", (220, 240), 16, 2, shifted(UTM1, x - 700, y + 300, 10)),
    ]
    for seed in range(4):
        plan = PatchPlan(16, 8, SplitSpec(seed=seed))
        assert leaks(plan_patches(sizes, plan), sizes, plan) == 0


@pytest.mark.parametrize("by", ["blocks", "scenes"])
def test_scenes_of_the_same_pixels_are_in_the_same_splits(by):
    sizes = [sized(f"s{i}", (160, 160), 16, i) for i in range(8)]
    same = [
        replace(one, pixels="cafe" if i in (1, 4, 6) else str(i)) for i, one in enumerate(sizes)
    ]
    copies = [replace(same[i], classes=same[1].classes) for i in (1, 4, 6)]
    scenes = [copies.pop(0) if s.pixels == "cafe" else s for s in same]
    for seed in range(6):
        planned = plan_patches(scenes, PatchPlan(16, 16, SplitSpec(by=by, seed=seed, test=0.4)))
        found = [
            {(k.split, k.window) for k in planned.keys if k.scene == f"s{i}"} for i in (1, 4, 6)
        ]
        assert found[0] == found[1] == found[2]
        assert found[0]


def test_neighbours_that_only_touch_are_not_the_same_ground():
    left = sized("left", (160, 160), 16, 0, shifted(UTM31, 500_000, 4_600_000, 10))
    right = sized("right", (160, 160), 16, 0, shifted(UTM31, 501_600.000001, 4_600_000, 10))
    split = SplitSpec(by="given", given={"left": "train", "right": "test"}, buffer=0)
    planned = plan_patches([left, right], PatchPlan(16, 16, split))
    assert len(planned.keys) == 200
    assert planned.findings == []


def test_a_copy_of_a_scene_holds_out_the_same_ground_and_loses_nothing():
    place = shifted(UTM31, 500_000, 4_600_000, 10)
    one, two = (sized(name, (330, 410), 32, 0, place) for name in "ab")
    planned = plan_patches([one, two], PatchPlan(32, 16))
    found = {name: {(k.split, k.window) for k in planned.keys if k.scene == name} for name in "ab"}
    assert found["a"] == found["b"]
    assert not [f for f in planned.findings if f.code == "same-ground"]


def test_scenes_with_a_transform_and_no_crs_have_ground_in_common(tmp_path):
    counting = Counting(32, 2, Sampling(SampleSpec()))
    scenes = []
    for name, x in (("a", 0), ("b", 700)):
        place = {"crs": None, "transform": from_origin(500_000 + x, 4_600_000, 10, 10)}
        labels = (np.indices((200, 210)).sum(axis=0) // 20 % 2).astype(np.uint8)
        path = write_raster(tmp_path / f"{name}.tif", labels, **place)
        scenes.append(whole_scene([count_band(path, Band(name, 0, 7), counting)], 200, 210))
    plan = PatchPlan(32, 16)
    planned = plan_patches(scenes, plan, ("x", "y"))
    assert {key.scene for key in planned.keys if key.split == "train"} == {"a", "b"}
    somewhere = [replace(s, footprint=replace(known(s.footprint), crs=UTM31)) for s in scenes]
    assert leaks(planned, somewhere, plan) == 0


def test_scenes_without_a_place_are_distinct():
    names = {"a": "train", "b": "test"}
    plan = PatchPlan(32, 32, SplitSpec(by="given", given=names))
    planned = plan_patches([sized(name, (330, 410), 32) for name in names], plan)
    assert len(planned.keys) == 2 * 11 * 13


def test_by_scenes_dates_of_one_place_stay_together():
    dates = [
        sized(
            f"{p}{date}",
            (100, 120),
            16,
            p,
            shifted(UTM31, 5e5 + 9e4 * p + date, 46e5, 10),
        )
        for p in range(6)
        for date in range(3)
    ]
    planned = plan_patches(dates, PatchPlan(16, 16, SplitSpec(by="scenes", val=0.2, test=0.2)))
    splits = {
        place: {k.split for k in planned.keys if k.scene[0] == str(place)} for place in range(6)
    }
    assert all(len(found) == 1 for found in splits.values())
    assert {split for found in splits.values() for split in found} == {"train", "val", "test"}


def test_a_mosaic_of_touching_chips_keeps_most_of_its_training():
    chips = [
        sized(
            f"{r:02d}-{c:02d}",
            (32, 32),
            32,
            r * 20 + c,
            shifted(UTM31, 5e5 + 320 * c, 46e5 - 320 * r, 10),
        )
        for r in range(20)
        for c in range(20)
    ]
    planned = plan_patches(chips, PatchPlan(32, 32))
    kept = sum(k.split == "train" for k in planned.keys)
    assert kept > 400 * 0.7 * 0.7
    scenes = chips[::7]
    assert leaks(planned, scenes, PatchPlan(32, 32)) == 0


@pytest.mark.realdata
def test_four_dates_of_one_place_share_no_ground_between_splits(realdata: Path):
    files = sorted((realdata / "naip_timeseries").rglob("*.tif"))
    assert len(files) >= 4
    patch = 64
    scenes = []
    for path in files:
        info = inspect_raster(path)
        own = sized(path.stem, (info.height, info.width), patch, 1, footprint_of(path))
        scenes.append(own)
    plan = PatchPlan(patch, patch // 2)
    planned = plan_patches(scenes, plan)
    assert leaks(planned, scenes, plan) == 0
    alone = [
        key for scene in scenes for key in plan_patches([scene], plan).keys if key.split == "train"
    ]
    kept = sum(key.split == "train" for key in planned.keys)
    assert kept > 0.8 * len(alone)
