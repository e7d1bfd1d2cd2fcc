"""IoU of water over all chips, each predicted by a network that has not seen it.

``python -m benchmarks.folds DIRECTORY`` cuts the 12-band chips of a folder into five folds, by a
seed. Each fold is the test of one training, the next one its validation, the other three are
trained on; every fold is a data set of its own. A linear model of single pixels is fitted to the
same chips. The confusion counts of the folds are added, and both are compared over all chips. The
recipe is of a sweep on one split of the same chips. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.baselines import PIXELS, blocks_of, linear, sample, stacked
from benchmarks.quality.sources import FILES
from satseg_ray.cli import call_job
from satseg_ray.model.bootstrap import Resampling, differences, estimates
from satseg_ray.patches.store import PatchStore
from satseg_ray.predict.evaluate import BLOCKS
from satseg_ray.progress import say
from satseg_ray.workspace import Workspace

HERE = Path(__file__).resolve().parent
JOBS = HERE.parents[1] / "jobs"
WATER = HERE.parent / "quality" / "water"
FOLDS = 5


@dataclass(frozen=True)
class Counts:
    """Confusion counts (classes, classes) of each chip, by network and by linear model."""

    network: Mapping[str, Any]
    linear: Mapping[str, Any]


def main(source: Path, seed: int, at_once: int) -> None:
    """Train and measure all folds; print the figures of all chips together."""
    start, workspace = time.monotonic(), Workspace.resolve()
    os.environ["SATSEG_WORKSPACE"] = str(workspace.root)
    folds = folds_of(sorted(path.stem for path in (source / "images").glob("*.tif")), seed)
    with ThreadPoolExecutor(at_once) as pool:
        found = list(
            pool.map(lambda number: measured(number, folds, source, workspace), range(FOLDS))
        )
    network = stacked({name: counts for one in found for name, counts in one.network.items()})
    pixels = stacked({name: counts for one in found for name, counts in one.linear.items()})
    names, how = ("land", "water"), Resampling()
    result = {
        "benchmark": "folds",
        "chips": len(network),
        "network": estimates(network, names, how)["iou_water"].to_dict(),
        "linear": estimates(pixels, names, how)["iou_water"].to_dict(),
        "above_linear": differences(network, pixels, names, how)["iou_water"].to_dict(),
        "seconds": round(time.monotonic() - start, 1),
    }
    print(json.dumps(result))


def folds_of(chips: Sequence[str], seed: int) -> list[list[str]]:
    """Return the chips in ``FOLDS`` parts that differ in size by one at most."""
    shuffled = random.Random(seed).sample(chips, len(chips))
    return [sorted(shuffled[number::FOLDS]) for number in range(FOLDS)]


def measured(
    number: int, folds: Sequence[Sequence[str]], source: Path, workspace: Workspace
) -> Counts:
    """Train on three folds, and return the counts of the chips of the fold ``number``."""
    name = f"water-fold-{number}"
    splits = {chip: "train" for fold in folds for chip in fold}
    splits |= dict.fromkeys(folds[(number + 1) % FOLDS], "val")
    splits |= dict.fromkeys(folds[number], "test")
    files = FILES["water"](source, workspace.root)
    own = ("--dataset", name)
    given = ("--split", json.dumps({"by": "given", "given": splits}))
    scenes = ("--scenes", str(files.scenes), "--labels", str(files.labels))
    call_job(JOBS / "ingest.py", WATER / "ingest.yaml", *own, *scenes)
    call_job(JOBS / "tile.py", HERE / "tile.yaml", *own, *given)
    trained = call_job(JOBS / "train.py", HERE / "train.yaml", *own, "--register", name)
    version = ("--version", trained["registered"]["version"])
    test = (*own, "--model", name, *version, "--output", name)
    figures = call_job(JOBS / "evaluate.py", WATER / "evaluate.yaml", *test)
    say(f"{name}: IoU of water {figures['iou']['water']}")
    store = PatchStore.open(workspace.patches(name))
    values, truth = sample(store.required("train"), store.manifest, PIXELS)
    (network,) = json.loads((workspace.evaluation(name) / BLOCKS).read_text("utf-8")).values()
    return Counts(network, blocks_of(store, "test", linear(values, truth)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("directory", type=Path, help="with images/ and labels/")
    parser.add_argument("--seed", type=int, default=0, help="of the folds")
    parser.add_argument("--at-once", type=int, default=os.cpu_count() or 1)
    flags = parser.parse_args()
    main(flags.directory.resolve(), flags.seed, flags.at_once)
