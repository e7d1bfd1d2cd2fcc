"""Make a map of one scene with a registered model."""

from satseg_ray.cli import main
from satseg_ray.config import PredictConfig

if __name__ == "__main__":
    main(PredictConfig, "satseg_ray.predict.scene:predict", __file__)
