"""Quality on real imagery: a U-Net from random weights on the Dubai land cover, by one command.

``python -m benchmarks.dubai_quality DIRECTORY`` takes the folder of the data set (areas of 3 x 3
parts each), joins the parts of areas 1 to 6, and runs the five jobs. Prints one JSON line.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import yaml
from PIL import Image

from satseg_ray.classes import ClassDef, ClassTable
from satseg_ray.cli import call_job
from satseg_ray.geo.labels import LabelReader, LabelRule
from satseg_ray.geo.quicklook import colored
from satseg_ray.geo.raster import SceneReader, inspect_raster
from satseg_ray.workspace import Workspace

HERE = Path(__file__).resolve().parent
JOBS = HERE.parent / "jobs"
AREAS = range(1, 7)


def main(source: Path) -> None:
    """Join, train, evaluate, predict; print the figures."""
    start = time.monotonic()
    workspace = Workspace.resolve().root
    os.environ["SATSEG_WORKSPACE"] = str(workspace)
    images, labels = workspace / "dubai" / "images", workspace / "dubai" / "labels"
    for folder in (images, labels):
        folder.mkdir(parents=True, exist_ok=True)
    for area in AREAS:
        join(source / f"tile_{area}", images / f"area_{area}.png", labels / f"area_{area}.png")
    results = {
        "ingest": job("ingest", "--scenes", f"{images}/*.png", "--labels", f"{labels}/*.png"),
        "tile": job("tile"),
        "train": job("train"),
        "evaluate": job("evaluate"),
        "predict": job("predict", "--scene", str(images / "area_5.png")),
    }
    print(
        json.dumps(
            {
                "benchmark": "dubai quality",
                "mean_iou": results["evaluate"]["mean_iou"],
                "iou": results["evaluate"]["iou"],
                "accuracy": results["evaluate"]["accuracy"],
                "test_pixels": results["evaluate"]["pixels"],
                "training_seconds": results["train"]["seconds"],
                "seconds": round(time.monotonic() - start, 1),
                "map": results["predict"]["map"],
            }
        )
    )


def job(name: str, *flags: str) -> dict[str, object]:
    """Run one job with this benchmark's configuration of it."""
    return call_job(JOBS / f"{name}.py", HERE / "dubai" / f"{name}.yaml", *flags)


def join(area: Path, image: Path, labels: Path) -> None:
    """Join the nine parts of an area; palettes differ from part to part, so labels by class."""
    settings = yaml.safe_load((HERE / "dubai" / "ingest.yaml").read_text(encoding="utf-8"))
    table = ClassTable(tuple(ClassDef(**row) for row in settings["classes"]))
    rule = LabelRule(table, tuple(settings["ignore"]), "color")
    numbers = range(1, 10)
    pixels = [read_image(area / "images" / f"image_part_{i:03d}.jpg") for i in numbers]
    classes = [read_labels(area / "masks" / f"image_part_{i:03d}.png", rule) for i in numbers]
    Image.fromarray(grid(pixels)).save(image)
    Image.fromarray(colored(grid(classes), table)).save(labels)


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """Return an image (rows, columns, 3)."""
    with SceneReader(path) as reader:
        return np.moveaxis(reader.read(reader.info.window).pixels, 0, -1)


def read_labels(path: Path, rule: LabelRule) -> npt.NDArray[np.uint8]:
    """Return class indexes (rows, columns)."""
    with LabelReader(str(path), rule) as reader:
        return reader.read(inspect_raster(path).window)


def grid(parts: list[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    """Return nine parts in row-major order as one array."""
    rows = [np.concatenate(parts[i : i + 3], axis=1) for i in (0, 3, 6)]
    return np.concatenate(rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
