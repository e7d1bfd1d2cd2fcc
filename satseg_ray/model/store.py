"""Models on disk: the spec, the weights to train on, and a graph that needs TensorFlow alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from satseg_ray.errors import ModelVersionNotFound, UnwritableProduct, told
from satseg_ray.lineage import file_digest, value_digest
from satseg_ray.model.network import Network, build_network
from satseg_ray.model.spec import ModelSpec
from satseg_ray.products import fresh_directory

SPEC = "spec.json"
WEIGHTS = "weights.h5"
GRAPH = "saved_model"


def save_model(network: Network, spec: ModelSpec, directory: Path) -> None:
    """Write a network as a model directory, whole or not at all; an older one is replaced.

    ``spec.json`` holds the spec, ``weights.h5`` the weights, and ``saved_model`` the graph from
    raw band values ``pixels`` float32 (N, H, W, bands) to ``probabilities`` float32
    (N, H, W, classes), weights and temperature included, that TensorFlow loads without this
    package.

    Raises:
        UnwritableProduct: there is no space for it, or no right to write; an older one stays.
    """
    import tensorflow as tf

    with fresh_directory(directory) as scratch:
        spec.write(scratch / SPEC)
        # What h5py has still to write when it closes the file comes as RuntimeError
        with _written(directory / WEIGHTS, RuntimeError):
            network.save_weights(scratch / WEIGHTS)
        with _written(directory / GRAPH, tf.errors.OpError):
            _write_graph(network, spec.temperature, scratch / GRAPH)


def load_network(directory: Path) -> Network:
    """Return the network of a model directory, logits out, to evaluate or to train on.

    Raises:
        ModelVersionNotFound: the directory holds no model.
    """
    network = build_network(read_spec(directory), seed=0)
    network.load_weights(directory / WEIGHTS)
    return network


def read_spec(directory: Path) -> ModelSpec:
    """Return the spec of a model directory.

    Raises:
        ModelVersionNotFound: the directory holds no model.
    """
    if not (directory / SPEC).is_file():
        raise ModelVersionNotFound(directory, f"has no {SPEC}", "Name a directory with a model.")
    return ModelSpec.read(directory / SPEC)


def model_digest(directory: Path) -> str:
    """Return the SHA-256 of a model's weights and spec as hex."""
    return value_digest([file_digest(directory / name) for name in (SPEC, WEIGHTS)])


@contextmanager
def _written(path: Path, failure: type[Exception]) -> Iterator[None]:
    """Turn what a library says of a file that it cannot write into one error, with the path.

    Raises:
        UnwritableProduct: for ``failure``, or for an ``OSError`` with or without a number.
    """
    try:
        yield
    except (OSError, failure) as error:
        said = getattr(error, "message", None) or told(error)
        raise UnwritableProduct(
            path, f"cannot be written ({said})", "Look at the disk's space and rights."
        ) from error


def _write_graph(network: Network, temperature: float, path: Path) -> None:
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    def scores(pixels: Any) -> Any:
        logits = network(pixels, training=False)
        return tf.nn.softmax(logits if temperature == 1 else logits / temperature)

    def named(pixels: Any) -> dict[str, Any]:
        return {"probabilities": frozen(pixels)[0]}

    pixels = tf.TensorSpec(network.input_shape, tf.float32, name="pixels")
    traced = tf.function(scores, autograph=False).get_concrete_function(pixels)
    # Constants load faster than variables, and the optimiser folds batch normalisation into them
    frozen = convert_variables_to_constants_v2(traced)
    module = tf.Module()
    module.probabilities = tf.function(named, input_signature=[pixels], autograph=False)
    tf.saved_model.save(module, str(path), signatures=module.probabilities)
