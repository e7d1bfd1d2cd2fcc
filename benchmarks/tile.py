"""Tiling: source megapixels a second of the job, and of one plain pass of GDAL over the scene."""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
import yaml

from benchmarks.scenes import make_scene
from satseg_ray.cli import call_job
from satseg_ray.geo.raster import check_whole

JOBS = Path(__file__).resolve().parent.parent / "jobs"
SIDE = 8192


def main() -> None:
    """Ingest and tile a scene as a user does; print the figures."""
    with tempfile.TemporaryDirectory(prefix="satseg-bench-") as scratch:
        folder = Path(scratch)
        os.environ["SATSEG_WORKSPACE"] = str(folder / "workspace")
        scene, labels = make_scene(folder / "scene.tif", SIDE), folder / "labels.tif"
        write_labels(scene, labels)
        start = time.monotonic()
        check_whole(scene)
        reading = time.monotonic() - start
        ingested = call_job(JOBS / "ingest.py", write_config(folder, scene, labels))
        (folder / "tile.yaml").write_text("dataset: bench\n", encoding="utf-8")
        flags = ("--patch-size", "256", "--stride", "256")
        tiled = call_job(JOBS / "tile.py", folder / "tile.yaml", *flags)
    megapixels = SIDE * SIDE / 1e6
    patches = sum(split["patches"] for split in tiled["counts"].values())
    print(
        json.dumps(
            {
                "benchmark": "tile",
                "source_mpx_per_second": round(megapixels / tiled["work_seconds"], 2),
                "with_start_up": round(megapixels / tiled["seconds"], 2),
                "plain_read": round(megapixels / reading, 2),
                "ingest": round(megapixels / ingested["seconds"], 2),
                "patches": patches,
                "cpus": len(os.sched_getaffinity(0)),
            }
        )
    )


def write_labels(scene: Path, labels: Path) -> None:
    """Write a label raster on the scene's grid: a chequer of two classes with ragged borders."""
    rng = np.random.default_rng(0)
    with rasterio.open(scene) as file:
        profile = file.profile | {"count": 1, "photometric": "minisblack", "predictor": 1}
    with rasterio.open(labels, "w", **profile) as file:
        for _, window in file.block_windows(1):
            coarse = rng.integers(0, 2, (window.height // 16 + 1, window.width // 16 + 1))
            block = coarse.repeat(16, 0).repeat(16, 1)[: window.height, : window.width]
            file.write(block.astype(np.uint8), 1, window=window)


def write_config(folder: Path, scene: Path, labels: Path) -> Path:
    """Write the config of the ingest job."""
    config = {
        "dataset": "bench",
        "scenes": [str(scene)],
        "labels": [str(labels)],
        "classes": [{"value": 0, "name": "off"}, {"value": 1, "name": "on"}],
    }
    path = folder / "ingest.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
