"""Bring scenes and label rasters into the workspace as a data set."""

from satseg_ray.cli import main
from satseg_ray.config import IngestConfig

if __name__ == "__main__":
    main(IngestConfig, "satseg_ray.data.ingest:ingest", __file__)
