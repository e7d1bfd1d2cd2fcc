"""The jobs that use a registered model: bad input is one error, and nothing half-made is left."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio

from satseg_ray.config import EvaluateConfig, PredictConfig
from satseg_ray.errors import (
    BandMismatch,
    ConfigError,
    DatasetNotFound,
    LabelsDoNotMatch,
    MissingFile,
    ModelVersionNotFound,
    SatsegError,
    UnknownClassValue,
    UnreadableRaster,
)
from satseg_ray.predict.evaluate import evaluate
from satseg_ray.predict.scene import predict
from satseg_ray.tracking import Tracking, register_model
from tests.factories import names, write_raster
from tests.test_predict_ray import HEIGHT, SPEC, WIDTH, textured, write_model

pytestmark = [pytest.mark.ray, pytest.mark.tensorflow]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with the model ``toy``."""
    root = tmp_path_factory.mktemp("home")
    directory = write_model(root / "built")
    run = Tracking.open(root).create_run("test", "toy")
    register_model(run, directory, "toy")
    run.finish()
    return root


@pytest.fixture(autouse=True)
def in_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SATSEG_WORKSPACE", str(home))


def left_over(home: Path) -> list[str]:
    folders = (home / "predictions", home / "evaluations")
    return [name for folder in folders if folder.is_dir() for name in names(folder)]


def no_file(folder: Path) -> Path:
    return folder / "absent.tif"


def text_file(folder: Path) -> Path:
    path = folder / "text.tif"
    path.write_text("not a raster\n" * 100)
    return path


def truncated(folder: Path) -> Path:
    path = write_raster(folder / "short.tif", textured(HEIGHT, WIDTH))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def one_band(folder: Path) -> Path:
    return write_raster(folder / "grey.tif", textured(96, 96)[:1])


def sixteen_bits(folder: Path) -> Path:
    return write_raster(folder / "deep.tif", textured(96, 96).astype(np.uint16))


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (no_file, MissingFile),
        (text_file, UnreadableRaster),
        (truncated, UnreadableRaster),
        (one_band, BandMismatch),
        (sixteen_bits, BandMismatch),
    ],
)
def test_a_bad_scene_is_one_error_that_names_it_and_leaves_nothing(
    ray_cluster: str,
    home: Path,
    tmp_path: Path,
    make: Callable[[Path], Path],
    error: type[SatsegError],
) -> None:
    scene = make(tmp_path)
    with pytest.raises(error) as caught:
        predict(PredictConfig(scene=str(scene), model="toy"))
    assert scene.name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert left_over(home) == []


def test_an_unknown_model_is_named_before_any_work(home: Path, tmp_path: Path) -> None:
    scene = write_raster(tmp_path / "scene.tif", textured(96, 96))
    with pytest.raises(ModelVersionNotFound, match="models:/absent@champion"):
        predict(PredictConfig(scene=str(scene), model="absent"))
    assert left_over(home) == []


@pytest.mark.parametrize(
    ("labels", "error"),
    [
        (np.zeros((90, 96), np.uint8), LabelsDoNotMatch),
        (np.full((96, 96), 77, np.uint8), UnknownClassValue),
    ],
)
def test_bad_labels_of_an_evaluation_are_one_error(
    ray_cluster: str,
    home: Path,
    tmp_path: Path,
    labels: np.ndarray,
    error: type[SatsegError],
) -> None:
    scene = write_raster(tmp_path / "scene.tif", textured(96, 96))
    truth = write_raster(tmp_path / "truth.tif", labels)
    with pytest.raises(error, match=r"truth\.tif"):
        evaluate(EvaluateConfig(model="toy", scene=str(scene), labels=str(truth)))
    assert left_over(home) == []


def test_an_evaluation_wants_a_split_or_a_labelled_scene(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dataset"):
        evaluate(EvaluateConfig(model="toy"))
    with pytest.raises(DatasetNotFound, match="absent"):
        evaluate(EvaluateConfig(model="toy", dataset="absent"))


def test_a_map_is_not_replaced_by_that_of_another_scene_of_the_same_name(
    home: Path, tmp_path: Path
) -> None:
    twin = write_raster(tmp_path / "twin.tif", textured(96, 96))
    made = home / "predictions" / "twin"
    made.mkdir(parents=True)
    other = write_raster(tmp_path / "elsewhere" / "twin.tif", textured(96, 96))
    (made / "report.json").write_text(json.dumps({"scene": str(other)}))
    with pytest.raises(ConfigError, match=r"the result of .*elsewhere/twin\.tif, not of .*twin"):
        predict(PredictConfig(scene=str(twin), model="toy"))
    shutil.rmtree(made)


def test_a_map_and_its_evaluation_against_itself_agree(
    ray_cluster: str, home: Path, tmp_path: Path
) -> None:
    pixels = textured(HEIGHT, WIDTH)
    pixels[:, :40, :50] = 0
    scene = write_raster(tmp_path / "scène 1.tif", pixels, nodata=0)
    made = predict(PredictConfig(scene=str(scene), model="toy", output="self"))
    with rasterio.open(made["map"]) as file, rasterio.open(scene) as source:
        values = file.read(1)
        assert (file.crs, file.transform, file.shape) == (
            source.crs, source.transform, source.shape,
        )  # fmt: skip
        tags = file.tags()
    np.testing.assert_array_equal(values == SPEC.classes.nodata, (pixels == 0).all(axis=0))
    assert tags["model_name"] == "toy"
    assert json.loads(tags["numerics_key"])["threads"] == 1
    report = evaluate(
        EvaluateConfig(
            model="toy", scene=str(scene), labels=made["map"], labels_by="value", threads=1
        )
    )
    assert report["accuracy"] == 1.0
    assert report["pixels"] == int((pixels != 0).any(axis=0).sum())
    assert {p.name for p in Path(report["directory"]).iterdir()} == {
        "blocks.json", "metrics.json", "samples.png", "confusion.png", "intervals.png",
    }  # fmt: skip
