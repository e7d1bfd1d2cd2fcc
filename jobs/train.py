"""Train a segmentation model on a data set's patches; register it where a name is given."""

from satseg_ray.cli import main
from satseg_ray.config import TrainConfig

if __name__ == "__main__":
    main(TrainConfig, "satseg_ray.train.job:train", __file__)
