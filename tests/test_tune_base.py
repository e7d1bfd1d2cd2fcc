"""What all trials of a sweep share, and what is refused before the first of them starts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from satseg_ray.errors import ConfigError, EmptySplit
from satseg_ray.patches.store import PatchStore
from satseg_ray.tune.base import base_config, check_against
from satseg_ray.tune.config import TuneConfig
from satseg_ray.tune.space import check_space
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
    ],
)
def test_what_no_trial_could_take_is_refused_before_any_starts(tiled, given, problem):
    with pytest.raises(ConfigError, match=problem):
        check(sweep(**given), tiled)


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
