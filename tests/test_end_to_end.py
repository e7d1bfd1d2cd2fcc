"""From a scene with labels to a map and its figures, all five jobs in one process, in miniature."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from satseg_ray.config import (
    EvaluateConfig,
    IngestConfig,
    PredictConfig,
    TileConfig,
    TrainConfig,
)
from satseg_ray.data.ingest import ingest
from satseg_ray.data.tile import tile
from satseg_ray.errors import BandMismatch, ConfigError, InUse
from satseg_ray.patches.split import SplitSpec
from satseg_ray.predict.evaluate import evaluate
from satseg_ray.predict.scene import predict
from satseg_ray.products import locked
from satseg_ray.tracking import Tracking, resolve
from satseg_ray.train.job import train
from satseg_ray.workspace import Workspace
from tests.factories import names, write_raster

pytestmark = [pytest.mark.ray, pytest.mark.tensorflow]

SHAPE = (293, 307)
CLASSES = [{"value": 4, "name": "land"}, {"value": 9, "name": "water"}]
SPLIT = SplitSpec(val=0.1, test=0.2)
TRAIN: dict[str, Any] = {
    "dataset": "toy",
    "architecture": "linknet",
    "backbone": "mobilenetv2",
    "epochs": 1,
    "batch_size": 4,
    "threads": 1,
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def in_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SATSEG_WORKSPACE", str(home))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(1)
    water = (rng.random((10, 10)) < 0.5).repeat(32, 0).repeat(32, 1)[: SHAPE[0], : SHAPE[1]]
    pixels = np.where(water, 900, 200) + rng.integers(1, 100, (2, *SHAPE))
    folder = tmp_path_factory.mktemp("input")
    write_raster(folder / "labels.tif", np.where(water, 9, 4).astype(np.uint8))
    return write_raster(folder / "scene.tif", pixels.astype(np.uint16), nodata=0)


@pytest.fixture(scope="module")
def done(ray_cluster: str, home: Path, scene: Path) -> dict[str, Any]:
    """The results of the five jobs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SATSEG_WORKSPACE", str(home))
        labels = str(scene.with_name("labels.tif"))
        raw = {"dataset": "toy", "scenes": [str(scene)], "labels": [labels], "classes": CLASSES}
        return {
            "ingest": ingest(IngestConfig.model_validate(raw)),
            "tile": tile(TileConfig(dataset="toy", patch_size=32, stride=16, split=SPLIT)),
            "train": train(TrainConfig.model_validate(TRAIN | {"register": "toy"})),
            "predict": predict(PredictConfig(scene=str(scene), model="toy")),
            "evaluate": evaluate(EvaluateConfig(model="toy", dataset="toy")),
        }


def test_the_map_lies_on_the_scene_and_holds_the_classes_values(done, scene):
    with rasterio.open(done["predict"]["map"]) as made, rasterio.open(scene) as source:
        assert (made.shape, made.crs, made.transform) == (
            source.shape,
            source.crs,
            source.transform,
        )
        assert set(np.unique(made.read(1))) <= {4, 9}
        tags = made.tags()
    assert tags["dataset_version"] == done["ingest"]["version"]
    assert tags["run_id"] == done["train"]["run_id"]
    assert done["predict"]["height"] * done["predict"]["width"] == sum(
        share["pixels"] for share in done["predict"]["classes"].values()
    )


def test_the_run_and_the_registered_version_know_each_other(done, home):
    tracking = Tracking.open(home)
    assert resolve(tracking, "toy").run_id == done["train"]["run_id"]
    run = tracking.client().get_run(done["train"]["run_id"])
    logged = tracking.client().get_logged_model(done["train"]["logged"].removeprefix("models:/"))
    assert (logged.source_run_id, logged.status) == (done["train"]["run_id"], "READY")
    assert run.info.status == "FINISHED"
    assert {"loss", "val_mean_iou", "val_iou_water"} <= set(run.data.metrics)
    assert run.data.tags["patches_version"].startswith("toy@")


def test_the_evaluation_counts_every_labelled_pixel_of_the_split_once(done):
    counts = done["tile"]["counts"]["test"]
    assert done["evaluate"]["pixels"] == counts["pixels"]["land"] + counts["pixels"]["water"]
    assert done["evaluate"]["held_out"] is True
    assert names(Path(done["evaluate"]["directory"])) == [
        "blocks.json", "confusion.png", "intervals.png", "metrics.json", "reliability.png",
        "samples.png",
    ]  # fmt: skip


def test_the_training_split_is_not_held_out(done):
    report = evaluate(EvaluateConfig(model="toy", dataset="toy", split="train"))
    assert report["held_out"] is False


def test_more_workers_than_patches_in_a_batch_are_refused_before_ray_trains(done):
    with pytest.raises(ConfigError, match="4 patches cannot be shared by 5 workers"):
        train(TrainConfig.model_validate(TRAIN | {"workers": 5}))


def test_tiling_waits_for_nobody_who_reads_the_patches(done):
    with locked(Workspace.resolve().patches("toy")), pytest.raises(InUse, match="toy"):
        tile(TileConfig(dataset="toy", patch_size=32, stride=16, split=SPLIT))


def test_patches_tiled_anew_are_not_called_held_out(done, capsys):
    """Last of this module: it replaces the patches."""
    other = SplitSpec(val=0.2, test=0.1)
    tile(TileConfig(dataset="toy", patch_size=32, stride=16, split=other))
    report = evaluate(EvaluateConfig(model="toy", dataset="toy"))
    assert report["held_out"] is False
    assert "tiled anew" in capsys.readouterr().err
    tile(TileConfig(dataset="toy", patch_size=16, stride=16, split=other))
    with pytest.raises(BandMismatch, match="toy: has other patch_size than the model: 16, not 32"):
        evaluate(EvaluateConfig(model="toy", dataset="toy"))
