"""IoU against the share of labels, with and without augmentation and overlap losses.

``python -m benchmarks.limited_labels`` takes the water chips as ``benchmarks.quality water`` has
tiled them (a patch is a chip, so a share of the patches is that share of the labels). Each share is
trained by both recipes of this folder from three seeds, which choose the chips, the first weights
and the order; all trainings have as many steps. They are measured on the test chips. The whole
validation split chooses the epoch and the temperature of each: it is not counted among the labels.
Prints one JSON line.

Each case is measured once: it becomes a line of ``evaluations/limited-labels.jsonl`` in the
workspace, and the same command goes on with those that these patches and recipes lack.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from satseg_ray.cli import call_job
from satseg_ray.lineage import file_digest, value_digest
from satseg_ray.patches.store import PatchManifest
from satseg_ray.progress import say
from satseg_ray.workspace import Workspace

HERE = Path(__file__).resolve().parent
JOBS = HERE.parents[1] / "jobs"
RESULTS = "limited-labels.jsonl"
SHARES = (0.1, 0.25, 0.5, 1.0)
SEEDS = (0, 1, 2)
RECIPES = ("plain", "helped")
WATER = "water"
EVALUATION = HERE.parent / "quality" / WATER / "evaluate.yaml"


class Case(NamedTuple):
    """One training."""

    share: float
    recipe: str
    seed: int

    @property
    def name(self) -> str:
        """Of its registered model and its evaluation."""
        return f"limited-{self.recipe}-{round(100 * self.share)}-{self.seed}"

    @property
    def config(self) -> Path:
        """Of its training."""
        return HERE / f"{self.recipe}.yaml"


@dataclass(frozen=True)
class Results:
    """What was measured, a line for each case, in a file that later starts read."""

    path: Path
    patches: str

    @classmethod
    def of(cls, workspace: Workspace) -> Results:
        """Return those of the patches that a workspace has now."""
        patches = PatchManifest.read(workspace.patches(WATER)).lineage["patches_version"]
        return cls(workspace.root / "evaluations" / RESULTS, patches)

    def found(self, cases: Iterable[Case]) -> dict[Case, float]:
        """Return the IoU of each case that was measured on these patches by its recipe of now."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else ()
        rows = [json.loads(line) for line in lines]
        known = {(row["case"], row["patches"], row["recipe"]): row["iou"] for row in rows}
        keys = {case: tuple(self._key(case).values()) for case in cases}
        return {case: known[key] for case, key in keys.items() if key in known}

    def add(self, case: Case, iou: float) -> None:
        """Append a line, in one write: cases end side by side."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**self._key(case), "iou": iou}) + "\n")

    def _key(self, case: Case) -> dict[str, str]:
        recipe = value_digest([file_digest(path) for path in (case.config, EVALUATION)])
        return {"case": case.name, "patches": self.patches, "recipe": recipe[:16]}


def main(at_once: int = os.cpu_count() or 1) -> None:
    """Train and measure all cases; print the table."""
    start = time.monotonic()
    workspace = Workspace.resolve()
    os.environ["SATSEG_WORKSPACE"] = str(workspace.root)
    cases = [Case(*given) for given in product(SHARES, RECIPES, SEEDS)]
    found = measured_once(cases, Results.of(workspace), at_once)
    table = {str(share): compared(found, share) for share in SHARES}
    result = {"benchmark": "limited labels", "water_iou": table}
    print(json.dumps(result | {"seconds": round(time.monotonic() - start, 1)}))


def measured_once(cases: list[Case], results: Results, at_once: int) -> dict[Case, float]:
    """Measure the cases that have no result; where one fails, begin no other, and raise.

    Raises:
        SystemExit: with the code of the job that failed; results of other cases are kept.
    """
    found = results.found(cases)
    if found:
        say(f"{len(found)} of {len(cases)} cases are in {results.path}")
    with ThreadPoolExecutor(at_once) as pool:
        missing = [case for case in cases if case not in found]
        running = {pool.submit(measured, case, results): case for case in missing}
        try:
            for done in as_completed(running):
                found[running[done]] = done.result()
        except BaseException:  # the end of a job in its thread is SystemExit
            pool.shutdown(wait=False, cancel_futures=True)
            say("no other case begins; those under way go on to their end")
            raise
    return found


def measured(case: Case, results: Results) -> float:
    """Record and return the IoU of water on the test chips after a case's training."""
    flags = ("--train-share", str(case.share), "--seed", str(case.seed), "--register", case.name)
    trained = call_job(JOBS / "train.py", case.config, *flags)
    version = trained["registered"]["version"]
    test = ("--model", case.name, "--version", version, "--output", case.name)
    iou = float(call_job(JOBS / "evaluate.py", EVALUATION, *test)["iou"][WATER])
    results.add(case, iou)
    say(f"{case.name}: {iou:.4f}")
    return iou


def compared(found: Mapping[Case, float], share: float) -> dict[str, Any]:
    """Return both recipes at a share, and how much the second is above the first.

    ``gain`` is paired: of a seed both recipes are given the same chips.
    """
    ious = {name: [found[Case(share, name, seed)] for seed in SEEDS] for name in RECIPES}
    plain, helped = (ious[name] for name in RECIPES)
    gain = [other - own for own, other in zip(plain, helped, strict=True)]
    return {name: summary(own) for name, own in (ious | {"gain": gain}).items()}


def summary(ious: list[float]) -> dict[str, Any]:
    """Return each seed's figure, their mean and its standard error."""
    error = statistics.stdev(ious) / len(ious) ** 0.5
    return {"seeds": ious, "mean": statistics.fmean(ious), "standard_error": error}


if __name__ == "__main__":
    main()
