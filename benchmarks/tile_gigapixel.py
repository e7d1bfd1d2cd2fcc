"""Tiling of a gigapixel scene against rasterio alone, and the workers' memory by its size.

The job and one process that reads the same windows of image and labels take turns, so that the
ratio holds on a noisy machine. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Any

import psutil
import rasterio
import yaml
from rasterio.windows import Window

from benchmarks.scenes import COMPRESSIONS, make_blobs, make_mosaic
from satseg_ray.cli import call_job

ROOT = Path(__file__).resolve().parent.parent
CLASSES = 4


def main() -> None:
    """Tile scenes of each side and print the figures."""
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="satseg-bench-", dir=options.scratch) as scratch:
        runs = [
            tiled(Path(scratch), side, compression, options)
            for compression in options.compression
            for side in options.sides
        ]
    figures = {
        "benchmark": "tile_gigapixel",
        "patch": options.patch,
        "stride": options.stride or options.patch,
        "unit": options.unit,
        "cpus": len(os.sched_getaffinity(0)),
        "runs": runs,
    }
    print(json.dumps(figures))


def arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=[10240, 32768], help="in pixels")
    parser.add_argument("--compression", nargs="+", default=["deflate"], choices=COMPRESSIONS)
    parser.add_argument("--patch", type=int, default=256)
    parser.add_argument("--stride", type=int, help="by default that of the patches")
    parser.add_argument("--unit", type=int, default=4096)
    parser.add_argument("--turns", type=int, default=2, help="of the job and of the bare loop")
    parser.add_argument("--scratch", help="where the scenes and patches lie meanwhile")
    parser.add_argument("--read", nargs=2, help=argparse.SUPPRESS)  # the bare loop's own process
    parser.add_argument("--share", type=int, nargs=2, default=[0, 1], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        scene, labels = (Path(path) for path in options.read)
        print(json.dumps(read_windows(scene, labels, options.unit, options.share)))
        sys.exit()
    return options


def tiled(
    scratch: Path, side: int, compression: str, options: argparse.Namespace
) -> dict[str, Any]:
    """Ingest and tile one scene, and return its figures."""
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder = Path(name)
        scene = make_mosaic(folder / "scene.tif", side, compression)
        labels = make_blobs(folder / "labels" / "scene.tif", side, CLASSES)
        os.environ["SATSEG_WORKSPACE"] = str(folder / "workspace")
        call_job(ROOT / "jobs" / "ingest.py", write_config(folder, scene, labels))
        (folder / "tile.yaml").write_text("dataset: bench\n", encoding="utf-8")
        bare, jobs = [], []
        for _ in range(options.turns):
            bare.append(read_alone(scene, labels, options.unit))
            with watched() as peak:
                jobs.append(run_tile(folder, options))
        bare.append(read_alone(scene, labels, options.unit))
        both = read_in_two(scene, labels, options.unit)
        patches = folder / "workspace" / "data" / "patches" / "bench"
        held = sum(file.stat().st_size for file in patches.rglob("*.parquet"))
        source = scene.stat().st_size + labels.stat().st_size
    return figures(side, bare, jobs) | {
        "compression": compression,
        "bare_mpx_per_second_of_two": round(side**2 / 1e6 / both, 1),
        "peak_worker_mib": peak.get("worker", 0) >> 20,
        "peak_driver_mib": peak.get("driver", 0) >> 20,
        "bytes_per_pixel": {
            "source": round(source / side**2, 2),
            "patches": round(held / side**2, 2),
        },
    }


def figures(side: int, bare: list[dict[str, float]], jobs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return megapixels a second of both, and their ratio for each core."""
    megapixels = side * side / 1e6
    cores = min(len(os.sched_getaffinity(0)), 2)
    alone = megapixels / median(turn["seconds"] for turn in bare)
    rates = {
        name: megapixels / median(job[key] for job in jobs)
        for name, key in (
            ("steady", "busy_seconds"),
            ("work", "work_seconds"),
            ("whole", "seconds"),
        )
    }
    return {
        "side": side,
        "gigapixels": round(megapixels / 1000, 3),
        "bare_mpx_per_second": round(alone, 1),
        "bare_seconds": [round(turn["seconds"], 2) for turn in bare],
        "busy_seconds": [job["busy_seconds"] for job in jobs],
        "mpx_per_second": {name: round(rate, 1) for name, rate in rates.items()},
        "over_bare_per_core": {
            name: round(rate / cores / alone, 3) for name, rate in rates.items()
        },
        "patches": sum(split["patches"] for split in jobs[-1]["counts"].values()),
    }


def run_tile(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run the job once."""
    flags = {
        "patch-size": options.patch,
        "stride": options.stride or options.patch,
        "unit": options.unit,
    }
    given = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
    return call_job(ROOT / "jobs" / "tile.py", folder / "tile.yaml", *given)


def read_alone(scene: Path, labels: Path, unit: int) -> dict[str, float]:
    """Run :func:`read_windows` in a process of its own."""
    return _figures_of(_reader(scene, labels, unit, (0, 1)))


def read_in_two(scene: Path, labels: Path, unit: int) -> float:
    """Run :func:`read_windows` in two processes, each of half the units; return the seconds."""
    readers = [_reader(scene, labels, unit, (number, 2)) for number in range(2)]
    return max(_figures_of(reader)["seconds"] for reader in readers)


def _reader(scene: Path, labels: Path, unit: int, share: tuple[int, int]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.tile_gigapixel", "--unit", str(unit)]
    command += ["--share", *map(str, share), "--read", str(scene), str(labels)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def _figures_of(reader: subprocess.Popen[str]) -> dict[str, float]:
    text, _ = reader.communicate()
    if reader.returncode:
        raise subprocess.CalledProcessError(reader.returncode, reader.args)
    found: dict[str, float] = json.loads(text)
    return found


def read_windows(scene: Path, labels: Path, unit: int, share: tuple[int, int]) -> dict[str, float]:
    """Read units of both rasters by rasterio; return seconds, its own and the processor's.

    ``share`` is the number of this process and of all that read.
    """
    start, before = monotonic(), resource.getrusage(resource.RUSAGE_SELF)
    first, step = share
    with rasterio.open(scene) as image, rasterio.open(labels) as mask:
        rows, cols = range(0, image.height, unit), range(0, image.width, unit)
        for row, col in [(row, col) for row in rows for col in cols][first::step]:
            height, width = min(unit, image.height - row), min(unit, image.width - col)
            window = Window(col, row, width, height)
            image.read(window=window)
            mask.read(1, window=window)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": monotonic() - start, "cpu": cpu}


@contextmanager
def watched() -> Iterator[dict[str, int]]:
    """Give the peak memory in bytes of this process's Ray workers and of the job itself."""
    peak: dict[str, int] = {}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            for process in psutil.Process().children(recursive=True):
                kind, held = _memory(process)
                peak[kind] = max(peak.get(kind, 0), held)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def _memory(process: psutil.Process) -> tuple[str, int]:
    """Return what a process is to the job, and the most memory that it has ever held."""
    try:
        title = " ".join(process.cmdline())
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    except (psutil.Error, OSError):
        return "gone", 0
    held = next((line.split()[1] for line in status.splitlines() if line[:6] == "VmHWM:"), "0")
    kind = "worker" if title.startswith("ray::") else "driver" if "tile.py" in title else "other"
    return kind, int(held) << 10


def write_config(folder: Path, scene: Path, labels: Path) -> Path:
    """Write the config of the ingest job; the scene stays where it is."""
    config = {
        "dataset": "bench",
        "scenes": [str(scene)],
        "labels": [str(labels)],
        "classes": [{"value": value, "name": f"class {value}"} for value in range(CLASSES)],
        "by_reference": True,
    }
    path = folder / "ingest.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
