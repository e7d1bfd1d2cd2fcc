"""Tile: a data set to patches on Ray, all of it or nothing, the same bytes each time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rasterio.transform import from_origin

from satseg_ray.classes import IGNORE
from satseg_ray.config import IngestConfig, TileConfig
from satseg_ray.data.ingest import ingest
from satseg_ray.data.tile import tile
from satseg_ray.errors import ConfigError, DatasetNotFound, EmptySplit, UnreadableRaster
from satseg_ray.geo.grid import Window
from satseg_ray.lineage import file_digest
from satseg_ray.patches.count import Band, Counting, count_band, whole_scene
from satseg_ray.patches.dataset import DatasetManifest, SceneRecord
from satseg_ray.patches.plan import PatchPlan, plan_patches
from satseg_ray.patches.sample import SampleSpec, Sampling
from satseg_ray.patches.split import SceneSize, SplitSpec
from satseg_ray.patches.store import PatchStore
from tests.factories import names as listed
from tests.factories import random_pixels, write_raster

ROOT = Path(__file__).resolve().parent.parent
SIZES = {"a": (401, 331), "b": (150, 290)}
SIDE, STRIDE = 32, 24
SPLIT = SplitSpec(val=0.15, test=0.2, seed=3)

pytestmark = pytest.mark.ray


class Source:
    """A data set in a workspace, and its pixels and class indexes as plain arrays."""

    def __init__(self, folder: Path) -> None:
        self.images: dict[str, np.ndarray] = {}
        self.labels: dict[str, np.ndarray] = {}
        for seed, (name, size) in enumerate(SIZES.items()):
            image = random_pixels(size, 2, "uint16", seed) + 1
            image[:, :70, :45] = 0  # no image where there are labels
            rng = np.random.default_rng(seed)
            labels = rng.choice([0, 1], size).astype(np.uint8)
            labels[-90:, -100:] = IGNORE
            self.images[name], self.labels[name] = image, labels
            # Each scene on ground of its own
            options: Any = {"transform": from_origin(500_000 + 90_000 * seed, 4_600_000, 10, 10)}
            write_raster(folder / "labels" / f"{name}.tif", labels, **options)
            options |= {"blockysize": 16, "compress": "deflate", "nodata": 0}
            write_raster(folder / "images" / f"{name}.tif", image, **options)
        ingest(
            IngestConfig.model_validate(
                {
                    "dataset": "coast",
                    "scenes": [str(folder / "images" / "*.tif")],
                    "labels": [str(folder / "labels" / "*.tif")],
                    "classes": [{"value": 0, "name": "land"}, {"value": 1, "name": "water"}],
                    "ignore": [IGNORE],
                }
            )
        )

    def cut(self, scene: str, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Image (side, side, bands) and mask of a window, by numpy alone."""
        pad = ((0, SIDE), (0, SIDE))
        image = np.pad(self.images[scene], ((0, 0), *pad))[:, *window.slices()]
        labels = np.pad(self.labels[scene], pad, constant_values=IGNORE)[window.slices()]
        mask = np.where((image == 0).any(axis=0), IGNORE, labels).astype(np.uint8)
        return np.moveaxis(image, 0, -1), mask


@pytest.fixture
def source(tmp_path: Path, workspace: Path) -> Source:
    return Source(tmp_path / "inputs")


def config(**changes: Any) -> TileConfig:
    given: dict[str, Any] = {"patch_size": SIDE, "stride": STRIDE, "split": SPLIT, "unit": 256}
    return TileConfig(dataset="coast", **given | changes)


def sized(raw: Path, scene: SceneRecord) -> SceneSize:
    """A scene counted in one band, whatever its size."""
    band = Band(scene.name, 0, -(-scene.height // SIDE))
    counting = Counting(SIDE, 2, Sampling(SampleSpec()))
    return whole_scene(
        [count_band(raw / str(scene.labels), band, counting)], scene.height, scene.width
    )


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): file_digest(path) for path in files}


def test_patches_and_counts_equal_a_plain_count_and_come_out_the_same_twice(
    source, workspace, ray_cluster
):
    result = tile(config())
    folder = workspace / "data" / "patches" / "coast"
    first = digests(folder)
    assert listed(folder.parent) == [folder.name]
    store = PatchStore.open(folder)
    raw = workspace / "data" / "raw" / "coast"
    scenes = [sized(raw, scene) for scene in DatasetManifest.read(raw).scenes]
    assert {scene.name: (scene.height, scene.width) for scene in scenes} == SIZES
    planned = plan_patches(scenes, PatchPlan(SIDE, STRIDE, SPLIT)).keys
    dropped, moments = 0, []
    for split in ("train", "val", "test"):
        counts, wanted = np.zeros(3, np.int64), {}
        for key in (key for key in planned if key.split == split):
            image, mask = source.cut(key.scene, key.window)
            if (mask == IGNORE).all():
                dropped += 1
                continue
            counts += [(mask == 0).sum(), (mask == 1).sum(), (mask == IGNORE).sum()]
            wanted[key.scene, key.window.row, key.window.col] = image, mask
            if split == "train":
                moments.append(image[(image > 0).all(axis=-1)].astype(np.float64))
        reader = store.split(split)
        keys = [reader.key(position) for position in range(len(reader))]
        assert sorted(keys) == sorted(wanted)
        batch = reader.read(range(len(keys)))
        np.testing.assert_array_equal(batch.image, np.stack([wanted[key][0] for key in keys]))
        np.testing.assert_array_equal(batch.mask, np.stack([wanted[key][1] for key in keys]))
        names = ("land", "water", "unlabelled")
        assert result["counts"][split] == {
            "patches": len(keys),
            "pixels": dict(zip(names, counts.tolist(), strict=True)),
        }
    assert dropped > 0
    assert result["dropped"] == store.manifest.dropped
    assert result["dropped"]["unlabelled"] == sum(result["dropped"].values()) == dropped
    values = np.concatenate(moments)
    np.testing.assert_allclose(store.manifest.mean, values.mean(axis=0))
    np.testing.assert_allclose(store.manifest.std, values.std(axis=0))
    again = tile(config())
    assert again["new"] is False  # what was made has the same bytes, but for its profile
    assert digests(folder) == first


def test_the_size_of_a_unit_changes_no_count(source, workspace, ray_cluster):
    counts = []
    for unit in (256, 4096):
        counts.append(tile(config(unit=unit))["counts"])
        store = PatchStore.open(workspace / "data" / "patches" / "coast")
        train = store.split("train")
        counts.append(sorted(train.key(position) for position in range(len(train))))
    assert counts[:2] == counts[2:]


def test_given_scenes_are_split_as_named_and_dropped_patches_are_counted_by_reason(
    source, workspace, ray_cluster
):
    split = SplitSpec(by="given", given={"a": "train", "b": "test"})
    sample = SampleSpec(min_valid=0.9, min_labelled=0.5, rare=["water"], rare_per_cell=1)
    result = tile(config(split=split, sample=sample))
    store = PatchStore.open(workspace / "data" / "patches" / "coast")
    planned: dict[str, int] = dict.fromkeys(("unlabelled", "few_valid", "few_labelled"), 0)
    found = {}
    for name in ("train", "test"):
        reader = store.split(name)
        found[name] = {reader.key(position) for position in range(len(reader))}
    assert {scene for scene, _, _ in found["train"]} == {"a"}
    assert {scene for scene, _, _ in found["test"]} == {"b"}
    off = {key for key in found["train"] if key[1] % STRIDE or key[2] % STRIDE}
    assert off, "no patch is centred on a pixel of the rare class"
    height, width = SIZES["a"]
    for row in range(0, height - SIDE + STRIDE, STRIDE):
        for col in range(0, width - SIDE + STRIDE, STRIDE):
            image, mask = source.cut("a", Window(row, col, SIDE, SIDE))
            few_valid = (image > 0).all(axis=-1).mean() < 0.9
            few_labelled = (mask != IGNORE).mean() < 0.5
            kept = not few_valid and not few_labelled and not (mask == IGNORE).all()
            assert (("a", row, col) in found["train"]) == kept
            if not kept:
                why = "few_valid" if few_valid else "few_labelled"
                planned["unlabelled" if (mask == IGNORE).all() else why] += 1
    assert all(result["dropped"][why] >= count > 0 for why, count in planned.items())
    assert result["dropped"]["background"] == 0
    assert store.manifest.dropped == result["dropped"]
    codes = {(finding["code"], finding["subject"]) for finding in result["findings"]}
    assert codes == set()


def test_a_setting_that_names_what_is_not_there_fails_before_any_work(source, workspace):
    with pytest.raises(ConfigError, match="'b'"):
        tile(config(split=SplitSpec(by="given", given={"a": "train"})))
    with pytest.raises(ConfigError, match="'sea'"):
        tile(config(sample=SampleSpec(background="sea")))
    assert not (workspace / "data" / "patches" / "coast").exists()


@pytest.mark.parametrize("part", ["images", "labels"])
def test_a_file_damaged_after_ingest_fails_the_job_and_keeps_the_old_patches(
    source, workspace, ray_cluster, part
):
    folder = workspace / "data" / "patches" / "coast"
    damaged = workspace / "data" / "raw" / "coast" / part / "b.tif"
    if part == "images":
        tile(config())
    before = digests(folder)
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    with pytest.raises(UnreadableRaster, match=rf"{part}/b\.tif"):
        tile(config())
    assert digests(folder) == before
    left = [path for path in folder.parent.glob("*") if path != folder]
    assert not left


def test_a_data_set_without_labels_gives_no_patches(tmp_path, workspace):
    scene = write_raster(tmp_path / "a.tif")
    classes = [{"value": 0, "name": "land"}, {"value": 1, "name": "water"}]
    ingest(
        IngestConfig.model_validate(
            {"dataset": "coast", "scenes": [str(scene)], "classes": classes}
        )
    )
    with pytest.raises(EmptySplit, match="no labelled scene"):
        tile(config())
    assert not (workspace / "data" / "patches" / "coast").exists()


def test_a_split_that_leaves_no_room_for_training_is_an_error(source, workspace, ray_cluster):
    with pytest.raises(EmptySplit, match="coast/train"):
        tile(config(split=SplitSpec(val=0.49, test=0.49)))
    assert listed(workspace / "data" / "patches") == []


def test_a_data_set_that_is_not_there_is_an_exit_code(workspace):
    done = subprocess.run(
        [sys.executable, str(ROOT / "jobs" / "tile.py"), "--dataset", "nowhere"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == DatasetNotFound.exit_code
    assert json.loads(done.stdout)["subject"] == "nowhere"
    assert not list(workspace.iterdir())
