"""Networks from specs, models on disk, and the segmenter's law of positions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from satseg_ray.classes import ClassDef, ClassTable
from satseg_ray.errors import BandMismatch, ConfigError, ModelVersionNotFound, UnwritableProduct
from satseg_ray.model.backbones import ARCHITECTURES
from satseg_ray.model.environment import processors, require_legacy_keras, use_threads
from satseg_ray.model.network import build_network, check_spec
from satseg_ray.model.segmenter import Segmenter
from satseg_ray.model.spec import ModelSpec
from satseg_ray.model.store import GRAPH, WEIGHTS, load_network, read_spec, save_model
from tests.factories import files_of_at_most, names

pytestmark = pytest.mark.tensorflow

BANDS = 4
SPEC = ModelSpec(
    architecture="linknet",
    backbone="mobilenetv2",
    bands=("B02", "B03", "B04", "B08"),
    band_indexes=(1, 2, 3, 4),
    dtype="uint16",
    classes=ClassTable((ClassDef(0, "land"), ClassDef(1, "water"), ClassDef(7, "cloud"))),
    patch_size=64,
    stride=48,
    mean=(400.5, 600.0, 700.0, 2000.0),
    std=(100.0, 150.0, 200.0, 0.0),
    batch_norm_momentum=0.8,
    lineage={"dataset": "test"},
)


def settled_threads() -> int:
    """One thread, or all if an earlier test has started TensorFlow with its own choice."""
    require_legacy_keras()
    try:
        use_threads(1)
    except ConfigError:
        use_threads(processors())
        return processors()
    return 1


@pytest.fixture(scope="module", autouse=True)
def threads() -> int:
    return settled_threads()


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "linknet"
    save_model(build_network(SPEC, seed=3), SPEC, directory)
    return directory


@pytest.fixture(scope="module")
def segmenter(model_dir, threads) -> Segmenter:
    return Segmenter.load(model_dir, batch_size=4, threads=threads)


def patches(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 4000, (count, 64, 64, BANDS), dtype=np.uint16)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_have_the_size_of_the_patch(architecture):
    spec = replace(SPEC, architecture=architecture, patch_size=96)
    network = build_network(spec, seed=0)
    assert network(np.zeros((2, 96, 96, BANDS), np.float32)).shape == (2, 96, 96, 3)


def test_same_seed_same_weights():
    first, again, other = (build_network(SPEC, seed).get_weights() for seed in (5, 5, 6))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_batch_norm_momentum_is_the_specs_in_backbone_and_decoder():
    network = build_network(SPEC, seed=0)
    momenta = [layer.momentum for layer in network.submodules if hasattr(layer, "momentum")]
    assert len(momenta) > 50
    assert set(momenta) == {0.8}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_counts_as_the_mean_of_its_band(bad):
    network = build_network(SPEC, seed=0)
    pixels = patches(1).astype(np.float32)
    holes, filled = pixels.copy(), pixels.copy()
    holes[0, 10:20, 5, 1], filled[0, 10:20, 5, 1] = bad, SPEC.mean[1]
    assert np.array_equal(network(holes), network(filled))


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"architecture": "deeplab"}, "unet, linknet, fpn, pspnet"),
        ({"backbone": "vit"}, "mobilenetv2"),
        ({"patch_size": 100}, "such as 96 or 128"),
        ({"patch_size": 16}, "such as 32 or 64"),
        ({"architecture": "pspnet", "patch_size": 64}, "multiple of 48"),
        (
            {"architecture": "pspnet", "backbone": "inceptionv3", "patch_size": 48},
            "pspnet with inceptionv3 takes no patches of 48 pixels. Use 96 or more",
        ),
    ],
)
def test_a_spec_that_cannot_be_built_names_what_can(change, remedy):
    with pytest.raises(ConfigError, match=remedy):
        check_spec(replace(SPEC, **change))


def test_a_stored_network_comes_back_with_the_same_logits(model_dir):
    pixels = patches(2).astype(np.float32)
    assert np.array_equal(build_network(SPEC, seed=3)(pixels), load_network(model_dir)(pixels))
    assert read_spec(model_dir) == SPEC


def test_a_model_directory_holds_no_pickle_and_no_scratch(model_dir):
    assert sorted(path.name for path in model_dir.iterdir()) == [
        "saved_model",
        "spec.json",
        "weights.h5",
    ]
    assert names(model_dir.parent) == [model_dir.name]
    assert not list(model_dir.rglob("*.pkl"))


def test_a_failed_save_leaves_the_old_model(model_dir, monkeypatch):
    before = {path.name: path.stat().st_mtime_ns for path in model_dir.iterdir()}
    with pytest.raises(AttributeError):
        save_model(object(), SPEC, model_dir)
    assert before == {path.name: path.stat().st_mtime_ns for path in model_dir.iterdir()}


@pytest.mark.parametrize("name", [WEIGHTS, GRAPH])
def test_a_disk_that_fills_up_at_the_weights_or_the_graph_is_named_and_keeps_the_old_model(
    tmp_path, monkeypatch, name
):
    """The system refuses larger files, and h5py and TensorFlow say so in their own ways."""
    import tensorflow as tf

    layers = [tf.keras.layers.Conv2D(width, 1) for width in (512, 512, len(SPEC.classes))]
    network = tf.keras.Sequential([tf.keras.Input((64, 64, BANDS)), *layers])  # 1 MiB
    model = tmp_path / "model"
    model.mkdir()
    (model / "old").touch()
    if name == GRAPH:  # the weights are as large, and would fail first
        monkeypatch.setattr(network, "save_weights", lambda path: path.write_bytes(b""))
    with (
        files_of_at_most(1 << 19),
        pytest.raises(UnwritableProduct, match=f"{model}/{name}: cannot be written") as caught,
    ):
        save_model(network, SPEC, model)
    print(caught.value)
    assert names(tmp_path) == ["model"]
    assert names(model) == ["old"]


def test_a_directory_without_a_model_is_named(tmp_path):
    with pytest.raises(ModelVersionNotFound, match=r"spec\.json"):
        Segmenter.load(tmp_path)


def test_probabilities_are_the_softmax_of_the_logits(segmenter, model_dir):
    import tensorflow as tf

    pixels = patches(4)
    expected = tf.nn.softmax(load_network(model_dir)(pixels.astype(np.float32))).numpy()
    scores = segmenter.predict_proba(pixels)
    assert scores.dtype == np.float32
    assert np.abs(scores - expected).max() < 1e-6
    assert np.allclose(scores.sum(axis=-1), 1, atol=1e-6)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 9])
def test_padding_and_position_change_no_bit(segmenter, count):
    pixels = patches(9)
    alone = np.stack([segmenter.predict_proba(pixels[i : i + 1])[0] for i in range(9)])
    assert segmenter.predict_proba(pixels[:count]).tobytes() == alone[:count].tobytes()
    order = np.random.default_rng(1).permutation(9)[:count]
    assert segmenter.predict_proba(pixels[order]).tobytes() == alone[order].tobytes()


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32", "float64"])
def test_the_type_of_raw_values_changes_no_bit(segmenter, dtype):
    pixels = patches(2) % 256
    assert np.array_equal(
        segmenter.predict_proba(pixels.astype(dtype)), segmenter.predict_proba(pixels)
    )


def test_patches_of_another_shape_are_refused(segmenter):
    with pytest.raises(BandMismatch, match=r"\(64, 64, 4\)"):
        segmenter.predict_proba(np.zeros((1, 64, 64, 3), np.uint16))


def test_numerics_key_tells_models_and_batch_sizes_apart(segmenter, model_dir, threads, tmp_path):
    key = segmenter.numerics_key()
    assert key == Segmenter.load(model_dir, 4, threads).numerics_key()
    assert key != Segmenter.load(model_dir, 2, threads).numerics_key()
    save_model(build_network(SPEC, seed=4), SPEC, tmp_path / "other")
    assert key.model != Segmenter.load(tmp_path / "other", 4, threads).numerics_key().model


def test_another_number_of_threads_in_one_process_is_refused(segmenter, model_dir, threads):
    with pytest.raises(ConfigError, match=f"runs with {threads}"):
        Segmenter.load(model_dir, threads=threads + 1)
