"""The baselines: what a linear model of single pixels and the commonest class reach on blocks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import baselines
from satseg_ray.classes import ClassDef, ClassTable
from satseg_ray.geo.grid import Window
from satseg_ray.model.bootstrap import Resampling
from satseg_ray.model.metrics import Confusion
from satseg_ray.patches.schema import Patch
from satseg_ray.patches.split import PatchKey
from satseg_ray.patches.store import PatchManifest, PatchStore, write_part

SIDE = 16
HOW = Resampling(200)
NAMES = ("land", "water", "snow")


def store_of(folder: Path, classes: int, noise: float) -> PatchStore:
    """Patches whose classes are set apart by a slanted plane in two bands."""
    rng = np.random.default_rng(classes)
    table = ClassTable(tuple(ClassDef(i, name) for i, name in enumerate(NAMES[:classes])))
    counts = np.zeros(classes, int)
    written: dict[str, list[Patch]] = {"train": [], "test": []}
    for split, number in (("train", 12), ("test", 12)):
        for place in range(number):
            one, other = rng.uniform(0, 200, (2, SIDE, SIDE))
            edges = np.array([-40, 90])[: classes - 1]
            mask = ((one - other)[..., None] > edges).sum(axis=-1).astype(np.uint8)
            image = np.stack([one, other], axis=-1) + rng.normal(0, noise, (SIDE, SIDE, 2))
            mask[:2] = 255
            valid = np.ones(mask.shape, np.bool_)
            valid[0], image[0] = False, -9999
            key = PatchKey(split, "a", Window(0, place * SIDE, SIDE, SIDE))
            written[split].append(Patch(key, image.astype(np.int16), mask, valid))
            if split == "train":
                counts += np.bincount(mask[2:].reshape(-1), minlength=classes)
    manifest = PatchManifest(
        dataset="toy", version="toy@1", classes=table, bands=("r", "n"), band_indexes=(1, 2),
        dtype="int16", patch_size=SIDE, stride=SIDE, mean=(100.0, 100.0), std=(58.0, 58.0),
        counts={"train": {"pixels": dict(zip(NAMES, counts.tolist(), strict=False))}},
        dropped={}, lineage={},
    )  # fmt: skip
    folder.mkdir()
    manifest.write(folder)
    for split, patches in written.items():
        write_part(folder / split / "part-0.parquet", patches, manifest.schema)
    return PatchStore.open(folder)


@pytest.mark.parametrize("classes", [2, 3])
def test_classes_apart_by_a_plane_are_found_and_noise_costs(tmp_path, classes):
    clean = baselines.measured(store_of(tmp_path / "a", classes, 0), "test", {}, HOW)
    noisy = baselines.measured(store_of(tmp_path / "b", classes, 30), "test", {}, HOW)
    assert clean["blocks"] == 12
    assert clean["training_pixels"] == 12 * 14 * SIDE
    assert clean["linear"]["mean_iou"]["value"] > 0.93
    assert noisy["linear"]["mean_iou"]["value"] < 0.85
    assert clean["above_linear"]["majority"]["mean_iou"]["high"] < 0


def test_the_commonest_class_is_that_of_training(tmp_path):
    store = store_of(tmp_path / "a", 3, 0)
    pixels = store.manifest.counts["train"]["pixels"]
    found = baselines.measured(store, "test", {}, HOW)["majority"]
    batch = store.split("test").read(range(12))
    best = NAMES.index(max(pixels, key=lambda name: pixels[name]))
    want = Confusion.from_indexes(batch.mask, np.full_like(batch.mask, best), 3)
    assert found["accuracy"]["value"] == want.accuracy
    assert found["mean_iou"]["value"] == want.mean_iou


def test_networks_are_compared_on_the_same_blocks(tmp_path):
    store = store_of(tmp_path / "a", 2, 10)
    perfect = {f"a 0 {i}": [[140, 0], [0, 84]] for i in range(12)}
    result = baselines.measured(store, "test", {"toy/1": perfect}, HOW)
    json.dumps(result, allow_nan=False)
    assert result["above_linear"]["toy/1"]["mean_iou"]["low"] > 0
    with pytest.raises(SystemExit, match="other blocks"):
        baselines.measured(store, "test", {"toy/1": {"b": [[1, 0], [0, 1]]}}, HOW)


def test_the_sample_is_bounded_and_has_labelled_pixels_alone(tmp_path):
    store = store_of(tmp_path / "a", 3, 0)
    values, truth = baselines.sample(store.split("train"), store.manifest, 100)
    assert len(values) == len(truth) <= 100
    assert set(np.unique(truth)) <= {0, 1, 2}
    assert np.abs(values).max() < 3
    values, truth = baselines.sample(store.split("train"), store.manifest, 5)
    assert len(truth) == 5


def test_a_training_set_of_one_class_gives_that_class():
    model = baselines.linear(np.zeros((4, 2), np.float32), np.full(4, 2, np.uint8))
    assert model(np.ones((3, 2), np.float32)).tolist() == [2, 2, 2]
