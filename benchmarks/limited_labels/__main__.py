"""IoU against the share of labels, with and without augmentation and overlap losses.

``python -m benchmarks.limited_labels`` takes the water chips as ``benchmarks.quality water`` has
tiled them (a patch is a chip, so a share of the patches is that share of the labels). Each share is
trained by both recipes of this folder from three seeds, which choose the chips, the first weights
and the order; all trainings have as many steps. They are measured on the test chips. The whole
validation split chooses the epoch and the temperature of each: it is not counted among the labels.
Prints one JSON line.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from satseg_ray.cli import call_job
from satseg_ray.progress import say
from satseg_ray.workspace import Workspace

HERE = Path(__file__).resolve().parent
JOBS = HERE.parents[1] / "jobs"
SHARES = (0.1, 0.25, 0.5, 1.0)
SEEDS = (0, 1, 2)
RECIPES = ("plain", "helped")
WATER = "water"


class Case(NamedTuple):
    """One training."""

    share: float
    recipe: str
    seed: int

    @property
    def name(self) -> str:
        """Of its registered model and its evaluation."""
        return f"limited-{self.recipe}-{round(100 * self.share)}-{self.seed}"


def main(at_once: int = os.cpu_count() or 1) -> None:
    """Train and measure all cases; print the table."""
    start = time.monotonic()
    os.environ["SATSEG_WORKSPACE"] = str(Workspace.resolve().root)
    cases = [Case(*given) for given in product(SHARES, RECIPES, SEEDS)]
    with ThreadPoolExecutor(at_once) as pool:
        found = dict(zip(cases, pool.map(measured, cases), strict=True))
    table = {
        str(share): {
            recipe: summary([found[Case(share, recipe, seed)] for seed in SEEDS])
            for recipe in RECIPES
        }
        for share in SHARES
    }
    result = {"benchmark": "limited labels", "water_iou": table}
    print(json.dumps(result | {"seconds": round(time.monotonic() - start, 1)}))


def measured(case: Case) -> float:
    """Return the IoU of water on the test chips after a case's training."""
    flags = ("--train-share", str(case.share), "--seed", str(case.seed), "--register", case.name)
    trained = call_job(JOBS / "train.py", HERE / f"{case.recipe}.yaml", *flags)
    version = trained["registered"]["version"]
    test = ("--model", case.name, "--version", version, "--output", case.name)
    settings = HERE.parent / "quality" / WATER / "evaluate.yaml"
    iou = float(call_job(JOBS / "evaluate.py", settings, *test)["iou"][WATER])
    say(f"{case.name}: {iou:.4f}")
    return iou


def summary(ious: list[float]) -> dict[str, Any]:
    """Return each seed's IoU, their mean and its standard error."""
    error = statistics.stdev(ious) / len(ious) ** 0.5
    return {"seeds": ious, "mean": statistics.fmean(ious), "standard_error": error}


if __name__ == "__main__":
    main()
