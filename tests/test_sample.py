"""Counting cells, dropping and thinning patches, and patches centred on rare classes."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from satseg_ray.classes import IGNORE, ClassDef, ClassTable
from satseg_ray.errors import ConfigError
from satseg_ray.geo.grid import Lattice, Window
from satseg_ray.patches import count
from satseg_ray.patches.count import (
    Band,
    BandCounts,
    Counting,
    bands,
    class_counts,
    count_band,
    footprint_of,
    pieces,
    uncounted,
    whole_scene,
)
from satseg_ray.patches.sample import SampleSpec, Sampling, centred
from satseg_ray.patches.split import PatchKey
from tests.factories import write_raster

TABLE = ClassTable(tuple(ClassDef(i, name) for i, name in enumerate(("land", "water", "ship"))))
TRAIN = PatchKey("train", "a", Window(0, 0, 4, 4))
VALID = np.ones((4, 4), np.bool_)


def mask(*values: int) -> np.ndarray:
    """A patch of 4 x 4 pixels: the values, then unlabelled ones."""
    flat = np.full(16, IGNORE, np.uint8)
    flat[: len(values)] = values
    return flat.reshape(4, 4)


def sampling(**spec: object) -> Sampling:
    return SampleSpec.model_validate(spec).resolved(TABLE, seed=5)


@given(st.integers(1, 40), st.integers(1, 30), st.integers(1, 30), st.integers(0, 99))
def test_counts_of_a_cell_are_those_of_a_plain_count(classes, height, width, seed):
    rng = np.random.default_rng(seed)
    few = rng.integers(0, classes + 1, 3)
    cell = rng.choice(np.where(few == classes, IGNORE, few), (height, width)).astype(np.uint8)
    plain = [int((cell == index).sum()) for index in range(classes)]
    assert class_counts(cell, classes).tolist() == [*plain, int((cell == IGNORE).sum())]


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([16, 64, 300]))
def test_bands_partition_the_rows_of_cells(height, width, patch):
    found = list(bands("a", height, width, patch))
    assert [row for band in found for row in range(band.first, band.stop)] == list(
        range(Lattice.of(height, width, patch, patch).rows.count)
    )


@given(st.lists(st.tuples(st.integers(1, 20_000), st.integers(1, 9000)), max_size=20))
def test_pieces_hold_every_band_once_in_order_and_are_bounded(sizes):
    named = {f"s{i}": size for i, size in enumerate(sizes)}
    found = pieces(named, 64)
    assert [band for piece in found for band in piece] == [
        band for name, size in named.items() for band in bands(name, size[0], size[1], 64)
    ]
    areas = [[(b.stop - b.first) * 64 * named[b.scene][1] for b in piece] for piece in found]
    assert all(sum(piece) <= max(64 << 20, piece[0]) for piece in areas)
    assert all(sum(a) + b[0] > 64 << 20 for a, b in itertools.pairwise(areas))


def test_a_scene_counted_in_bands_equals_a_plain_count(tmp_path: Path, monkeypatch):
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 2, IGNORE], (137, 90)).astype(np.uint8)
    labels[40:80] = 1
    path = write_raster(tmp_path / "labels.tif", labels, nodata=IGNORE)
    monkeypatch.setattr(count, "_PIECE", 2 * 32 * 96)
    monkeypatch.setattr(count, "_BLOCK_COLS", 64)
    counting = Counting(32, 3, sampling(rare=["ship", "land"], rare_per_cell=3))
    parts = list(bands("a", 137, 90, 32))
    assert len(parts) == 3
    found = [count_band(path, band, counting) for band in reversed(parts)]
    found = [BandCounts.from_dict(part.to_dict()) for part in found]
    scene = whole_scene(found, 137, 90)
    padded = np.pad(labels, ((0, 23), (0, 6)), constant_values=IGNORE)
    for row, col in np.ndindex(5, 3):
        cell = padded[row * 32 : row * 32 + 32, col * 32 : col * 32 + 32]
        plain = [int((cell == value).sum()) for value in (0, 1, 2, IGNORE)]
        assert scene.classes[row, col].tolist() == plain
        own = [a for a in scene.anchors if a[0] // 32 == row and a[1] // 32 == col]
        assert len(own) == min(3, plain[0]) + min(3, plain[2])
        assert {labels[a] for a in own} <= {0, 2}
    assert scene.footprint == footprint_of(path)
    whole = count_band(path, Band("a", 0, 5), counting)
    assert list(scene.anchors) == sorted(whole.anchors)


def test_a_footprint_is_the_georeference_of_the_file(tmp_path: Path):
    found = footprint_of(write_raster(tmp_path / "a.tif"))
    assert found is not None
    assert list(found.transform) == [500_000, 10, 0, 4_600_000, 0, -10]
    assert "UTM zone 18N" in found.crs


def test_a_scene_that_need_not_be_counted_has_its_shape_and_place(tmp_path: Path):
    path = write_raster(tmp_path / "labels.png", np.ones((50, 70), np.uint8))
    part = uncounted(path, Band("a", 0, 2), Counting(32, 3, sampling()))
    assert part.classes.shape == (2, 3, 4)
    assert not part.classes.any()
    assert part.footprint is None


@given(st.integers(0, 99), st.integers(1, 9))
def test_anchors_are_pixels_of_the_class_spread_over_it(seed, wanted):
    rng = np.random.default_rng(seed)
    cell = (rng.random((20, 30)) < rng.random()).astype(np.uint8) * 2
    own = sampling(rare=["ship"], rare_per_cell=wanted)
    found = own.anchors(cell, "a", (100, 200))
    assert len(set(found)) == len(found) == min(wanted, int((cell == 2).sum()))
    assert all(cell[row - 100, col - 200] == 2 for row, col in found)
    assert found == own.anchors(cell, "a", (100, 200))


@given(st.integers(1, 300), st.integers(1, 300), st.integers(16, 64), st.data())
def test_a_centred_patch_holds_its_pixel_and_lies_within_a_scene_that_is_large_enough(
    height, width, patch, data
):
    pixel = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    window = centred(pixel, patch, (height, width))
    assert window.row <= pixel[0] < window.row_stop
    assert window.col <= pixel[1] < window.col_stop
    assert window.row >= 0
    assert window.col >= 0
    assert window.row_stop <= max(height, patch)
    assert window.col_stop <= max(width, patch)


@pytest.mark.parametrize(
    ("spec", "patch", "valid", "reason"),
    [
        ({}, mask(), VALID, "unlabelled"),
        ({}, mask(0), VALID, None),
        ({"min_valid": 0.5}, mask(0), np.arange(16).reshape(4, 4) < 7, "few_valid"),
        ({"min_valid": 0.5}, mask(0), np.arange(16).reshape(4, 4) < 8, None),
        ({"min_labelled": 0.25}, mask(0, 1, 2), VALID, "few_labelled"),
        ({"min_labelled": 0.25}, mask(0, 1, 2, 2), VALID, None),
        ({"background": "land", "keep_background": 0}, mask(0, 0), VALID, "background"),
        ({"background": "land", "keep_background": 0}, mask(0, 1), VALID, None),
        ({"background": "land", "keep_background": 1}, mask(0, 0), VALID, None),
    ],
)
def test_training_patches_are_left_out_for_a_stated_reason(spec, patch, valid, reason):
    own = sampling(**spec)
    assert own.why_dropped(TRAIN, patch, valid) == reason
    for split in ("val", "test"):
        key = PatchKey(split, "a", TRAIN.window)
        held = own.why_dropped(key, patch, valid)
        assert held == ("unlabelled" if (patch == IGNORE).all() else None)


def test_background_is_thinned_to_its_share_whatever_the_order():
    keys = [PatchKey("train", "a", Window(r, c, 4, 4)) for r in range(50) for c in range(40)]

    def kept(seed: int, order: list[PatchKey]) -> set[PatchKey]:
        spec = SampleSpec(background="water", keep_background=0.3)
        own = spec.resolved(TABLE, seed)
        return {key for key in order if own.why_dropped(key, mask(1), VALID) is None}

    once = kept(0, keys)
    assert abs(len(once) / len(keys) - 0.3) < 0.04
    assert kept(0, keys[::-1]) == once
    assert kept(1, keys) != once


@pytest.mark.parametrize(
    "spec",
    [
        {"rare": ["ship"]},
        {"rare_per_cell": 2},
        {"keep_background": 0.5},
        {"min_valid": 1.1},
        {"other": 1},
    ],
)
def test_settings_that_make_no_sense_are_refused(spec):
    with pytest.raises(ValidationError):
        SampleSpec.model_validate(spec)


@pytest.mark.parametrize("spec", [{"background": "sea"}, {"rare": ["sea"], "rare_per_cell": 1}])
def test_a_class_that_is_none_is_named(spec):
    with pytest.raises(ConfigError, match="'sea'"):
        SampleSpec.model_validate(spec).resolved(TABLE, 0)
