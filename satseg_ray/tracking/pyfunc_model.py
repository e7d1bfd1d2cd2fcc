"""The registered model as code: MLflow copies this file beside the graph and runs it to load it.

It imports nothing of satseg_ray and is never imported by it.
"""

from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

_BATCH = 4


class SegmentationModel(PythonModel):
    """Raw band values (N, H, W, bands) in, probabilities float32 (N, H, W, classes) out."""

    def load_context(self, context: Any) -> None:
        """Load the graph; TensorFlow alone is enough for it."""
        import tensorflow as tf

        self._graph = tf.saved_model.load(f"{context.artifacts['model']}/saved_model")

    # No type hints: MLflow would read them as another signature than the model's
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Return the probabilities of all patches, computed in batches of four."""
        score = self._graph.signatures["serving_default"]
        pixels = np.asarray(model_input)
        batches = [pixels[start : start + _BATCH] for start in range(0, len(pixels), _BATCH)]
        scores = [score(pixels=_tensor(batch))["probabilities"].numpy() for batch in batches]
        return np.concatenate(scores)


def _tensor(batch: Any) -> Any:
    import tensorflow as tf

    return tf.constant(batch, tf.float32)


set_model(SegmentationModel())
