"""Run the benchmarks one after the other; each prints one JSON line on stdout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

RUNS = (
    "predict",
    "tile",
    "tile_gigapixel",
    "train",
    # Small, with many epochs: what is held must not grow with them
    "train --memory 9 --architecture linknet --backbone mobilenetv2 --patch 64 --batch 4 --steps 6",
)


def main() -> None:
    """Run each in a process of its own; stop at the first that fails."""
    for run in RUNS:
        print(f"benchmarks.{run} ...", file=sys.stderr, flush=True)
        name, *options = run.split()
        done = subprocess.run(
            [sys.executable, "-m", f"benchmarks.{name}", *options],
            cwd=Path(__file__).resolve().parent.parent,
            check=False,
        )
        if done.returncode:
            sys.exit(done.returncode)


if __name__ == "__main__":
    main()
