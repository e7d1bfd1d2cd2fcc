"""Which networks there are, what sizes they take, and what a wrong name is answered."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from satseg_ray.config import TrainConfig, load_config
from satseg_ray.errors import ConfigError
from satseg_ray.model.backbones import (
    ARCHITECTURES,
    BACKBONES,
    accepted_size,
    check_pair,
    check_size,
)

YAML = Path(__file__).resolve().parent.parent / "jobs" / "train.yaml"


@given(st.sampled_from(sorted(ARCHITECTURES)), st.integers(48, 5000))
def test_the_accepted_size_is_the_largest_multiple_that_fits(architecture, stored):
    side = accepted_size(architecture, stored)
    check_size(architecture, side)
    assert side <= stored < side + ARCHITECTURES[architecture].multiple


@pytest.mark.parametrize(
    ("architecture", "stored", "side"),
    [("unet", 256, 256), ("fpn", 250, 224), ("pspnet", 256, 240), ("pspnet", 48, 48)],
)
def test_known_sizes(architecture, stored, side):
    assert accepted_size(architecture, stored) == side


@pytest.mark.parametrize(("architecture", "stored"), [("unet", 31), ("pspnet", 47)])
def test_a_size_that_nobody_accepts_is_refused_by_name(architecture, stored):
    with pytest.raises(ConfigError, match=f"{architecture} takes no patch of {stored} pixels"):
        accepted_size(architecture, stored)


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("resnet-34", "resnet34"),
        ("ResNet50", "resnet50"),
        ("efficientnet_b0", "efficientnetb0"),
        ("mobilenet_v2", "mobilenetv2"),
        ("resnt18", "resnet18"),
        ("inception_resnet_v2", "inceptionresnetv2"),
    ],
)
def test_an_unknown_backbone_is_answered_with_the_near_ones(wrong, near):
    with pytest.raises(ConfigError, match=f"{wrong!r} is not known") as caught:
        check_pair("unet", wrong)
    assert caught.value.remedy.startswith(f"Near it: {near}")


def test_the_config_refuses_an_unknown_backbone_without_tensorflow():
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from satseg_ray.config import TrainConfig, load_config\n"
        "try:\n"
        f"    load_config(TrainConfig, Path({str(YAML)!r}), sys.argv[1:])\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
        "print('tensorflow' in sys.modules)\n"
    )
    command = [sys.executable, "-c", code, "--dataset=a", "--backbone=resnet19"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said, imported = done.stdout.splitlines()
    assert said.startswith("ConfigError backbone: 'resnet19' is not known. Near it: resnet18")
    assert imported == "False"


def test_two_starts_are_refused():
    flags = ["--dataset", "a", "--encoder-weights", "imagenet", "--init-from", "models:/a@b"]
    with pytest.raises(ConfigError, match="give one"):
        load_config(TrainConfig, YAML, flags)


@pytest.mark.tensorflow
def test_the_backbones_are_those_of_the_library():
    from satseg_ray.model.network import _segmentation_models

    library = _segmentation_models()
    offered = set(library.get_available_backbone_names())
    assert set(BACKBONES) == offered & set(library.Backbones._default_feature_layers)
    assert len(BACKBONES) == len(set(BACKBONES))
