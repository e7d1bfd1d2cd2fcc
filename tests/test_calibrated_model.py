"""A model's temperature: fitted on validation patches, stored in the spec, inside the graph."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from satseg_ray.model.calibration import LogitSample
from satseg_ray.model.network import build_network
from satseg_ray.model.segmenter import Segmenter
from satseg_ray.model.spec import ModelSpec
from satseg_ray.model.store import load_network, read_spec, save_model
from satseg_ray.patches.store import PatchStore
from tests.test_model_network import settled_threads
from tests.test_train_loop import SIDE, make_task, write_patches

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module", autouse=True)
def threads() -> int:
    return settled_threads()


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> PatchStore:
    return PatchStore.open(write_patches(tmp_path_factory.mktemp("toy") / "p", train=1, val=5))


@pytest.fixture(scope="module")
def spec(store) -> ModelSpec:
    return make_task(store.directory, Path("unused")).spec


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def test_the_graph_gives_calibrated_probabilities_and_the_network_plain_logits(
    spec, tmp_path, threads
):
    network = build_network(spec, seed=1)
    pixels = np.random.default_rng(0).normal(100, 30, (2, SIDE, SIDE, 2)).astype(np.float32)
    logits = network(pixels, training=False).numpy()
    for temperature in (1.0, 2.5):
        directory = tmp_path / f"model-{temperature}"
        save_model(network, replace(spec, temperature=temperature), directory)
        model = Segmenter.load(directory, threads=threads)
        np.testing.assert_allclose(
            model.predict_proba(pixels), softmax(logits / temperature), atol=1e-5
        )
        again = load_network(directory)(pixels, training=False).numpy()
        np.testing.assert_allclose(again, logits, atol=1e-4)
        assert read_spec(directory).temperature == temperature


def test_the_temperature_is_that_of_the_validation_logits_and_the_same_again(spec, store):
    from satseg_ray.train.calibrate import _scored, calibrated

    network = build_network(spec, seed=2)
    reader = store.split("val")
    found = calibrated(spec, network, reader)
    assert found == calibrated(spec, network, reader)
    assert replace(found, temperature=1.0) == spec
    sample = LogitSample.of(_scored(spec, network, reader, range(5)), SIDE * SIDE)
    assert len(sample.truth) == 5 * SIDE * (SIDE - 2)  # two rows of each patch are invalid

    def nll(temperature: float) -> float:
        chances = softmax(sample.logits.astype(float) / temperature)
        return float(-np.log(chances[np.arange(len(sample.truth)), sample.truth]).mean())

    near = [nll(found.temperature * factor) for factor in (0.9, 1.0, 1.1) if found.temperature < 10]
    assert not near or near[1] == min(near)


def test_a_network_of_smaller_patches_is_fitted_on_parts_of_the_stored_ones(spec, store):
    from satseg_ray.train.calibrate import calibrated

    smaller = replace(spec, patch_size=32)
    assert calibrated(smaller, build_network(smaller, seed=2), store.split("val")).temperature > 0


def test_without_validation_patches_it_is_one(spec, store):
    from satseg_ray.train.calibrate import calibrated

    assert calibrated(spec, None, store.split("test")) == spec


def test_a_spec_from_before_there_were_temperatures_has_one(spec):
    body = json.loads(spec.to_json())
    del body["temperature"]
    assert ModelSpec.from_json(json.dumps(body)) == spec
