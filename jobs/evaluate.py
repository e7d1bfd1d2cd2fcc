"""Measure registered models on a split, or on a scene with labels, and compare them."""

from satseg_ray.cli import main
from satseg_ray.config import EvaluateConfig

if __name__ == "__main__":
    main(EvaluateConfig, "satseg_ray.predict.evaluate:evaluate", __file__)
