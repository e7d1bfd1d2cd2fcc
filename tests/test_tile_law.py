"""The law of the design: the mosaic does not depend on tiles, batches or order."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st

from satseg_ray.classes import ClassDef, ClassTable
from satseg_ray.geo.blend import best_class, taper
from satseg_ray.geo.grid import (
    CoreLimits,
    Lattice,
    TileGrid,
    Window,
    computed_patches,
    plan_cores,
)
from satseg_ray.geo.raster import SceneReader
from satseg_ray.model.numerics import NumericsKey
from satseg_ray.model.segment import fill_values, segment_tile
from satseg_ray.model.spec import ModelSpec


def make_spec(patch: int, stride: int, classes: int, bands: int = 2) -> ModelSpec:
    return ModelSpec(
        architecture="unet",
        backbone="fake",
        bands=tuple(f"b{i}" for i in range(bands)),
        band_indexes=tuple(range(1, bands + 1)),
        dtype="uint8",
        classes=ClassTable(tuple(ClassDef(i, f"c{i}") for i in range(classes))),
        patch_size=patch,
        stride=stride,
        mean=(100.4,) * bands,
        std=(50.0,) * bands,
    )


@dataclass(frozen=True)
class NeighbourhoodModel:
    """Scores that are no neat fractions, from the neighbourhood and the distance to the edge."""

    spec: ModelSpec
    batch_size: int = 3

    def numerics_key(self) -> NumericsKey:
        return NumericsKey("fake", "fake", (3, 8, 8, 2), 1, "none")

    def predict_proba(self, batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        x = batch.astype(np.float32).sum(axis=-1) / np.float32(7.3)
        around = sum(np.roll(x, (dr, dc), (1, 2)) for dr in (-2, 0, 1) for dc in (-1, 0, 2))
        side = np.arange(x.shape[1], dtype=np.float32)
        edge = np.minimum.outer(side, side) + np.minimum.outer(side[::-1], side[::-1])
        phases = np.arange(len(self.spec.classes), dtype=np.float32) * np.float32(1.7)
        raw = np.sin(around[..., None] * 0.37 + np.sqrt(edge)[None, ..., None] + phases)
        scores = np.exp(raw.astype(np.float32))
        return (scores / scores.sum(axis=-1, keepdims=True)).astype(np.float32)


def write_scene(path: Path, pixels: npt.NDArray[np.uint8]) -> Path:
    count, height, width = pixels.shape
    profile = {"driver": "GTiff", "height": height, "width": width, "count": count}
    with rasterio.open(path, "w", dtype="uint8", nodata=0, **profile) as file:
        file.write(pixels)
    return path


def whole_scene_at_once(pixels: npt.NDArray[np.uint8], model: NeighbourhoodModel) -> npt.NDArray:
    """The reference, on its own: every lattice patch added in row-major order, float32 sums."""
    spec = model.spec
    patch, stride = spec.patch_size, spec.stride
    height, width = pixels.shape[1:]
    rows = range(0, max(0, -(-(height - patch) // stride)) * stride + 1, stride)
    cols = range(0, max(0, -(-(width - patch) // stride)) * stride + 1, stride)
    canvas = np.empty((rows[-1] + patch, cols[-1] + patch, pixels.shape[0]), np.uint8)
    canvas[:] = fill_values(spec)
    inside = np.moveaxis(pixels, 0, -1).copy()
    inside[(pixels == 0).all(axis=0)] = fill_values(spec)
    canvas[:height, :width] = inside
    sums = np.zeros((*canvas.shape[:2], len(spec.classes)), np.float32)
    for row in rows:
        for col in cols:
            cut = canvas[row : row + patch, col : col + patch]
            scores = model.predict_proba(cut[None])[0]
            sums[row : row + patch, col : col + patch] += scores * taper(patch)[..., None]
    return sums[:height, :width]


def folded_bits(sums: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Eight bits of a pixel's sums (..., classes) that change when any one of their bits does."""
    octets = np.ascontiguousarray(sums).view(np.uint8)
    return np.bitwise_xor.reduce(octets, axis=-1)


@st.composite
def cases(draw: st.DrawFn) -> dict[str, int]:
    patch = draw(st.sampled_from([8, 12, 16, 17]))
    sizes = st.one_of(st.integers(1, 60), st.sampled_from([7, 13, 31, 53, 59]))
    return {
        "patch": patch,
        "stride": draw(st.integers(max(1, patch // 4), patch)),
        "height": draw(sizes),
        "width": draw(sizes),
        "core_height": draw(st.integers(5, 61)),
        "core_width": draw(st.integers(5, 61)),
        "classes": draw(st.integers(2, 6)),
        "batch": draw(st.integers(1, 7)),
        "seed": draw(st.integers(0, 2**31)),
    }


@settings(max_examples=120)
@given(case=cases())
def test_mosaic_from_tiles_in_any_order_equals_the_scene_in_one_array(
    case: dict[str, int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = np.random.default_rng(case["seed"])
    pixels = rng.integers(0, 256, (2, case["height"], case["width"]), dtype=np.uint8)
    pixels[:, rng.random(pixels.shape[1:]) < 0.1] = 0
    scene = write_scene(tmp_path_factory.mktemp("law") / "scene.tif", pixels)
    spec = make_spec(case["patch"], case["stride"], case["classes"])
    model = NeighbourhoodModel(spec, case["batch"])
    grid = TileGrid(case["height"], case["width"], case["core_height"], case["core_width"])
    cores = list(grid.cores)
    random.Random(case["seed"]).shuffle(cores)

    whole = whole_scene_at_once(pixels, model)
    mosaic, valid = mosaic_of(scene, cores, model)
    np.testing.assert_array_equal(mosaic, whole.argmax(axis=-1))
    np.testing.assert_array_equal(valid, (pixels != 0).any(axis=0))
    # Equal classes may hide unequal sums: with the bits of the sums in the place of the classes
    with mock.patch("satseg_ray.model.segment.best_class", folded_bits):
        bits, _ = mosaic_of(scene, cores, model)
    np.testing.assert_array_equal(bits, folded_bits(whole))


def mosaic_of(
    scene: Path, cores: list[Window], model: NeighbourhoodModel
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    with SceneReader(scene) as reader:
        mosaic = np.full(reader.info.window.shape, 99, np.uint8)
        valid = np.zeros(mosaic.shape, np.bool_)
        for core in cores:
            tile = segment_tile(reader, core, model, model.spec.stride)
            mosaic[core.slices()], valid[core.slices()] = tile.classes, tile.valid
    return mosaic, valid


@given(case=cases())
def test_cores_partition_the_scene(case: dict[str, int]) -> None:
    seen = np.zeros((case["height"], case["width"]), int)
    for core in TileGrid(*seen.shape, case["core_height"], case["core_width"]).cores:
        seen[core.slices()] += 1
    assert (seen == 1).all()


@given(case=cases())
def test_covering_is_every_patch_with_a_pixel_in_the_core(case: dict[str, int]) -> None:
    lattice = Lattice.of(case["height"], case["width"], case["patch"], case["stride"])
    grid = TileGrid(case["height"], case["width"], case["core_height"], case["core_width"])
    total = 0
    for core in grid.cores:
        block = lattice.covering(core)
        total += block.count
        got = {lattice.window(r, c) for r in block.rows for c in block.cols}
        assert got == {w for w in lattice.windows() if w.overlaps(core)}
        assert lattice.bounds(block).intersection(core) == core
    assert total == computed_patches(lattice, grid)


@given(
    st.integers(1, 40_000),
    st.integers(1, 40_000),
    st.sampled_from([128, 384, 512]),
    st.integers(1, 9000),
)
def test_planned_cores_keep_within_the_bounds_and_are_multiples_of_the_cog_block(
    height: int, width: int, stride: int, widest: int
) -> None:
    limits = CoreLimits(2048 * 2048, widest)
    grid = plan_cores(Lattice.of(height, width, 512, stride), limits, at_least=4)
    assert grid.core_height % 512 == 0
    assert grid.core_width % 512 == 0
    assert grid.core_height * grid.core_width <= 2048 * 2048
    assert grid.core_width <= max(512, widest)


def test_halo_is_asymmetric_and_right_when_the_stride_does_not_divide_the_patch() -> None:
    lattice = Lattice.of(4096, 4096, 512, 384)
    core = Window(1024, 1024, 1024, 1024)
    assert lattice.bounds(lattice.covering(core)) == Window(768, 768, 1664, 1664)


@given(st.integers(2, 6), st.integers(0, 99))
def test_best_class_is_argmax_with_the_first_winning_ties(classes: int, seed: int) -> None:
    sums = np.random.default_rng(seed).integers(0, 3, (9, 5, classes)).astype(np.float32)
    np.testing.assert_array_equal(best_class(sums), sums.argmax(axis=-1))
