"""The split into train, val and test: no pixel of a neighbour leaks, and the shares hold."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from satseg_ray.data.cutting import bounding_box, plan_units
from satseg_ray.errors import ConfigError
from satseg_ray.geo.grid import Lattice, Window
from satseg_ray.patches.plan import PatchPlan
from satseg_ray.patches.plan import plan_patches as planned
from satseg_ray.patches.split import PatchKey, SceneSize, SplitSpec


def plan_patches(scenes: list[SceneSize], plan: PatchPlan) -> list[PatchKey]:
    return planned(scenes, plan).keys


splits = st.builds(
    SplitSpec, val=st.floats(0, 0.4), test=st.floats(0, 0.4), seed=st.integers(0, 1000)
)
plans = st.integers(8, 40).flatmap(
    lambda side: st.builds(
        PatchPlan,
        patch_size=st.just(side),
        stride=st.integers(side // 3, side),
        split=splits,
    )
)


def sized(name: str, height: int, width: int, patch: int, seed: int = 0) -> SceneSize:
    """Return a scene whose classes come in blobs: each cell has one of three, or none."""
    cells = Lattice.of(height, width, patch, patch)
    shape = (cells.rows.count, cells.cols.count)
    rng = np.random.default_rng((seed, len(name), height, width))
    kinds = rng.integers(0, 4, (shape[0] // 3 + 1, shape[1] // 3 + 1)).repeat(3, 0).repeat(3, 1)
    counts = np.eye(4, dtype=np.int64)[kinds[: shape[0], : shape[1]]] * patch * patch
    return SceneSize(name, height, width, counts)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[SceneSize], PatchPlan]:
    plan, seed = draw(plans), draw(st.integers(0, 99))
    side = st.integers(1, 250)
    sizes = draw(st.lists(st.tuples(side, side), min_size=1, max_size=3))
    scenes = [
        sized(f"s{i}", size[0], size[1], plan.patch_size, seed) for i, size in enumerate(sizes)
    ]
    return scenes, plan


def gap(a: Window, b: Window) -> int:
    """Pixels between two windows on the axis where they are further apart."""
    rows = max(b.row - a.row_stop, a.row - b.row_stop)
    return max(rows, b.col - a.col_stop, a.col - b.col_stop)


def by_scene(keys: list[PatchKey]) -> dict[str, list[PatchKey]]:
    return {name: [k for k in keys if k.scene == name] for name in {k.scene for k in keys}}


@settings(max_examples=30)
@given(cases())
def test_training_patches_stay_a_patch_away_from_what_is_held_out(case):
    scenes, plan = case
    for keys in by_scene(plan_patches(scenes, plan)).values():
        train = [k.window for k in keys if k.split == "train"]
        held = [k.window for k in keys if k.split != "train"]
        if train and held:
            corners = np.array([(w.row, w.col) for w in held])
            for window in train:
                apart = np.abs(corners - (window.row, window.col)).max(axis=1)
                assert apart.min() >= 2 * plan.patch_size


@settings(max_examples=30)
@given(cases())
def test_held_out_patches_never_share_a_pixel(case):
    scenes, plan = case
    for keys in by_scene(plan_patches(scenes, plan)).values():
        held = [k.window for k in keys if k.split != "train"]
        assert all(gap(a, b) >= 0 for a, b in combinations(held[:60], 2))
        assert len(set(held)) == len(held)
        assert all(w.row % plan.patch_size == w.col % plan.patch_size == 0 for w in held)


@settings(max_examples=30)
@given(cases())
def test_every_patch_starts_in_its_scene_and_is_planned_once(case):
    scenes, plan = case
    keys = plan_patches(scenes, plan)
    sizes = {scene.name: scene for scene in scenes}
    assert len(set(keys)) == len(keys)
    for key in keys:
        size = sizes[key.scene]
        assert (key.window.height, key.window.width) == (plan.patch_size, plan.patch_size)
        assert 0 <= key.window.row < size.height
        assert 0 <= key.window.col < size.width


@settings(max_examples=30)
@given(cases(), st.randoms(use_true_random=False))
def test_the_order_of_the_scenes_does_not_matter(case, random):
    scenes, plan = case
    shuffled = list(scenes)
    random.shuffle(shuffled)
    assert plan_patches(shuffled, plan) == plan_patches(scenes, plan)


def test_another_seed_holds_out_others_of_the_blocks_that_resemble_the_whole_alike():
    cells = Lattice.of(4000, 3000, 256, 256)
    even = np.ones((cells.rows.count, cells.cols.count, 3), np.int64)
    scene = [SceneSize("a", 4000, 3000, even)]
    plans = {
        tuple(plan_patches(scene, PatchPlan(256, 256, SplitSpec(seed=seed)))) for seed in range(8)
    }
    assert len(plans) > 1


@given(
    st.lists(st.tuples(st.integers(1500, 4000), st.integers(1500, 4000)), min_size=1, max_size=3),
    st.floats(0.05, 0.3),
    st.floats(0.05, 0.3),
    st.integers(0, 50),
)
@settings(max_examples=30)
def test_the_shares_asked_for_hold_on_large_scenes(sizes, val, test, seed):
    plan = PatchPlan(100, 100, SplitSpec(val=val, test=test, seed=seed))
    scenes = [sized(str(i), size[0], size[1], 100) for i, size in enumerate(sizes)]
    counts = Counter(key.split for key in plan_patches(scenes, plan))
    cells = sum(Lattice.of(s.height, s.width, 100, 100).count for s in scenes)
    assert abs(counts["test"] / cells - test) < 0.01
    assert abs(counts["val"] / cells - val) < 0.01
    assert counts["train"] > 0


@given(st.integers(60, 200), st.integers(1, 3), st.integers(1, 3), splits)
@settings(max_examples=40)
def test_small_chips_go_whole_to_one_split_and_the_shares_hold(count, rows, cols, split):
    side = 32
    scenes = [sized(f"chip{i:03d}", rows * side, cols * side, side) for i in range(count)]
    keys = plan_patches(scenes, PatchPlan(side, side, split))
    chips = {name: {k.split for k in chip} for name, chip in by_scene(keys).items()}
    assert len(chips) == count
    assert all(len(found) == 1 for found in chips.values())
    counts = Counter(next(iter(found)) for found in chips.values())
    assert abs(counts["test"] - split.test * count) <= 1
    assert abs(counts["val"] - split.val * count) <= 2


def test_nothing_is_held_out_where_nothing_is_asked_for():
    plan = PatchPlan(64, 32, SplitSpec(val=0, test=0))
    keys = plan_patches([sized("a", 500, 700, 64)], plan)
    assert [k.window for k in keys] == list(Lattice.of(500, 700, 64, 32).windows())
    assert {k.split for k in keys} == {"train"}


@pytest.mark.parametrize("shares", [{"val": 0.5, "test": 0.5}, {"val": -0.1}, {"seed": -1}])
def test_shares_that_leave_nothing_for_training_are_refused(shares):
    with pytest.raises(ValidationError):
        SplitSpec(**shares)


@settings(max_examples=30)
@given(cases(), st.integers(1, 200))
def test_units_hold_each_patch_once_and_are_bounded(case, side):
    scenes, plan = case
    keys = plan_patches(scenes, plan)
    units = plan_units(keys, side)
    assert sorted(key for unit in units for key in unit) == keys
    for unit in units:
        box = bounding_box([key.window for key in unit])
        assert len({key.scene for key in unit}) == 1
        assert max(box.height, box.width) < side + plan.patch_size


def test_blocks_held_out_resemble_the_whole_where_the_classes_are_known():
    classes = np.zeros((8, 12, 3), np.int64)
    classes[:, :6, 0] = 1000
    classes[:, 6:, 1] = 1000
    plan = PatchPlan(64, 64, SplitSpec(val=0.1, test=0.2, seed=1))
    keys = plan_patches([SceneSize("halves", 8 * 64, 12 * 64, classes)], plan)
    columns = [key.window.col // 64 for key in keys if key.split == "test"]
    left = sum(column < 6 for column in columns) / len(columns)
    assert 0.3 <= left <= 0.7


@given(st.integers(0, 200))
def test_chips_taken_whole_leave_the_next_scenes_their_training(seed):
    scenes = [sized(f"chip{i}", 3 * 32, 3 * 32, 32) for i in range(3)]
    scenes.append(sized("strip", 4 * 32, 2 * 32, 32))
    keys = plan_patches(scenes, PatchPlan(32, 32, SplitSpec(val=0.1, test=0.2, seed=seed)))
    held = Counter(key.split for key in keys)
    assert held["test"] <= 0.2 * 35 + 9 / 2 + 1
    strip = [key for key in keys if key.scene == "strip" and key.split != "train"]
    assert len(strip) <= 6


# --- every class in every split


def of_cells(name: str, kinds: np.ndarray, side: int = 32, classes: int = 3) -> SceneSize:
    """A scene whose cells hold one class each."""
    counts = np.eye(classes + 1, dtype=np.int64)[kinds] * side * side
    return SceneSize(name, kinds.shape[0] * side, kinds.shape[1] * side, counts)


def classes_in(keys: list[PatchKey], scenes: list[SceneSize], side: int = 32) -> dict[str, set]:
    kinds = {scene.name: scene.classes.argmax(axis=2) for scene in scenes}
    found: dict[str, set] = {"train": set(), "val": set(), "test": set()}
    for key in keys:
        kind = kinds[key.scene][key.window.row // side, key.window.col // side]
        found[key.split].add(int(kind))
    return found


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=3, max_size=6, unique=True),
    st.integers(0, 30),
)
def test_a_class_in_three_cells_that_lie_apart_is_in_every_split(spots, seed):
    kinds = np.zeros((16, 16), int)
    kinds[:, 8:] = 1
    for row, col in spots:
        kinds[4 * row + 1, 4 * col + 2] = 2
    scenes = [of_cells("a", kinds)]
    plan = PatchPlan(32, 32, SplitSpec(seed=seed))
    result = planned(scenes, plan, ("land", "water", "ship"))
    assert all(found == {0, 1, 2} for found in classes_in(result.keys, scenes).values())
    assert result.findings == []
    counts = Counter(key.split for key in result.keys)
    assert abs(counts["test"] / 256 - 0.2) < 0.04
    assert abs(counts["val"] / 256 - 0.1) < 0.04


@settings(max_examples=40)
@given(st.integers(24, 40), st.integers(3, 6), st.integers(0, 50), st.booleans())
def test_a_class_in_three_of_the_scenes_is_in_every_split(count, rare, seed, by_scenes):
    scenes = [
        of_cells(f"s{i:02d}", np.full((2, 2), 2 if i < rare else i % 2)) for i in range(count)
    ]
    by = "scenes" if by_scenes else "blocks"
    split = SplitSpec(by=by, val=0.15, test=0.25, seed=seed)
    result = planned(scenes, PatchPlan(32, 32, split))
    assert all(found == {0, 1, 2} for found in classes_in(result.keys, scenes).values())
    held = Counter(key.split for key in result.keys)
    assert abs(held["test"] / 4 - 0.25 * count) <= 1
    assert abs(held["val"] / 4 - 0.15 * count) <= 1


def test_a_class_that_cannot_be_everywhere_is_named_with_the_splits_that_lack_it():
    kinds = np.zeros((10, 10), int)
    kinds[5, 5] = 1
    plan = PatchPlan(32, 32, SplitSpec(val=0.1, test=0.2))
    findings = planned([of_cells("a", kinds)], plan, ("land", "ship", "air")).findings
    found = [(f.code, f.subject, f.problem) for f in findings]
    assert len(found) == 3
    assert all(code == "class-missing-in-split" for code, _, _ in found)
    assert sum("'ship'" in problem for _, _, problem in found) == 2
    assert [subject for _, subject, problem in found if "'air'" in problem] == ["every split"]


def test_a_split_without_a_patch_is_named():
    findings = planned([of_cells("a", np.zeros((2, 3), int))], PatchPlan(32, 32)).findings
    assert [f.subject for f in findings if f.code == "empty-split"] == ["val", "test"]


# --- by scenes, and given


def test_by_scenes_each_scene_is_in_one_split_and_larger_ones_count_more():
    rng = np.random.default_rng(1)
    scenes = [
        of_cells(f"s{i:02d}", rng.integers(0, 3, (rng.integers(1, 9), rng.integers(1, 9))))
        for i in range(40)
    ]
    keys = plan_patches(scenes, PatchPlan(32, 32, SplitSpec(by="scenes")))
    assert all(len({k.split for k in own}) == 1 for own in by_scene(keys).values())
    counts = Counter(key.split for key in keys)
    assert abs(counts["test"] / len(keys) - 0.2) < 0.03
    assert abs(counts["val"] / len(keys) - 0.1) < 0.03


def test_given_splits_are_kept():
    names = {"a": "test", "b": "train", "c": "val"}
    scenes = [sized(name, 300, 400, 32) for name in names]
    keys = plan_patches(scenes, PatchPlan(32, 16, SplitSpec(by="given", given=names)))
    assert {k.scene: k.split for k in keys} == names


@pytest.mark.parametrize(
    ("given_", "named"), [({"a": "test"}, "'b'"), ({"a": "test", "b": "val", "z": "val"}, "'z'")]
)
def test_given_splits_name_each_scene_and_no_other(given_, named):
    scenes = [sized(name, 300, 400, 32) for name in "ab"]
    with pytest.raises(ConfigError, match=named):
        plan_patches(scenes, PatchPlan(32, 16, SplitSpec(by="given", given=given_)))


@pytest.mark.parametrize("spec", [{"by": "given"}, {"given": {"a": "val"}}, {"buffer": -1}])
def test_splits_that_contradict_themselves_are_refused(spec):
    with pytest.raises(ValidationError):
        SplitSpec(**spec)
