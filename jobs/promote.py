"""Make a registered model's challenger its champion if it is better, or take that back."""

from satseg_ray.cli import main
from satseg_ray.config import PromoteConfig

if __name__ == "__main__":
    main(PromoteConfig, "satseg_ray.predict.promotion:promote", __file__)
