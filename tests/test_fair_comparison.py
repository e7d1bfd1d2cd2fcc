"""What an evaluation knows before it scores: who saw the data, and one size of blocks for all."""

from __future__ import annotations

from dataclasses import replace

import pytest

from satseg_ray.config import EvaluateConfig
from satseg_ray.predict.evaluate import _held_out, _with_block
from tests.test_model_network import SPEC

TILED = {"patches_version": "sea@2"}


@pytest.mark.parametrize(
    ("lineage", "split", "answer"),
    [
        ({"patches_version": "sea@2"}, "test", True),
        ({"patches_version": "sea@2"}, "train", False),
        ({"patches_version": "sea@1"}, "test", False),
        ({"patches_version": "land@1"}, "test", None),
        ({}, "test", None),
        # what a model started from has seen, it has seen
        ({"patches_version": "sea@2", "start_patches": "sea@1"}, "test", False),
        ({"patches_version": "sea@2", "start_patches": "land@7"}, "test", True),
        ({"patches_version": "land@7", "start_patches": "land@3 sea@2"}, "test", True),
        ({"patches_version": "land@7", "start_patches": "land@3 sea@1"}, "test", False),
    ],
)
def test_what_a_model_or_its_start_was_trained_on_is_not_held_out(lineage, split, answer):
    assert _held_out(TILED, lineage, split) is answer


def test_models_of_other_patch_sizes_share_the_blocks_of_a_scene():
    on_scene = EvaluateConfig(model="sea", scene="a.tif", labels="a.geojson")
    specs = [replace(SPEC, patch_size=side) for side in (240, 256, 64)]
    assert _with_block(on_scene, specs).block == 256
    assert _with_block(on_scene.model_copy(update={"block": 100}), specs).block == 100
    assert _with_block(EvaluateConfig(model="sea", dataset="coast"), specs).block is None
