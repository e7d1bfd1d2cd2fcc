"""Run the benchmarks one after the other; each prints one JSON line on stdout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

NAMES = ("predict", "tile", "tile_gigapixel", "train")


def main() -> None:
    """Run each in a process of its own; stop at the first that fails."""
    for name in NAMES:
        print(f"benchmarks.{name} ...", file=sys.stderr, flush=True)
        done = subprocess.run(
            [sys.executable, "-m", f"benchmarks.{name}"],
            cwd=Path(__file__).resolve().parent.parent,
            check=False,
        )
        if done.returncode:
            sys.exit(done.returncode)


if __name__ == "__main__":
    main()
