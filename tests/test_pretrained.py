"""First weights: a grey image gives the same features in any number of bands; fresh heads."""

from __future__ import annotations

import socket
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from satseg_ray.classes import ClassDef, ClassTable
from satseg_ray.errors import ConfigError
from satseg_ray.model.backbones import ARCHITECTURES
from satseg_ray.model.network import body, build_encoder, build_network
from satseg_ray.model.pretrained import (
    FirstWeights,
    band_shares,
    check_answers,
    encoder_layers,
    fetch_imagenet,
    head,
    library_range,
    set_first_weights,
    stem,
)
from satseg_ray.model.spec import ModelSpec
from satseg_ray.model.store import load_network, save_model
from tests.test_model_network import SPEC, settled_threads

pytestmark = pytest.mark.tensorflow

OTHERS = ClassTable((ClassDef(0, "field"), ClassDef(1, "road"), ClassDef(2, "house")))
FEATURES = {"mobilenetv2": "block_13_expand_relu", "resnet18": "stage4_unit1_relu1"}
NAMES = ("a", "b", "c", "d", "e", "f")


def spec_of(bands: int, **change) -> ModelSpec:
    """A spec whose normalisation changes nothing, so that a grey image stays grey."""
    return replace(
        SPEC,
        bands=tuple(f"b{number}" for number in range(bands)),
        band_indexes=tuple(range(1, bands + 1)),
        mean=(0.0,) * bands,
        std=(1.0,) * bands,
        **change,
    )


def grey(bands: int, side: int = 64) -> np.ndarray:
    values = np.random.default_rng(7).normal(size=(2, side, side, 1)).astype(np.float32)
    return np.repeat(values, bands, axis=-1)


def moved(network) -> None:
    """Give normalisations other statistics in each channel, as training would."""
    rng = np.random.default_rng(1)
    for layer in network.layers:
        if hasattr(layer, "moving_mean"):
            layer.set_weights(
                [
                    w + rng.uniform(0.05, 0.3, w.shape).astype(np.float32)
                    for w in layer.get_weights()
                ]
            )


@pytest.fixture(scope="module", autouse=True)
def threads() -> int:
    return settled_threads()


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """Weights files of three-band encoders."""
    made = {}
    for backbone in FEATURES:
        made[backbone] = tmp_path_factory.mktemp("encoders") / f"{backbone}.h5"
        encoder = build_encoder(backbone, 3)
        moved(encoder)
        encoder.save_weights(made[backbone])
    return made


@pytest.fixture(scope="module")
def donor(tmp_path_factory) -> Path:
    """A model of four bands and three classes whose statistics have moved."""
    directory = tmp_path_factory.mktemp("donor") / "model"
    spec = spec_of(4)
    network = build_network(spec, seed=11)
    moved(body(network))
    save_model(network, spec, directory)
    return directory


@pytest.fixture(scope="module")
def donor_network(donor):
    return load_network(donor)


@pytest.fixture(scope="module")
def _four_bands() -> tuple:
    network = build_network(spec_of(4), seed=5)
    return network, network.get_weights()


@pytest.fixture
def network(_four_bands):
    """A network of four bands and three classes, random as at first."""
    made, weights = _four_bands
    made.set_weights(weights)
    return made


def features(network, backbone: str, pixels: np.ndarray) -> np.ndarray:
    """The deepest features that all architectures take from an encoder."""
    import tensorflow as tf

    inner = body(network) if nested(network) else network
    part = tf.keras.Model(inner.inputs, inner.get_layer(FEATURES[backbone]).output)
    return part(pixels, training=False).numpy()


def nested(network) -> bool:
    import tensorflow as tf

    return any(isinstance(layer, tf.keras.Model) for layer in network.layers)


def weights_by_layer(network) -> dict:
    return {layer.name: layer.get_weights() for layer in body(network).layers if layer.weights}


def same(a: list, b: list) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


band_names = st.lists(st.sampled_from(NAMES), min_size=1, max_size=6, unique=True)


@given(band_names, band_names)
def test_shares_of_each_old_band_add_up_to_one_and_no_new_band_is_empty(old, new):
    shares = band_shares(old, new)
    assert shares.shape == (len(new), len(old))
    np.testing.assert_allclose(shares.sum(axis=0), 1, rtol=1e-6)
    assert (shares.sum(axis=1) > 0).all()


@given(band_names, st.randoms(use_true_random=False))
def test_bands_of_the_same_names_keep_their_kernels_in_any_order(names, random):
    order = random.sample(names, len(names))
    expected = np.array([[a == b for b in names] for a in order], np.float32)
    np.testing.assert_array_equal(band_shares(names, order), expected)


@pytest.mark.parametrize(
    ("backbone", "bands"),
    [
        ("mobilenetv2", 4),
        ("mobilenetv2", 12),
        ("resnet18", 5),
        *(pytest.param(name, n, marks=pytest.mark.slow) for name in FEATURES for n in (3, 6)),
    ],
)
def test_a_grey_image_gives_the_features_of_the_three_band_encoder(files, backbone, bands):
    spec = spec_of(bands, backbone=backbone)
    network = build_network(spec, seed=5)
    set_first_weights(network, spec, FirstWeights(encoder=str(files[backbone])))
    encoder = build_encoder(backbone, 3)
    encoder.load_weights(files[backbone])
    expected = features(encoder, backbone, grey(3))
    found = features(network, backbone, grey(bands))
    assert expected.std() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("bands", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_fewer_bands_add_up_the_kernels(files, bands):
    spec = spec_of(bands)
    network = build_network(spec, seed=5)
    set_first_weights(network, spec, FirstWeights(encoder=str(files["mobilenetv2"])))
    encoder = build_encoder("mobilenetv2", 3)
    encoder.load_weights(files["mobilenetv2"])
    expected = features(encoder, "mobilenetv2", grey(3))
    found = features(network, "mobilenetv2", grey(bands))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_three_bands_take_the_encoder_as_it_is(files):
    spec = spec_of(3)
    network = build_network(spec, seed=5)
    before = weights_by_layer(network)
    set_first_weights(network, spec, FirstWeights(encoder=str(files["mobilenetv2"])))
    after, own = weights_by_layer(network), encoder_layers(files["mobilenetv2"], "mobilenetv2")
    assert all(same(after[name], list(own[name])) for name in own)
    assert all(same(after[name], before[name]) for name in before if name not in own)
    assert len(own) > 100


@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param(name, marks=[] if name == "pspnet" else pytest.mark.slow)
        for name in ARCHITECTURES
    ],
)
def test_each_architecture_takes_the_encoder_of_a_model_of_another(
    donor, donor_network, architecture
):
    spec = spec_of(4, architecture=architecture, patch_size=96, classes=OTHERS)
    network = build_network(spec, seed=5)
    set_first_weights(network, spec, FirstWeights(encoder=str(donor)))
    inner = body(network)
    assert head(inner).get_weights()[0].shape[-1] == len(OTHERS)
    assert [layer.name for layer in stem(inner) if layer.weights] == ["Conv1"]
    name = "block_6_expand_relu"  # of the encoder of PSPNet too
    import tensorflow as tf

    parts = [
        tf.keras.Model(net.inputs, net.get_layer(name).output)
        for net in (inner, body(donor_network))
    ]
    pixels = np.random.default_rng(0).normal(size=(1, 96, 96, 4)).astype(np.float32)
    np.testing.assert_array_equal(*[part(pixels, training=False) for part in parts])


def test_a_model_of_the_same_classes_starts_as_it_was(donor, donor_network, network):
    set_first_weights(network, spec_of(4), FirstWeights(model=str(donor)))
    pixels = grey(4)
    np.testing.assert_array_equal(network(pixels), donor_network(pixels))


def test_other_classes_get_a_fresh_head_and_nothing_else(donor, donor_network, network):
    before = weights_by_layer(network)
    set_first_weights(network, spec_of(4, classes=OTHERS), FirstWeights(model=str(donor)))
    after, source = weights_by_layer(network), weights_by_layer(donor_network)
    fresh = [name for name in after if not same(after[name], source[name])]
    assert fresh == [head(body(network)).name]
    assert same(after[fresh[0]], before[fresh[0]])


@pytest.mark.parametrize("bands", [pytest.param(1, marks=pytest.mark.slow), 3, 6])
def test_other_bands_give_a_grey_image_the_same_logits(donor, donor_network, bands):
    spec = spec_of(bands)
    network = build_network(spec, seed=5)
    set_first_weights(network, spec, FirstWeights(model=str(donor)))
    expected = donor_network(grey(4)).numpy()
    tolerance = 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(network(grey(bands)), expected, rtol=1e-3, atol=tolerance)


def test_bands_in_another_order_give_the_same_logits(donor, donor_network, network):
    spec = replace(spec_of(4), bands=spec_of(4).bands[::-1])
    set_first_weights(network, spec, FirstWeights(model=str(donor)))
    pixels = np.random.default_rng(0).normal(size=(1, 64, 64, 4)).astype(np.float32)
    expected = donor_network(pixels).numpy()
    tolerance = 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(network(pixels[..., ::-1]), expected, rtol=1e-3, atol=tolerance)


def test_a_model_of_another_kind_is_refused_by_name(donor, network):
    spec = spec_of(4, backbone="resnet18")
    with pytest.raises(ConfigError, match=r"init_from: .*backbone 'mobilenetv2', not 'resnet18'"):
        set_first_weights(network, spec, FirstWeights(model=str(donor)))


def test_a_file_of_another_encoder_is_refused_by_name(files, tmp_path):
    with pytest.raises(ConfigError, match="holds no weights of a resnet18"):
        encoder_layers(files["mobilenetv2"], "resnet18")
    text = tmp_path / "weights.h5"
    text.write_text("nothing")
    with pytest.raises(ConfigError, match=r"weights\.h5 holds no weights of a mobilenetv2"):
        encoder_layers(text, "mobilenetv2")


def test_an_encoders_range_is_in_the_graph(network):
    wide = library_range("mobilenetv2")
    spec = spec_of(4, input_scale=wide.scale, input_offset=wide.offset)
    ranged, pixels = build_network(spec, seed=5), grey(4)
    expected = network(pixels * wide.scale + wide.offset)
    np.testing.assert_allclose(ranged(pixels), expected, rtol=1e-4, atol=1e-5)


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """An empty home, and a proxy that nobody is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("https_proxy", "http_proxy", "HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)


@pytest.mark.parametrize("others", [False, True])
def test_without_a_network_imagenet_is_refused_within_seconds(no_network, tmp_path, others):
    import tensorflow as tf

    if others:  # the library has downloaded another encoder before
        (tmp_path / ".keras" / "models").mkdir(parents=True)
        (tmp_path / ".keras" / "models" / "other.h5").touch()
    download, start = tf.keras.utils.get_file, time.monotonic()
    with pytest.raises(ConfigError, match="weights of mobilenetv2 cannot be downloaded"):
        fetch_imagenet("mobilenetv2", tmp_path / "cache")
    assert time.monotonic() - start < (60 if others else 15)  # it is built first
    assert tf.keras.utils.get_file is download
    assert not (tmp_path / "cache").exists()


def test_a_server_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        start = time.monotonic()
        with pytest.raises(OSError, match=r"no answer|timed out"):
            check_answers(f"http://127.0.0.1:{deaf.getsockname()[1]}/x", 0.5)
        assert time.monotonic() - start < 5


def test_a_file_that_was_fetched_before_serves_without_a_network(no_network, tmp_path):
    path = tmp_path / "mobilenetv2-imagenet.weights.h5"
    path.touch()
    assert fetch_imagenet("mobilenetv2", tmp_path) == path
