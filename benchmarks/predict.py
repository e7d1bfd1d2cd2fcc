"""Prediction of a large scene against the bare model and against a loop written by hand.

Everything runs in one go, so that the ratios hold on a noisy machine. Prints one JSON line.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.scenes import make_scene
from satseg_ray.classes import ClassDef, ClassTable
from satseg_ray.model.spec import ModelSpec

ROOT = Path(__file__).resolve().parent.parent
SIDE = 10240
PATCH, STRIDE, BATCH = 512, 384, 4
MEGAPIXEL = PATCH * PATCH / 1e6


def spec() -> ModelSpec:
    """Return the model of the benchmark: Linknet/mobilenetv2 on RGB, two classes."""
    return ModelSpec(
        architecture="linknet",
        backbone="mobilenetv2",
        bands=("red", "green", "blue"),
        band_indexes=(1, 2, 3),
        dtype="uint8",
        classes=ClassTable((ClassDef(0, "ground", "#886644"), ClassDef(1, "other", "#22AA66"))),
        patch_size=PATCH,
        stride=STRIDE,
        mean=(120.0, 120.0, 120.0),
        std=(40.0, 40.0, 40.0),
        lineage={"dataset_version": "none"},
    )


def main() -> None:
    """Run every part in processes of their own and print the figures."""
    cpus = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="satseg-bench-") as scratch:
        folder = Path(scratch)
        scene = make_scene(folder / "scene.tif", SIDE)
        step("register", str(folder / "workspace"))
        before = bare(folder, cpus)
        by_hand = timed("by_hand", str(folder / "workspace"), str(scene))
        whole = predict(folder, scene)
        after = bare(folder, cpus)
        small = make_scene(folder / "small.tif", SIDE // 2)
        peak_small = predict(folder, small)["result"]["peak_worker_mib"]
        free = {side: without_model(folder, side) for side in (SIDE // 2, SIDE, 2 * SIDE)}
    bare_rate = max((before[k] + after[k]) / 2 for k in before)
    result = whole["result"]
    print(
        json.dumps(
            {
                "benchmark": "predict",
                "steady_over_bare": round(result["patches_per_second"] / bare_rate, 3),
                "whole_over_by_hand": round(by_hand["seconds"] / whole["seconds"], 3),
                "patches_computed_over_lattice": round(
                    result["patches_computed"] / result["patches_of_lattice"], 3
                ),
                "cpu_seconds_per_megapixel_around_a_free_model": free[SIDE],
                "peak_worker_mib": {
                    f"{SIDE // 2} px": peak_small,
                    f"{SIDE} px": result["peak_worker_mib"],
                    "without a model": {
                        f"{side} px": found.pop("peak_worker_mib") for side, found in free.items()
                    },
                },
                "patch_mpx_per_second": {
                    "steady": round(result["patches_per_second"] * MEGAPIXEL, 3),
                    "bare": {
                        k: [round(r[k] * MEGAPIXEL, 3) for r in (before, after)] for k in before
                    },
                },
                "seconds": {"ours": whole["seconds"], "by_hand": by_hand["seconds"]},
                "cpus": cpus,
            }
        )
    )


def without_model(folder: Path, side: int) -> dict[str, float]:
    """Map a scene of so many pixels a side with a model that costs nothing; return the figures."""
    names = {SIDE: "scene", SIDE // 2: "small"}
    scene = make_scene(folder / f"{names.get(side, 'large')}.tif", side)
    figures: dict[str, float] = json.loads(step("free", str(scene), str(folder / f"free-{side}")))
    return figures


def bare(folder: Path, cpus: int) -> dict[str, float]:
    """Return patches a second on arrays in memory: one process of all CPUs, one process a CPU."""
    workspace = str(folder / "workspace")
    one = json.loads(timed("bare", workspace, str(cpus))["stdout"])
    command = [sys.executable, "-m", "benchmarks.predict_parts", "bare", workspace, "1"]
    copies = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        for _ in range(cpus)
    ]
    each = [json.loads(copy.communicate()[0].strip().splitlines()[-1]) for copy in copies]
    return {f"1 x {cpus} threads": one, f"{cpus} x 1 thread": sum(each)}


def predict(folder: Path, scene: Path) -> dict[str, Any]:
    """Run the job as a user does; return its seconds, start-up included, and its result."""
    start = time.monotonic()
    command = [sys.executable, str(ROOT / "jobs" / "predict.py"), "--scene", str(scene)]
    command += ["--model", "bench", "--batch-size", str(BATCH)]
    environment = os.environ | {"SATSEG_WORKSPACE": str(folder / "workspace")}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    seconds = time.monotonic() - start
    return {"seconds": round(seconds, 2), "result": json.loads(done.stdout.splitlines()[-1])}


def timed(part: str, *arguments: str) -> dict[str, Any]:
    """Run a part in a process of its own; return its seconds and the last line it printed."""
    start = time.monotonic()
    line = step(part, *arguments)
    return {"seconds": round(time.monotonic() - start, 2), "stdout": line}


def step(part: str, *arguments: str) -> str:
    """Run a part of ``benchmarks.predict_parts``; return the last line it printed."""
    command = [sys.executable, "-m", "benchmarks.predict_parts", part, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{part} failed: {done.stderr[-3000:]}")
    return (done.stdout.strip().splitlines() or [""])[-1]


if __name__ == "__main__":
    main()
