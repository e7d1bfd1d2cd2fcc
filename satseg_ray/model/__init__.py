"""Models: what they are, how they score and how well; importing this never imports TensorFlow.

What needs TensorFlow is imported from its own module: ``network.build_network``,
``store.save_model``, ``segmenter.Segmenter``.
"""

from satseg_ray.model.metrics import Confusion
from satseg_ray.model.numerics import NumericsKey
from satseg_ray.model.protocol import Model
from satseg_ray.model.spec import ModelSpec

__all__ = ["Confusion", "Model", "ModelSpec", "NumericsKey"]
