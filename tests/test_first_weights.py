"""Where first weights come from: words of a config to files, lineage and refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from satseg_ray.classes import ClassDef, ClassTable
from satseg_ray.config import TrainConfig
from satseg_ray.errors import ConfigError, MissingFile, ModelVersionNotFound
from satseg_ray.lineage import patches_seen
from satseg_ray.model.pretrained import FirstWeights, InputRange
from satseg_ray.model.spec import ModelSpec
from satseg_ray.model.store import model_digest, read_spec
from satseg_ray.patches.store import PatchManifest
from satseg_ray.tracking import Tracking, register_model
from satseg_ray.train.first_weights import Start, find_start
from satseg_ray.train.job import kept_settings, model_spec
from satseg_ray.workspace import Workspace

CLASSES = ClassTable((ClassDef(0, "land"), ClassDef(1, "water")))


def manifest(patch_size: int) -> PatchManifest:
    return PatchManifest(
        dataset="toy",
        version="toy@1",
        classes=CLASSES,
        bands=("red", "nir"),
        band_indexes=(1, 2),
        dtype="uint16",
        patch_size=patch_size,
        stride=patch_size,
        mean=(1.0, 2.0),
        std=(1.0, 2.0),
        counts={},
        dropped={},
        lineage={"patches_version": "toy@2"},
    )


def config(**change) -> TrainConfig:
    defaults = {"dataset": "toy", "architecture": "fpn", "backbone": "resnet18"}
    return TrainConfig.model_validate(defaults | change)


SPEC = model_spec(config(), manifest(64))


def stored(directory: Path, **change) -> Path:
    """A model directory as far as nobody loads its weights."""
    directory.mkdir(parents=True)
    replace(SPEC, **change).write(directory / "spec.json")
    (directory / "weights.h5").write_bytes(b"weights")
    (directory / "saved_model").mkdir()
    return directory


@pytest.fixture
def place(workspace) -> Workspace:
    return Workspace.resolve()


@pytest.mark.parametrize(
    ("architecture", "stored_size", "side"),
    [("unet", 256, 256), ("pspnet", 256, 240), ("fpn", 100, 96), ("pspnet", 96, 96)],
)
def test_the_spec_says_the_size_that_the_network_takes(architecture, stored_size, side):
    spec = model_spec(config(architecture=architecture), manifest(stored_size))
    assert (spec.patch_size, spec.stride) == (side, side * 3 // 4)
    assert spec.lineage["stored_patch_size"] == str(stored_size)
    assert spec.lineage["patches_version"] == "toy@2"


def test_a_stored_size_that_the_network_cannot_take_is_refused():
    with pytest.raises(ConfigError, match="pspnet takes no patch of 40 pixels or less"):
        model_spec(config(architecture="pspnet"), manifest(40))


def test_a_side_of_ones_own_is_cut_out_of_the_stored_patches_and_checked():
    assert model_spec(config(patch_size=32), manifest(64)).patch_size == 32
    with pytest.raises(ConfigError, match="patch_size: 96 is more than the 64 pixels"):
        model_spec(config(patch_size=96), manifest(64))
    with pytest.raises(ConfigError, match=r"takes no patches of 50 pixels.*such as 32 or 64"):
        model_spec(config(patch_size=50), manifest(64))


def test_by_default_weights_are_random_and_nothing_is_changed(place):
    start = find_start(config(), SPEC, place)
    assert start == Start()
    assert start.applied(SPEC) == SPEC


def test_an_encoders_file_brings_its_range_and_its_digest(place, tmp_path):
    path = tmp_path / "encoder.h5"
    path.write_bytes(b"x")
    start = find_start(config(encoder_weights=str(path)), SPEC, place)
    assert start.weights == FirstWeights(encoder=str(path))
    spec = start.applied(SPEC)
    assert (spec.input_scale, spec.input_offset) == (57.6, 114.5)
    assert spec.lineage["encoder_weights"] == str(path)
    assert len(spec.lineage["encoder_weights_sha256"]) == 64
    assert spec.lineage["patches_version"] == "toy@2"
    assert ModelSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize("inside", ["", "model"])
def test_a_runs_folder_or_its_model_is_a_start(place, tmp_path, inside):
    directory = stored(tmp_path / "run" / "model", input_scale=0.5, input_offset=-0.1)
    given = str(tmp_path / "run" / inside)
    start = find_start(config(init_from=given), SPEC, place)
    assert start.weights == FirstWeights(model=str(directory))
    assert start.input_range == InputRange(0.5, -0.1)
    assert start.lineage == {
        "init_from": str(directory),
        "init_from_sha256": model_digest(directory),
        "start_patches": "toy@2",
    }


def test_a_model_knows_what_its_start_and_the_start_before_were_trained_on(place, tmp_path):
    seen = {"patches_version": "sea@2", "start_patches": "sea@1 land@7"}
    directory = stored(tmp_path / "model", lineage=seen)
    start = find_start(config(init_from=str(directory)), SPEC, place)
    assert start.lineage["start_patches"] == "sea@2 sea@1 land@7"
    spec = replace(SPEC, lineage={"patches_version": "sea@3"})
    assert patches_seen(start.applied(spec).lineage) == ("sea@3", "sea@2", "sea@1", "land@7")


def test_a_start_is_kept_as_it_may_be_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept = kept_settings(config(encoder_weights="w.h5", fresh=True))
    assert kept["encoder_weights"] == str(tmp_path / "w.h5")
    assert "fresh" not in kept
    assert kept_settings(config(encoder_weights="imagenet"))["encoder_weights"] == "imagenet"
    assert kept_settings(config(init_from="models:/sea/3"))["init_from"] == "models:/sea/3"


def test_an_encoder_comes_from_a_model_of_any_architecture_of_its_backbone(place, tmp_path):
    directory = stored(tmp_path / "unet", architecture="unet")
    start = find_start(config(encoder_weights=str(directory)), SPEC, place)
    assert start.weights == FirstWeights(encoder=str(directory))
    with pytest.raises(ConfigError, match=r"init_from: .*architecture 'unet', not 'fpn'"):
        find_start(config(init_from=str(directory)), SPEC, place)
    other = stored(tmp_path / "other", backbone="vgg16")
    with pytest.raises(ConfigError, match=r"encoder_weights: .*backbone 'vgg16', not 'resnet18'"):
        find_start(config(encoder_weights=str(other)), SPEC, place)


def test_a_registered_model_is_a_start_by_alias_and_by_version(place, tmp_path):
    tracking = Tracking.open(place.root)
    run = tracking.create_run("train", "a run")
    directory = stored(tmp_path / "result")
    register_model(run, directory, "water")
    for uri in ("models:/water", "models:/water@champion", "models:/water/1"):
        start = find_start(config(init_from=uri), SPEC, place)
        assert start.lineage["init_from"] == "models:/water/1"
        assert start.lineage["init_from_sha256"] == model_digest(directory)
        assert read_spec(Path(str(start.weights.model))) == read_spec(directory)
    with pytest.raises(ModelVersionNotFound, match="models:/water"):
        find_start(config(init_from="models:/water@nobody"), SPEC, place)


@pytest.mark.parametrize("text", ["models:/water/x", "models:/a/b/c", "models:/@a"])
def test_another_form_of_a_models_name_is_refused(place, text):
    with pytest.raises(ConfigError, match=r"init_from: .* is no model. Write name, name@alias"):
        find_start(config(init_from=text), SPEC, place)


@pytest.mark.parametrize("key", ["init_from", "encoder_weights"])
def test_a_path_without_a_model_is_named(place, tmp_path, key):
    with pytest.raises(MissingFile, match=f"{key}: there is no '/nowhere'"):
        find_start(config(**{key: "/nowhere"}), SPEC, place)
    with pytest.raises(MissingFile, match="is no model directory"):
        find_start(config(**{key: str(tmp_path)}), SPEC, place)
