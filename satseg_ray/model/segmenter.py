"""``Segmenter``: a model directory as a function from raw patches to probabilities."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from satseg_ray.errors import BandMismatch, ConfigError
from satseg_ray.model.environment import use_threads
from satseg_ray.model.numerics import NumericsKey, processor_name
from satseg_ray.model.spec import ModelSpec
from satseg_ray.model.store import GRAPH, model_digest, read_spec


class Segmenter:
    """A loaded model that computes batches of one shape; needs neither Keras nor training code.

    Law: the probabilities of a patch are the same bits at any position of any batch, whatever its
    neighbours, under one :meth:`numerics_key`.
    """

    def __init__(self, directory: Path, batch_size: int, threads: int) -> None:
        if batch_size < 1:
            raise ConfigError("batch_size", f"{batch_size} is no batch size", "Use at least 1.")
        self.spec: ModelSpec = read_spec(directory)
        self.batch_size = batch_size
        self.threads = threads
        self._digest = model_digest(directory)
        use_threads(threads)
        self._graph, self._score = _load_graph(directory / GRAPH)

    @classmethod
    def load(
        cls, directory: str | os.PathLike[str], batch_size: int = 4, threads: int = 1
    ) -> Segmenter:
        """Return the model of a directory that :func:`satseg_ray.model.store.save_model` wrote.

        ``batch_size`` is in patches; ``threads`` are the intra-op threads of the whole process.

        Raises:
            ModelVersionNotFound: the directory holds no model.
            ConfigError: TensorFlow already computes with another number of threads.
        """
        return cls(Path(directory), batch_size, threads)

    def predict_proba(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Return probabilities (n, patch, patch, classes) for raw values (n, patch, patch, bands).

        Any number of patches, of any real type; the array returned may be read-only.

        Raises:
            BandMismatch: a patch has another shape than the model's.
        """
        shape = self._patch_shape
        if batch.shape[1:] != shape:
            raise BandMismatch(
                "batch", f"holds patches of shape {batch.shape[1:]}", f"The model takes {shape}."
            )
        starts = range(0, len(batch), self.batch_size)
        scores = [self._predict(batch[start : start + self.batch_size]) for start in starts]
        if len(scores) == 1:
            return scores[0]
        empty = np.empty((0, *shape[:2], len(self.spec.classes)), np.float32)
        return np.concatenate([empty, *scores])

    def numerics_key(self) -> NumericsKey:
        """Return what the bits of this model's probabilities depend on besides the pixels."""
        import tensorflow as tf

        return NumericsKey(
            engine=f"tensorflow {tf.__version__}",
            model=self._digest,
            batch_shape=(self.batch_size, *self._patch_shape),
            threads=self.threads,
            device=_device_name(),
        )

    @property
    def _patch_shape(self) -> tuple[int, int, int]:
        return self.spec.patch_size, self.spec.patch_size, len(self.spec.bands)

    def _predict(self, patches: NDArray[Any]) -> NDArray[np.float32]:
        """Score at most one batch, padded with zero patches: one shape, one order of additions."""
        missing = self.batch_size - len(patches)
        padded = np.pad(patches, [(0, missing), (0, 0), (0, 0), (0, 0)]) if missing else patches
        scores: NDArray[np.float32] = np.asarray(memoryview(self._score(padded)))  # not a copy
        return scores[: len(patches)]


def _load_graph(path: Path) -> tuple[Any, Any]:
    """Return the loaded graph, to be kept alive, and the function from a batch to its scores."""
    import tensorflow as tf

    graph = tf.saved_model.load(str(path))
    signature = graph.signatures["serving_default"]

    def probabilities(pixels: Any) -> Any:
        return signature(pixels=tf.cast(pixels, tf.float32))["probabilities"]

    # Traced once for each type of pixels; the cast is part of the graph, the batch travels raw
    traced = tf.function(probabilities, autograph=False)
    return graph, lambda batch: traced(tf.constant(batch))


def _device_name() -> str:
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return processor_name()
    return str(tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU"))
