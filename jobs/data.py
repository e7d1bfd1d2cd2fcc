"""List, compare and restore versions of data sets: versions | checkout | diff | reproduce."""

import sys

from satseg_ray.cli import main
from satseg_ray.config import DataConfig

if __name__ == "__main__":
    words = sys.argv[1:]
    if words and not words[0].startswith("-"):  # the action may come first, as a word
        words = ["--action", *words]
    main(DataConfig, "satseg_ray.data.versions:data", __file__, words)
