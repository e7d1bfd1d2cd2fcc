"""Search the settings of a training on a data set; register the best where a name is given."""

from satseg_ray.cli import main
from satseg_ray.tune.config import TuneConfig

if __name__ == "__main__":
    main(TuneConfig, "satseg_ray.tune.sweep:tune", __file__)
