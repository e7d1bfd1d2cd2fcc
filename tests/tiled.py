"""Ingest and tile on a Ray of so many CPUs in this process; print digests and profiles as JSON."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import ray
import yaml

from satseg_ray.config import IngestConfig, TileConfig
from satseg_ray.data.ingest import ingest
from satseg_ray.data.tile import tile
from satseg_ray.drift.profile import PROFILE, BandProfile
from satseg_ray.lineage import file_digest
from satseg_ray.patches.sample import SampleSpec
from satseg_ray.workspace import Workspace


def main(workers: int, config: Path, workspace: Path) -> None:
    """Make a data set and its patches with ``workers`` workers and digest every file."""
    os.environ["SATSEG_WORKSPACE"] = str(workspace)
    ray.init(address="local", num_cpus=workers, include_dashboard=False, log_to_driver=False)
    ingest(IngestConfig.model_validate(yaml.safe_load(config.read_text())))
    sample = SampleSpec(rare=["water"], rare_per_cell=2)
    tile(TileConfig(dataset="toy", patch_size=32, stride=16, unit=256, sample=sample))
    made = Workspace.resolve()
    folders = [made.raw("toy"), made.patches("toy")]
    files = sorted(p for folder in folders for p in folder.rglob("*") if p.is_file())
    root = made.root
    print(
        json.dumps(
            {
                "files": {
                    str(p.relative_to(root)): file_digest(p) for p in files if p.name != PROFILE
                },
                "profiles": [
                    {n: asdict(s) for n, s in BandProfile.read(f / PROFILE).summary().items()}
                    for f in folders
                ],
            }
        )
    )
    ray.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
