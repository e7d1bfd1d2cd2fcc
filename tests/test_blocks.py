"""Blocks that a bootstrap draws: ground that was held out as one has one name."""

from __future__ import annotations

import json
from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.transform import from_origin

from satseg_ray.classes import ClassDef, ClassTable
from satseg_ray.patches.blocks import Blocks
from satseg_ray.patches.ground import Footprint
from satseg_ray.patches.plan import PatchPlan, Planned, plan_patches
from satseg_ray.patches.split import SceneSize, SplitSpec
from satseg_ray.patches.store import PatchManifest
from tests.test_split import sized

PATCH = 32
UTM = "EPSG:32618"


def at(scene: SceneSize, x: int, y: int, pixel: float = 10) -> SceneSize:
    """The scene with its corner ``x`` and ``y`` metres from that of all."""
    transform = from_origin(500_000 + x, 4_600_000 - y, pixel, pixel).to_gdal()
    footprint = Footprint(UTM, transform)
    return SceneSize(scene.name, scene.height, scene.width, scene.classes, footprint)


def blocks_of(planned: Planned, plan: PatchPlan, side: int | None = None) -> dict[str, set]:
    """The held-out patches of each block, as (split, scene, row, column)."""
    lineage = {"split": plan.split.model_dump_json()}
    blocks = Blocks.of(plan.patch_size, planned.places, lineage, side)
    found = defaultdict(set)
    for key in planned.keys:
        if key.split != "train":
            name = blocks.name(key.scene, key.window.row, key.window.col)
            found[name].add((key.split, key.scene, key.window.row, key.window.col))
    return found


def plan_of(**split: object) -> PatchPlan:
    return PatchPlan(PATCH, PATCH, SplitSpec.model_validate(split))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 9))
def test_a_block_of_a_lone_scene_is_one_patch_or_a_scene_too_small_to_divide(height, width, seed):
    plan = plan_of(seed=seed, val=0.2, test=0.3)
    planned = plan_patches([sized("a", height, width, PATCH)], plan)
    found = blocks_of(planned, plan)
    small = max(-(-height // PATCH), -(-width // PATCH)) < 4
    assert len(found) == (
        min(1, len(found)) if small else sum(key.split != "train" for key in planned.keys)
    )


def test_dates_of_one_place_share_their_blocks():
    first = at(sized("a", 320, 320, PATCH), 0, 0)
    second = at(sized("b", 320, 320, PATCH), PATCH * 10 * 2, PATCH * 10)
    plan = plan_of(val=0.2, test=0.2)
    found = blocks_of(plan_patches([first, second], plan), plan)
    pairs = [block for block in found.values() if len(block) > 1]
    assert pairs
    for block in pairs:
        splits, scenes, *_ = map(set, zip(*block, strict=True))
        assert len(splits) == 1
        assert scenes == {"a", "b"}
        places = {scene: (row, col) for _, scene, row, col in block}
        assert places["a"] == (places["b"][0] + PATCH, places["b"][1] + 2 * PATCH)
    assert all(len(block) <= 2 for block in found.values())


def test_finer_pixels_fall_into_the_cells_of_the_coarser_scene():
    coarse = at(sized("a", 256, 256, PATCH), 0, 0, 10)
    fine = at(sized("b", 512, 512, PATCH), 0, 0, 5)
    plan = plan_of(val=0.2, test=0.2)
    found = blocks_of(plan_patches([coarse, fine], plan), plan)
    full = [block for block in found.values() if any(scene == "a" for _, scene, *_ in block)]
    assert full
    for block in full:
        assert sum(scene == "a" for _, scene, *_ in block) == 1
        assert sum(scene == "b" for _, scene, *_ in block) == 4


def test_chips_and_scenes_held_out_as_a_whole_are_one_block_each():
    chips = [sized(f"chip{i}", 64, 96, PATCH) for i in range(12)]
    plan = plan_of(val=0.2, test=0.2)
    planned = plan_patches(chips, plan)
    for by in (plan, plan_of(by="scenes", val=0.2, test=0.2)):
        planned = plan_patches(chips, by)
        found = blocks_of(planned, by)
        assert {len(block) for block in found.values()} == {6}
        assert set(found) == {key.scene for key in planned.keys if key.split != "train"}


def test_whole_scenes_of_one_place_are_one_block():
    scenes = [at(sized(name, 200, 200, PATCH), 0, 0) for name in "ab"]
    scenes += [at(sized(name, 200, 200, PATCH), x, 0) for name, x in (("c", 10**5), ("d", 10**6))]
    plan = plan_of(by="given", given={"a": "test", "b": "test", "c": "test", "d": "train"})
    assert set(blocks_of(plan_patches(scenes, plan), plan)) == {"a", "c"}


def test_larger_blocks_are_made_of_whole_cells():
    plan = plan_of(val=0.2, test=0.3)
    planned = plan_patches([sized("a", 640, 640, PATCH)], plan)
    cells, larger = blocks_of(planned, plan), blocks_of(planned, plan, 4 * PATCH)
    assert 1 < len(larger) < len(cells)
    for block in larger.values():
        assert len({(row // 128, col // 128) for _, _, row, col in block}) == 1


def test_a_manifest_keeps_its_places_and_an_older_one_has_none(tmp_path):
    table = ClassTable((ClassDef(value=1, name="a"), ClassDef(value=2, name="b")))
    places = {"a": {"place": "a", "cells": None}}
    made = PatchManifest(
        "toy", "toy@1", table, ("r",), (1,), "uint8", 32, 16, (0.0,), (1.0,), {}, {}, {}, None,
        places,
    )  # fmt: skip
    made.write(tmp_path)
    assert PatchManifest.read(tmp_path) == made
    path = tmp_path / "patches.json"
    body = json.loads(path.read_text())
    del body["places"]
    path.write_text(json.dumps(body))
    assert PatchManifest.read(tmp_path).places == {}
    older = Blocks.of(32, {}, {"split": '{"by": "scenes"}'})
    assert older.name("x", 64, 0) == older.name("x", 0, 96) == "x"
    assert Blocks.of(32, {}, {}).name("x", 64, 32) == "x 2 1"


def test_ground_that_has_no_place_is_one_block():
    assert Blocks(32, 32, {"a": {"place": "a", "cells": [0.0] * 6}}).name("a", 64, 64) == "a 0 0"
