"""Quality on real imagery, from random weights: one command for each data set.

``python -m benchmarks.quality NAME DIRECTORY`` takes the folder of a data set (dubai, water,
belgium or kampala) and runs the jobs with the configurations in ``benchmarks/quality/NAME``:
ingest, tile, a training or a sweep, evaluate, and predict where a map is worth a look; then a
linear model of single pixels and the commonest class on the same test blocks. Prints one JSON line.

The sweep goes on where it was if the command is given again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.quality.sources import FILES
from satseg_ray.cli import call_job
from satseg_ray.progress import say
from satseg_ray.workspace import Workspace

HERE = Path(__file__).resolve().parent
JOBS = HERE.parents[1] / "jobs"


def main(name: str, source: Path, only: str | None) -> None:
    """Prepare, train, measure; print the figures."""
    start = time.monotonic()
    workspace = Workspace.resolve().root
    os.environ["SATSEG_WORKSPACE"] = str(workspace)
    files = FILES[name](source, workspace / "sources" / name)
    run = Jobs(name)
    if only != "train":
        run("ingest", "--scenes", str(files.scenes), "--labels", str(files.labels))
        run("tile")
    if only == "data":
        return
    trained = run("tune" if (HERE / name / "tune.yaml").is_file() else "train")
    version = ("--version", str(trained["registered"]["version"]))
    evaluated = run("evaluate", *version)
    if files.shown:
        say(f"map: {run('predict', '--scene', str(files.shown), *version)['quicklook']}")
    print(
        json.dumps(
            {
                "benchmark": f"quality of {name}",
                **{key: evaluated[key] for key in ("mean_iou", "iou", "accuracy", "pixels")},
                "intervals": evaluated.get("intervals"),
                "best": trained.get("best"),
                "training_seconds": trained["seconds"],
                "baselines": baselines(name),
                "seconds": round(time.monotonic() - start, 1),
            }
        )
    )


class Jobs:
    """The jobs with the configurations of one data set."""

    def __init__(self, name: str) -> None:
        self._configs = HERE / name

    def __call__(self, job: str, *flags: str) -> dict[str, Any]:
        """Run one job and return its result."""
        return call_job(JOBS / f"{job}.py", self._configs / f"{job}.yaml", *flags)


def baselines(name: str) -> Mapping[str, Any]:
    """Return the figures of what needs no network, on the blocks of the evaluation."""
    command = [sys.executable, "-m", "benchmarks.baselines", name, "--evaluation", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: Mapping[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("name", choices=FILES)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--only", choices=("data", "train"), help="the data, or all but the data")
    given = parser.parse_args()
    main(given.name, given.directory.resolve(), given.only)
