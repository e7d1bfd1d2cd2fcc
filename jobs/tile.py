"""Cut a data set into patches, split by spatial blocks."""

from satseg_ray.cli import main
from satseg_ray.config import TileConfig

if __name__ == "__main__":
    main(TileConfig, "satseg_ray.data.tile:tile", __file__)
