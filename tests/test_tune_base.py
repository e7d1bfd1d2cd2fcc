"""What all trials of a sweep share, and what is refused before the first of them starts."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from satseg_ray.errors import ConfigError, EmptySplit, MissingFile, ModelVersionNotFound
from satseg_ray.patches.store import PatchStore
from satseg_ray.tune.base import (
    base_config,
    check_against,
    check_metric,
    check_starts,
    with_absolute_paths,
)
from satseg_ray.tune.config import TuneConfig
from satseg_ray.tune.space import check_space
from satseg_ray.workspace import Workspace
from tests.test_train_loop import write_patches

SPACE: dict[str, Any] = {"learning_rate": {"low": 0.001, "high": 0.01}}


def sweep(**given: Any) -> TuneConfig:
    return TuneConfig.model_validate({"dataset": "toy", "space": SPACE} | given)


@pytest.fixture
def tiled(tmp_path: Path) -> PatchStore:
    """Patches of 64 pixels, of land and water."""
    return PatchStore.open(write_patches(tmp_path / "patches", train=2, val=1))


def check(config: TuneConfig, patches: PatchStore) -> None:
    base = base_config(config)
    check_space(base, config.space)
    check_against(patches, config, base)


def test_every_network_that_the_space_can_ask_for_is_checked(tiled):
    both = {"architecture": ["unet", "linknet"], "patch_size": [32, 64]}
    check(sweep(space=SPACE | both), tiled)
    with pytest.raises(ConfigError, match="architecture pspnet, patch_size 32"):
        check(sweep(space={"patch_size": [32], "architecture": ["unet", "pspnet"]}), tiled)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"metric": "val_miou"}, r"metric: 'val_miou' is no figure.*val_mean_iou"),
        ({"metric": "val_loss"}, "metric: 'val_loss' is no figure"),
        ({"space": {"patch_size": [50]}}, r"space \(patch_size 50\): unet takes no patches of 50"),
        ({"space": {"patch_size": [96]}}, r"space \(patch_size 96\): 96 is more than the 64"),
        ({"space": {"patch_size": {"low": 32, "high": 64}}}, "space.patch_size: is a range"),
        ({"space": {"epochs": [2, 4]}}, "space.epochs: is no setting"),
        ({"train": {"architecture": "pspnet", "patch_size": 64}}, "pspnet takes no patches of 64"),
        ({"train": {"loss": {"class_weights": {"snow": 3}}}}, "snow"),
        ({"train": {"loss": {"rice": 1}}}, "train.loss.rice: is no key"),
        ({"train": {"register": "a"}}, "train.register: is set by the sweep"),
        (
            {"train": {"workers": 3}, "space": {"batch_size": [8, 2]}},
            r"space \(batch_size 2\): 2 patches cannot be shared by 3 workers",
        ),
        (
            {"train": {"workers": 3}, "space": {"batch_size": {"low": 1, "high": 8}}},
            r"space \(batch_size 1\)",
        ),
        ({"train": {"workers": 9, "batch_size": 8}}, "train.batch_size: 8 patches cannot be"),
        (
            {"space": {"patch_size": [64, 32], "predict_stride": [48]}},
            r"space \(patch_size 32, predict_stride 48\)",
        ),
        (
            {"space": {"loss.cross_entropy": [0.0, 1.0], "loss.dice": [1.0, 0.0]}},
            r"space \(loss.cross_entropy 0.0, loss.dice 0.0\): .* no term of the loss",
        ),
    ],
)
def test_what_no_trial_could_take_is_refused_before_any_starts(tiled, given, problem):
    with pytest.raises(ConfigError, match=problem):
        check(sweep(**given), tiled)


def test_a_loss_that_is_never_all_zero_is_none_to_refuse(tiled):
    weights = {"loss.cross_entropy": [0.0, 1.0], "loss.dice": {"low": 0.0, "high": 1.0}}
    check(sweep(space=weights), tiled)


@pytest.mark.parametrize(
    ("start", "error", "problem"),
    [
        ({"encoder_weights": [None, "none.h5"]}, MissingFile, r"space \(encoder_weights none.h5\)"),
        ({"init_from": [None, "models:/none/1"]}, ModelVersionNotFound, r"space \(init_from mod"),
        (
            {"encoder_weights": [None, "imagenet"], "backbone": ["vgg16", "resnet18"]},
            ConfigError,
            r"space \(backbone resnet18, encoder_weights imagenet\): .*no network",
        ),
        ({"init_from": ["a"], "encoder_weights": ["b"]}, ConfigError, "two starts"),
    ],
)
def test_first_weights_are_found_before_any_trial(
    tiled, tmp_path, monkeypatch, start, error, problem
):
    def fetch(backbone: str, folder: Path) -> Path:
        if backbone != "vgg16":
            raise ConfigError("encoder_weights", "no network", "Name a file.")
        (tmp_path / "vgg16.h5").touch()
        return tmp_path / "vgg16.h5"

    monkeypatch.setattr("satseg_ray.train.first_weights.fetch_imagenet", fetch)
    config = sweep(space=start)
    with pytest.raises(error, match=problem):
        check_starts(tiled, config, base_config(config), Workspace(tmp_path))


def test_the_metric_of_a_class_that_validation_lacks_is_refused(tiled):
    counts = dict(tiled.manifest.counts)
    counts["val"] = {"patches": 1, "pixels": {"land": 1000, "water": 0, "unlabelled": 0}}
    manifest = replace(tiled.manifest, counts=counts)
    check_metric("val_iou_land", manifest)
    with pytest.raises(ConfigError, match="'val_iou_water' is of a class without a validation pix"):
        check_metric("val_iou_water", manifest)


def test_a_data_set_without_validation_is_refused(tmp_path):
    store = PatchStore.open(write_patches(tmp_path / "patches", train=2))
    with pytest.raises(EmptySplit, match="val"):
        check(sweep(), store)


def test_weights_by_class_are_a_value_and_not_a_section(tiled):
    config = sweep(train={"loss": {"class_weights": {"water": 3.0}, "dice": 0.5}})
    check(config, tiled)
    assert base_config(config).loss.class_weights == {"water": 3.0}


def test_paths_are_absolute_for_a_trial_works_in_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("weights.h5").touch()
    base = base_config(sweep(train={"encoder_weights": "weights.h5"}))
    assert base.encoder_weights == os.path.join(tmp_path, "weights.h5")
    assert base_config(sweep(train={"encoder_weights": "imagenet"})).encoder_weights == "imagenet"
    space = {"encoder_weights": [None, "imagenet", "weights.h5"]}
    found = with_absolute_paths(sweep(space=space))
    assert found.space["encoder_weights"] == [None, "imagenet", str(tmp_path / "weights.h5")]
